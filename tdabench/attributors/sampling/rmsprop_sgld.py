"""SGLD with RMSprop's preconditioner."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.sampling.preconditioner import measure_preconditioner, require_preconditioner
from tdabench.attributors.sampling.walker import Walker

DECAY = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSpropSGLD:
    r"""Preconditioned SGLD (Li et al., 2015, arXiv:1512.07666).

    .. math:: w' = w - \tfrac{\epsilon}{2} G (n\beta \nabla L_B(w) + \gamma (w - w^*)) + \sqrt{\epsilon G} \xi,
        \qquad \xi \sim N(0, I), \qquad G = \frac{\lambda}{\lambda + \sqrt{V}}

    The preconditioner multiplies the whole gradient, the localization's too, and the noise: the law that small steps
    sample is the same as SGLD's, localized in the Euclidean metric.

    ``frozen``: :math:`V` is the mean square of minibatch gradients at the checkpoint. On a quadratic loss of precision
    :math:`A = n\beta H + \gamma I` the stationary covariance is :math:`(A - \tfrac{\epsilon}{4} A G A)^{-1}`:
    exact for small steps.

    ``adaptive``: :math:`V` starts there and follows the chain, :math:`V' = \alpha V + (1 - \alpha) g \odot g`, each
    step with the gradients before it. As usual (devinterp, and Li et al. in their experiments) the drift
    :math:`\tfrac{\epsilon}{2} \partial_w G` is left out: the law that small steps sample is then
    :math:`e^{-U} / \mathbb{E}[G | w]` in each parameter, wider than :math:`e^{-U}`, since gradients grow away from the
    optimum. Measured on quadratic losses without minibatch noise (:math:`\epsilon A = 0.05`, :math:`\gamma` half of
    :math:`A`, :math:`\lambda` equal to the gradient at the checkpoint), its variance is too large by 32 % at
    :math:`\alpha = 0` (the exact law: 33 %), 25 % at 0.9, 8 % at 0.99 and 0 % at 0.999; where minibatch noise makes
    up nine tenths of :math:`V`, so that :math:`G` hardly varies, by 1 to 3 % beyond the heat of that noise. The drift
    of Li et al. takes the derivative of the last gradient only, whereas :math:`V` remembers
    :math:`1 / (1 - \alpha)` of them along a path that is itself correlated: it cures :math:`\alpha = 0` and changes
    nothing at 0.99. Where the law matters, use ``frozen``.

    Attributes:
        step_size: As for ``SGLD``, and so are the next two.
        preconditioner: ``frozen`` or ``adaptive``.
        preconditioner_steps: Minibatch gradients at the checkpoint that :math:`V` is measured from; None: 100.
        stability: :math:`\lambda`, relative to the root mean square of those gradients' entries; None: 1.
        decay: :math:`\alpha` of ``adaptive``, in [0, 1); None: 0.99.
    """

    step_size: float
    inverse_temperature: float
    localization: float
    preconditioner: str = "frozen"
    preconditioner_steps: int | None = None
    stability: float | None = None
    decay: float | None = None
    markov: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_preconditioner(self.preconditioner_steps, self.stability)
        if self.preconditioner not in ("frozen", "adaptive"):
            raise ValueError(
                f"preconditioner of sampler rmsprop_sgld must be frozen or adaptive, got {self.preconditioner!r}."
            )
        if self.decay is not None and not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}.")
        if self.decay is not None and self.preconditioner != "adaptive":
            raise ValueError(f"decay is for preconditioner: adaptive, which alone follows the chain; got {self.decay}.")

    def start(self, walker: Walker) -> Callable[[], Float[Tensor, ""]]:
        """Measure the preconditioner, and return the function that steps; see ``Sampler``.

        Raises:
            ValueError: If all gradients at the checkpoint are zero.
        """
        metric = measure_preconditioner(walker, steps=self.preconditioner_steps, stability=self.stability)
        frozen, noise = metric.strength(), torch.empty_like(walker.position)
        decay = DECAY if self.decay is None else self.decay

        def step() -> Float[Tensor, ""]:
            minibatch_loss, strength = walker.measure_gradient(), frozen
            if self.preconditioner == "adaptive":
                # Before this gradient counts: a minibatch must not choose the length of its own step.
                strength = metric.strength()
                metric.follow(walker.gradient, decay=decay)
            walker.tilt_gradient(self.inverse_temperature, self.localization)
            noise.normal_(std=self.step_size**0.5, generator=walker.generator)
            walker.position.addcmul_(strength, walker.gradient, value=-self.step_size / 2)
            walker.position.addcmul_(strength.sqrt(), noise)
            return minibatch_loss

        return step

    def metric(self, walker: Walker) -> Float[Tensor, " parameter"]:
        """Measure the preconditioner's diagonal at the checkpoint."""
        return measure_preconditioner(walker, steps=self.preconditioner_steps, stability=self.stability).strength()
