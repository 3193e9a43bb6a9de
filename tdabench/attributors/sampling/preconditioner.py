"""RMSprop's diagonal preconditioner: parameters with large gradients move more slowly."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.sampling.walker import Walker
from tdabench.cost import phase

# Defaults of every sampler that has one: gradients that it is measured from, and its floor.
STEPS, STABILITY = 100, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preconditioner:
    r"""The diagonal matrix :math:`G` by which a sampler's steps are multiplied, between 0 and 1.

    .. math:: G = \frac{\lambda}{\lambda + \sqrt{V}}

    That is RMSprop's :math:`1 / (\lambda + \sqrt{V})` in units in which a parameter without a gradient has 1: a step
    size that is stable without it is stable with it, and means the same for those parameters.

    Attributes:
        squares: :math:`V`, the mean of squared minibatch gradients.
        floor: :math:`\lambda`.
    """

    squares: Float[Tensor, " parameter"]
    floor: Float[Tensor, ""]

    def strength(self) -> Float[Tensor, " parameter"]:
        """Return the diagonal of :math:`G`."""
        return self.floor / (self.floor + self.squares.sqrt())

    def follow(self, gradient: Float[Tensor, " parameter"], *, decay: float) -> None:
        r"""Move the running mean on, in place: :math:`V' = \alpha V + (1 - \alpha) g \odot g`."""
        self.squares.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)


def require_preconditioner(steps: int | None, stability: float | None) -> None:
    """Check the settings of ``measure_preconditioner``."""
    if stability is not None and not 0 < stability < math.inf:
        raise ValueError(f"stability must be positive and finite, got {stability}.")
    if steps is not None and steps < 1:
        raise ValueError(f"preconditioner_steps must be at least 1, got {steps}.")


def measure_preconditioner(walker: Walker, *, steps: int | None, stability: float | None) -> Preconditioner:
    r"""Measure the preconditioner where the walker is, which is left there; counts as the phase ``fit``.

    Args:
        steps: Minibatch gradients, all with the same weight; None: 100.
        stability: :math:`\lambda`, relative to the root mean square of all the gradients' entries. The larger, the
            closer is the preconditioner to 1. None: 1.

    Raises:
        ValueError: If every gradient is zero, or one is not finite.
    """
    steps, stability = steps or STEPS, STABILITY if stability is None else stability
    squares = torch.zeros_like(walker.position)
    with phase("fit"):
        for _ in range(steps):
            walker.measure_gradient()
            squares.addcmul_(walker.gradient, walker.gradient, value=1 / steps)
    floor = stability * squares.mean().sqrt()
    if not 0 < floor < torch.inf:
        raise ValueError(
            f"A preconditioner needs finite gradients that are not all zero; their root mean square at the checkpoint "
            f"is {squares.mean().sqrt().item()}."
        )
    return Preconditioner(squares=squares, floor=floor)
