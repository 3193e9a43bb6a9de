"""Stochastic-gradient Langevin dynamics around a checkpoint."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, LossFn, copy_model, num_examples, take


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
        """Give the Euclidean distance from the checkpoint."""
        return torch.dist(self.position, self.checkpoint).item()


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

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    model = copy_model(model)
    position, gradient = flatten_parameters(model)
    checkpoint, noise = position.clone(), torch.empty_like(position)
    for _ in range(steps):
        batch = draw_batch(reference, batch_size, generator=generator)
        gradient.zero_()
        with torch.enable_grad():
            minibatch_loss = loss(model, batch).mean()
            minibatch_loss.backward()
        noise.normal_(std=step_size**0.5, generator=generator)
        position.lerp_(checkpoint, step_size * localization / 2)
        position.add_(gradient, alpha=-step_size * inverse_temperature / 2).add_(noise)
        yield Step(model=model, loss=minibatch_loss.detach(), position=position, checkpoint=checkpoint)


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
