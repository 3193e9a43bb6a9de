"""How the LDS grows with the draws behind the scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples
from tdabench.evaluation.intervals import resample_lds
from tdabench.evaluation.lds import GroundTruth, predicted_and_measured
from tdabench.evaluation.memory import bank_bytes, queries_at_once
from tdabench.experiment.sections import EvaluationSettings
from tdabench.storage.matrix import Rows

Estimate = Callable[[Tensor, Tensor], Tensor]

# Fewest draws a chain at which the LDS is measured; points of the curve.
FIRST, POINTS = 4, 10
# Queries whose scores are made at once, without a limit: every time, the training examples' losses are centred anew.
ESTIMATED_AT_ONCE = 512


def choose_draws(draws: int) -> list[int]:
    """Return the points of the curve: from a few draws to all, each about as many times the one before."""
    first = min(FIRST, draws)
    ratio = draws / first
    return sorted({round(first * ratio ** (place / (POINTS - 1))) for place in range(POINTS)})


def estimated_rows(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"], estimate: Estimate
) -> Rows:
    """Return the scores of losses over draws, made when they are asked for."""
    shape = query.shape[2], train.shape[2]
    return Rows(read=lambda start, stop: estimate(query[..., start:stop], train), shape=shape)


def estimates_at_once(
    query: Float[Tensor, "chain draw query"],
    train: Float[Tensor, "chain draw train"],
    truth: GroundTruth,
    settings: EvaluationSettings,
) -> int:
    """Return for how many queries scores of all chains, and of each, may be made at once.

    Raises:
        ValueError: If the memory is too little for one.
    """
    # Losses as read and those of the draws that are kept; in float64, centred, scaled, and once more on the way there.
    traces = (4 + 4 + 4 * 8) * (query.numel() + train.numel())
    bank = bank_bytes(truth.masks, truth.losses[:, None], methods=POINTS, resamples=settings.resamples)
    # In float64: scores, once more for the sums, and four times those of each chain or half.
    per_query = 8 * (2 + 4 * max(2, len(train))) * train.shape[2]
    return queries_at_once(settings.memory_gib, beside=traces + bank, per_query=per_query, most=ESTIMATED_AT_ONCE)


def measure_growth(
    query: Float[Tensor, "chain draw query"],
    train: Float[Tensor, "chain draw train"],
    estimate: Estimate,
    truth: GroundTruth,
    settings: EvaluationSettings,
    *,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """Measure the LDS of the first draws of every chain, at growing numbers of them.

    Every point has the same resamples of subsets and queries, so that the curve's points are paired, and the last one
    is the method's own LDS and interval: what a user has who stops every chain after so many draws.

    Args:
        query: Losses of the scored queries over the draws.
        train: Losses of the training examples over the same draws.
        estimate: ``(query, train) -> scores``, as the method makes them of its draws.
        truth: A bank, with the losses of these queries.
        generator: The stream of the bootstrap.

    Returns:
        For each point its ``draws``, ``mean``, ``low``, ``high``, ``standard_error`` and ``nan_queries``.
    """
    grid, at_once = choose_draws(query.shape[1]), estimates_at_once(query, train, truth, settings)
    scores = (estimated_rows(query[:, :end], train[:, :end], estimate) for end in grid)
    both = [predicted_and_measured(one, truth.masks, truth.losses, at_once=at_once) for one in scores]
    measured, predicted = both[0][1], torch.stack([side for side, _ in both])
    drawn = draw_resamples(*measured.shape, resamples=settings.resamples, generator=generator)
    lds = resample_lds(predicted, measured, drawn)
    return [
        {
            "draws": draws,
            **dataclasses.asdict(lds.spread(place).interval(settings.confidence)),
            "nan_queries": int(lds.per_query[place].isnan().sum()),
        }
        for place, draws in enumerate(grid)
    ]
