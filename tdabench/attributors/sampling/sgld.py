"""Stochastic-gradient Langevin dynamics around a checkpoint, and what every sampler shares with it."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, LossFn, batches, copy_model, num_examples, take


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Where a chain is after a step.

    Attributes:
        model: The moved model: the same object at each step.
        loss: Mean loss of the step's minibatch in nats, at the position before the step; NaN if there was none.
        position: Its moving parameters; the same storage at each step.
        checkpoint: Where they began.
    """

    model: nn.Module
    loss: Float[Tensor, ""]
    position: Float[Tensor, " parameter"]
    checkpoint: Float[Tensor, " parameter"]

    def distance(self) -> float:
        """Return the Euclidean distance from the checkpoint."""
        return torch.dist(self.position, self.checkpoint).item()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walker:
    r"""A copy of a model that a sampler moves, and gradients of :math:`U = n\beta L + \tfrac{\gamma}{2} |w - w^*|^2`.

    Attributes:
        model: The copy.
        position: Its moving parameters: move them in place.
        gradient: Where gradients are written, in the form of ``position``.
        checkpoint: Where they began.
        loss: The loss.
        reference: What minibatches are drawn from.
        batch_size: Examples of a minibatch.
        generator: The stream of minibatches and noise.
        microbatch: Most examples of a minibatch in memory at once; None: all of them.
    """

    model: nn.Module
    position: Float[Tensor, " parameter"]
    gradient: Float[Tensor, " parameter"]
    checkpoint: Float[Tensor, " parameter"]
    loss: LossFn
    reference: Examples
    batch_size: int
    generator: torch.Generator
    microbatch: int | None = None

    def measure_gradient(self) -> Float[Tensor, ""]:
        """Write the gradient of a new minibatch's mean loss, and return that loss."""
        batch = draw_batch(self.reference, self.batch_size, generator=self.generator)
        count = num_examples(batch)
        self.gradient.zero_()
        wide = torch.promote_types(self.position.dtype, torch.float32)
        minibatch_loss = torch.zeros((), dtype=wide, device=self.position.device)
        for part in batches(batch, self.microbatch or count):
            with torch.enable_grad():
                part_loss = self.loss(self.model, part).mean() * (num_examples(part) / count)
                part_loss.backward()
            minibatch_loss += part_loss.detach()
        return minibatch_loss

    def tilt_gradient(self, inverse_temperature: float, localization: float) -> None:
        """Make the mean loss's gradient that of :math:`U`, in place."""
        self.gradient.mul_(inverse_temperature).add_(self.position - self.checkpoint, alpha=localization)

    def arrive(self, minibatch_loss: Float[Tensor, ""]) -> Step:
        """Return where the walker is."""
        return Step(model=self.model, loss=minibatch_loss, position=self.position, checkpoint=self.checkpoint)


def make_walker(
    model: nn.Module,
    loss: LossFn,
    reference: Examples,
    *,
    batch_size: int,
    generator: torch.Generator,
    microbatch: int | None = None,
) -> Walker:
    """Copy a model, in eval mode, to move those of its parameters that require a gradient.

    Args:
        batch_size: Examples of a minibatch, drawn without replacement; all of them if there are fewer.
        generator: The stream of minibatches and noise, on the model's device.
        microbatch: Most examples of a minibatch in memory at once; None: all of them.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    model = copy_model(model)
    position, gradient = flatten_parameters(model)
    return Walker(
        model=model,
        position=position,
        gradient=gradient,
        checkpoint=position.clone(),
        loss=loss,
        reference=reference,
        batch_size=batch_size,
        generator=generator,
        microbatch=microbatch,
    )


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
) -> Iterator[Step]:
    r"""Take steps of localized SGLD (Lau et al., 2023, arXiv:2308.12108), giving where the chain is after each one.

    .. math:: w' = w - \tfrac{\epsilon}{2} (n\beta \nabla L_B(w) + \gamma (w - w^*)) + \sqrt{\epsilon} \xi,
        \qquad \xi \sim N(0, I)

    Only parameters that require a gradient move. The network stays in eval mode, so that batch norm's statistics are
    those of the checkpoint. The given model is not touched: the one that is yielded is a copy, the same at each step.

    Args:
        steps: Number of steps.
        step_size: :math:`\epsilon`. On a quadratic loss the chain is stable iff ``step_size`` times the largest
            eigenvalue of :math:`n\beta H + \gamma I` is below 4.
        inverse_temperature: :math:`n\beta`, the factor on the mean loss.
        localization: :math:`\gamma`, the pull towards the checkpoint :math:`w^*`.
        batch_size: Examples of a minibatch, drawn without replacement; all of them if there are fewer.
        generator: The stream of minibatches and noise, on the model's device.
        microbatch: Most examples of a minibatch in memory at once; None: all of them.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    walker = make_walker(model, loss, reference, batch_size=batch_size, generator=generator, microbatch=microbatch)
    position, noise = walker.position, torch.empty_like(walker.position)
    for _ in range(steps):
        minibatch_loss = walker.measure_gradient()
        noise.normal_(std=step_size**0.5, generator=generator)
        position.lerp_(walker.checkpoint, step_size * localization / 2)
        position.add_(walker.gradient, alpha=-step_size * inverse_temperature / 2).add_(noise)
        yield walker.arrive(minibatch_loss)


def draw_batch(examples: Examples, size: int, *, generator: torch.Generator) -> Examples:
    """Draw a minibatch without replacement; all examples if there are no more than ``size``."""
    count = num_examples(examples)
    if size >= count:
        return examples
    order = torch.randperm(count, generator=generator, device=generator.device)
    return take(examples, order[:size].to(next(iter(examples.values())).device))


def flatten_parameters(model: nn.Module) -> tuple[Float[Tensor, " parameter"], Float[Tensor, " parameter"]]:
    """Make the moving parameters, and their gradients, views of one vector each, so that a step is few operations.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not moving:
        raise ValueError("Sampling needs parameters that require a gradient; this model has none.")
    position = torch.cat([parameter.detach().flatten() for parameter in moving])
    gradient = torch.zeros_like(position)
    start = 0
    for parameter in moving:
        part = slice(start, start + parameter.numel())
        parameter.data = position[part].view(parameter.shape)
        parameter.grad = gradient[part].view(parameter.shape)
        start = part.stop
    return position, gradient
