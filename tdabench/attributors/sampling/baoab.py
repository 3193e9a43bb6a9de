"""Underdamped Langevin dynamics: a walker with momentum."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from tdabench.attributors.base import Examples, LossFn
from tdabench.attributors.sampling.preconditioner import STABILITY, STEPS, measure_preconditioner
from tdabench.attributors.sampling.sgld import Step, make_walker


def sample_chain(
    model: nn.Module,
    loss: LossFn,
    reference: Examples,
    *,
    steps: int,
    step_size: float,
    inverse_temperature: float,
    localization: float,
    batch_size: int,
    generator: torch.Generator,
    microbatch: int | None = None,
    friction: float | None = None,
    preconditioner: str | None = None,
    preconditioner_steps: int = STEPS,
    stability: float = STABILITY,
) -> Iterator[Step]:
    r"""Take steps of BAOAB (Leimkuhler & Matthews, 2013, arXiv:1203.5428), as ``sgld.sample_chain`` does of SGLD.

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

    Args:
        step_size: :math:`\epsilon`, the square of the time step. On a quadratic loss the chain is stable iff it is
            below 4 over the largest eigenvalue of :math:`\sqrt{G} A \sqrt{G}`, at every friction: SGLD's limit.
        friction: :math:`f`: a step keeps :math:`e^{-f}` of the momentum. :math:`2 \sqrt{\epsilon a}` damps a direction
            of precision :math:`a` critically. None: directions without curvature, :math:`2 \sqrt{\epsilon \gamma}`; all
            others then relax as fast as they.
        preconditioner: None (:math:`G = I`), or ``frozen``: RMSprop's at the checkpoint, an inverse mass. The
            stationary law is the same.
        preconditioner_steps: Minibatch gradients at the checkpoint that it is measured from.
        stability: Its :math:`\lambda`, relative to the root mean square of those gradients' entries.

    Raises:
        ValueError: If no parameter requires a gradient, or all gradients at the checkpoint are zero.
    """
    walker = make_walker(model, loss, reference, batch_size=batch_size, generator=generator, microbatch=microbatch)
    position, scale = walker.position, torch.ones((), dtype=walker.position.dtype, device=walker.position.device)
    if preconditioner is not None:
        scale = measure_preconditioner(walker, steps=preconditioner_steps, stability=stability).strength().sqrt()
    time_step = step_size**0.5
    friction = 2 * (step_size * localization) ** 0.5 if friction is None else friction
    velocity = torch.empty_like(position).normal_(generator=generator)
    noise = torch.empty_like(position)
    for _ in range(steps):
        minibatch_loss = walker.measure_gradient()
        walker.tilt_gradient(inverse_temperature, localization)
        velocity.addcmul_(scale, walker.gradient, value=-time_step)
        position.addcmul_(scale, velocity, value=time_step / 2)
        noise.normal_(std=math.sqrt(-math.expm1(-2 * friction)), generator=generator)
        velocity.mul_(math.exp(-friction)).add_(noise)
        position.addcmul_(scale, velocity, value=time_step / 2)
        yield walker.arrive(minibatch_loss)
