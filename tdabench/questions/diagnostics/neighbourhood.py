"""Where draws are, seen from the checkpoint: how far, still leaving or not, and at what loss."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdabench.questions.diagnostics.mixing import mean_error

# A line through a few distances says little of their growth.
FEWEST_DISTANCES = 6


def describe_distance(
    distance: Float[Tensor, "chain draw"], draw_step: Int[Tensor, "chain draw"] | None = None
) -> dict[str, float | None]:
    r"""Describe the Euclidean distance from the checkpoint, over chains that did not diverge.

    ``growth`` is the exponent :math:`a` of a distance that grows like :math:`t^a` after :math:`t` steps, over the later
    half of the draws, the median over chains: 0 for a chain that has settled, 1/2 for one that noise alone moves, 1
    for one that slides straight away. None for few draws.

    Args:
        draw_step: After how many steps each draw was; by default draws are evenly spaced from the start.
    """
    draws = distance.shape[1]
    steps = torch.arange(1, draws + 1).expand_as(distance) if draw_step is None else draw_step
    later = slice(draws // 2, None)
    known = draws - draws // 2 >= FEWEST_DISTANCES and bool((distance[:, later] > 0).all())
    slopes = _slopes(steps[:, later].double().log(), distance[:, later].double().log()) if known else None
    return {
        "median": distance.double().median().item(),
        "last": distance[:, -1].double().mean().item(),
        "growth": None if slopes is None else slopes.median().item(),
    }


def describe_descent(
    train: Float[Tensor, "chain draw train"],
    checkpoint: Float[Tensor, " train"],
    *,
    markov: bool,
    inverse_temperature: float | None,
) -> dict[str, float | None]:
    r"""Describe the mean training loss of the draws beside the checkpoint's, over chains that did not diverge.

    ``difference`` is that of the draws less that of the checkpoint in nats, ``error`` its Monte Carlo standard error.
    ``explored`` is :math:`n\beta` times how far the mean loss gets from the checkpoint's, with its standard deviation:
    about half an effective parameter, or more, where a posterior is explored (equipartition). None without
    :math:`n\beta`.

    Args:
        markov: Whether a draw depends on the one before it.
    """
    losses = train.mean(dim=2, keepdim=True, dtype=torch.float64)  # (chain, draw, 1)
    difference = losses.mean().item() - checkpoint.double().mean().item()
    deviation = losses.std().item()
    error = mean_error(losses).item() if markov else deviation / math.sqrt(losses.numel())
    explored = None if inverse_temperature is None else inverse_temperature * (abs(difference) + deviation)
    return {"difference": difference, "error": error, "explored": explored}


def _slopes(first: Float[Tensor, "chain draw"], second: Float[Tensor, "chain draw"]) -> Float[Tensor, " chain"]:
    """Return the slope of the straight line through each chain's points, by least squares."""
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (first, second))
    return (first * second).sum(dim=1) / first.square().sum(dim=1)
