"""Underdamped Langevin dynamics: a walker with momentum."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.sampling.preconditioner import measure_preconditioner, require_preconditioner
from tdabench.attributors.sampling.walker import Walker


@dataclasses.dataclass(frozen=True, kw_only=True)
class BAOAB:
    r"""Underdamped Langevin dynamics by BAOAB (Leimkuhler & Matthews, 2013, arXiv:1203.5428).

    .. math::
        v' &= v - h \sqrt{G} (n\beta \nabla L_B(w) + \gamma (w - w^*)), \\
        v'' &= e^{-f} v' + \sqrt{1 - e^{-2f}} \xi, \qquad \xi \sim N(0, I), \\
        w' &= w + \tfrac{h}{2} \sqrt{G} (v' + v''), \qquad h = \sqrt{\epsilon}

    The last half kick of a step and the first of the next are taken as one, with the same minibatch: one gradient a
    step. At great friction it is SGLD whose noises are means of two successive ones, hence the meaning of
    :math:`\epsilon`.

    On a quadratic loss of precision :math:`A = n\beta H + \gamma I` the stationary covariance of the positions is
    :math:`A^{-1}`, whatever the step size (SGLD's is wider) and the friction. The noise of minibatches, variance
    :math:`\sigma^2` of :math:`n\beta \nabla L_B` along an eigenvector of :math:`A` with eigenvalue :math:`a`, makes it

    .. math:: \frac{1}{a} \Big(1 + \frac{\epsilon \sigma^2}{4} \coth\frac{f}{2} \Big/ \big(1 -
        \tfrac{\epsilon a}{4}\big)\Big) \qquad \text{and that of SGLD} \qquad
        \frac{1}{a} \Big(1 + \frac{\epsilon \sigma^2}{4}\Big) \Big/ \big(1 - \tfrac{\epsilon a}{4}\big):

    little friction averages few minibatches, and pays with heat.

    Attributes:
        step_size: :math:`\epsilon`, the square of the time step. On a quadratic loss the chain is stable iff it is
            below 4 over the largest eigenvalue of :math:`\sqrt{G} A \sqrt{G}`, at every friction: SGLD's limit.
        inverse_temperature: As for ``SGLD``, and so is localization.
        friction: :math:`f`: a step keeps :math:`e^{-f}` of the momentum. :math:`2 \sqrt{\epsilon a}` damps a direction
            of precision :math:`a` critically. None: directions without curvature, :math:`2 \sqrt{\epsilon \gamma}`; all
            others then relax as fast as they.
        preconditioner: None (:math:`G = I`), or ``frozen``: RMSprop's at the checkpoint, an inverse mass. The
            stationary law is the same.
        preconditioner_steps: Minibatch gradients at the checkpoint that it is measured from; None: 100.
        stability: Its :math:`\lambda`, relative to the root mean square of those gradients' entries; None: 1.
    """

    step_size: float
    inverse_temperature: float
    localization: float
    friction: float | None = None
    preconditioner: str | None = None
    preconditioner_steps: int | None = None
    stability: float | None = None
    markov: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.friction is not None and not 0 < self.friction < math.inf:
            raise ValueError(f"friction must be positive and finite, got {self.friction}.")
        require_preconditioner(self.preconditioner_steps, self.stability)
        if self.preconditioner not in (None, "frozen"):
            raise ValueError(f"preconditioner of sampler baoab must be frozen, got {self.preconditioner!r}.")
        if self.preconditioner is None and (self.preconditioner_steps, self.stability) != (None, None):
            raise ValueError("preconditioner_steps and stability are for preconditioner: frozen, which is not given.")
        if self.localization == 0 and self.friction is None:
            raise ValueError("Without localization, sampler baoab needs friction: its default is the localization's.")

    def start(self, walker: Walker) -> Callable[[], Float[Tensor, ""]]:
        """Measure the preconditioner, draw a velocity, and return the function that steps; see ``Sampler``.

        Raises:
            ValueError: If there is a preconditioner, and all gradients at the checkpoint are zero.
        """
        position, metric = walker.position, self.metric(walker)
        scale = torch.ones((), dtype=position.dtype, device=position.device) if metric is None else metric.sqrt()
        time_step = self.step_size**0.5
        friction = 2 * (self.step_size * self.localization) ** 0.5 if self.friction is None else self.friction
        velocity = torch.empty_like(position).normal_(generator=walker.generator)
        noise = torch.empty_like(position)

        def step() -> Float[Tensor, ""]:
            minibatch_loss = walker.measure_gradient()
            walker.tilt_gradient(self.inverse_temperature, self.localization)
            velocity.addcmul_(scale, walker.gradient, value=-time_step)
            position.addcmul_(scale, velocity, value=time_step / 2)
            noise.normal_(std=math.sqrt(-math.expm1(-2 * friction)), generator=walker.generator)
            velocity.mul_(math.exp(-friction)).add_(noise)
            position.addcmul_(scale, velocity, value=time_step / 2)
            return minibatch_loss

        return step

    def metric(self, walker: Walker) -> Float[Tensor, " parameter"] | None:
        """Measure the preconditioner's diagonal at the checkpoint; None if it has none."""
        if self.preconditioner is None:
            return None
        return measure_preconditioner(walker, steps=self.preconditioner_steps, stability=self.stability).strength()
