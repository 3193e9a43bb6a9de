"""Stochastic-gradient Langevin dynamics around a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.sampling.walker import Walker


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGLD:
    r"""Localized SGLD (Lau et al., 2023, arXiv:2308.12108).

    .. math:: w' = w - \tfrac{\epsilon}{2} (n\beta \nabla L_B(w) + \gamma (w - w^*)) + \sqrt{\epsilon} \xi,
        \qquad \xi \sim N(0, I)

    Only parameters that require a gradient move. The network stays in eval mode, so that batch norm's statistics are
    those of the checkpoint.

    Attributes:
        step_size: :math:`\epsilon`. On a quadratic loss the chain is stable iff ``step_size`` times the largest
            eigenvalue of :math:`n\beta H + \gamma I` is below 4.
        inverse_temperature: :math:`n\beta`, the factor on the mean loss.
        localization: :math:`\gamma`, the pull towards the checkpoint :math:`w^*`.
    """

    step_size: float
    inverse_temperature: float
    localization: float
    markov: ClassVar[bool] = True

    def start(self, walker: Walker) -> Callable[[], Float[Tensor, ""]]:
        """Return the function that steps; see ``Sampler``."""
        position, noise = walker.position, torch.empty_like(walker.position)

        def step() -> Float[Tensor, ""]:
            minibatch_loss = walker.measure_gradient()
            noise.normal_(std=self.step_size**0.5, generator=walker.generator)
            position.lerp_(walker.checkpoint, self.step_size * self.localization / 2)
            position.add_(walker.gradient, alpha=-self.step_size * self.inverse_temperature / 2).add_(noise)
            return minibatch_loss

        return step

    def metric(self, walker: Walker) -> None:
        """Return None: its steps are the same in every direction."""
