r"""A walker around a checkpoint, and the protocol of what moves it: a sampler is one file beside this one."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, batches, copy_model, device_of, num_examples, take


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
        problem: What gives the loss, and the reference set that minibatches are drawn from.
        batch_size: Examples of a minibatch.
        microbatch: Most examples of a minibatch in memory at once; None: all of them.
        generator: The stream of minibatches and noise.
    """

    model: nn.Module
    position: Float[Tensor, " parameter"]
    gradient: Float[Tensor, " parameter"]
    checkpoint: Float[Tensor, " parameter"]
    problem: Problem
    batch_size: int
    microbatch: int | None
    generator: torch.Generator

    def draw_batch(self) -> Examples:
        """Draw a minibatch without replacement; all examples if there are no more than its size."""
        examples = self.problem.reference
        count = num_examples(examples)
        if self.batch_size >= count:
            return examples
        order = torch.randperm(count, generator=self.generator, device=self.generator.device)
        return take(examples, order[: self.batch_size].to(device_of(examples)))

    def measure_gradient(self) -> Float[Tensor, ""]:
        """Write the gradient of a new minibatch's mean loss, and return that loss."""
        batch = self.draw_batch()
        count = num_examples(batch)
        self.gradient.zero_()
        wide = torch.promote_types(self.position.dtype, torch.float32)
        minibatch_loss = torch.zeros((), dtype=wide, device=self.position.device)
        for part in batches(batch, self.microbatch or count):
            with torch.enable_grad():
                part_loss = self.problem.loss(self.model, part).mean() * (num_examples(part) / count)
                part_loss.backward()
            minibatch_loss += part_loss.detach()
        return minibatch_loss

    def tilt_gradient(self, inverse_temperature: float, localization: float) -> None:
        """Make the mean loss's gradient that of :math:`U`, in place."""
        self.gradient.mul_(inverse_temperature).add_(self.position - self.checkpoint, alpha=localization)


@runtime_checkable
class Sampler(Protocol):
    """What draws around a checkpoint: a frozen dataclass of its own settings.

    Attributes:
        markov: Whether a draw depends on the one before it.
    """

    markov: ClassVar[bool]

    def start(self, walker: Walker) -> Callable[[], Float[Tensor, ""]]:
        """Prepare at the checkpoint (what costs gradients is phase ``fit``), and return the function that steps.

        Each call moves the walker's position in place, and returns the mean loss of its minibatch at the position
        before; NaN if it has none. The chain's state lies in that function. All that is drawn comes from the walker's
        generator.
        """
        ...


@runtime_checkable
class MarkovSampler(Sampler, Protocol):
    """A sampler with a step size, which ``calibrate`` can find."""

    def metric(self, walker: Walker) -> Float[Tensor, " parameter"] | None:
        """Measure the diagonal by which its steps are multiplied at the checkpoint; None if it has none."""
        ...


def make_walker(
    model: nn.Module,
    problem: Problem,
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
    position, gradient = _flatten_parameters(model)
    return Walker(
        model=model,
        position=position,
        gradient=gradient,
        checkpoint=position.clone(),
        problem=problem,
        batch_size=batch_size,
        microbatch=microbatch,
        generator=generator,
    )


def walk(sampler: Sampler, walker: Walker, steps: int) -> Iterator[Step]:
    """Take steps lazily, giving where the chain is after each one: the same storage every time."""
    step = sampler.start(walker)
    for _ in range(steps):
        loss = step()
        yield Step(model=walker.model, loss=loss, position=walker.position, checkpoint=walker.checkpoint)


def _flatten_parameters(model: nn.Module) -> tuple[Float[Tensor, " parameter"], Float[Tensor, " parameter"]]:
    """Make the moving parameters, and their gradients, views of one vector each, so that a step is few operations."""
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
