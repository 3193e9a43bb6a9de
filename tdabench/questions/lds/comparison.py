"""The methods of one bank, described and compared pair by pair on the same resamples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.intervals import ResampledLDS, Spread
from tdabench.evaluation.pairs import Row, all_pairs, holm, rank_with_groups
from tdabench.evaluation.permutation import draw_permutations, permutation_null
from tdabench.evaluation.reliability import Reliability
from tdabench.evaluation.variance import nested_variances, vary_retrains
from tdabench.experiment.sections import EvaluationSettings

# Enough for a variance: known to a tenth.
RETRAIN_DRAWS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """What is compared: each method's summed scores, and the negative losses, on the scored queries."""

    names: tuple[str, ...]
    predicted: Float[Tensor, "method subset query"]
    measured: Float[Tensor, "subset query"]
    lds: ResampledLDS


def compare_sides(
    sides: Sides,
    losses: Float[Tensor, "subset retrain query"],
    reliability: Reliability,
    settings: EvaluationSettings,
    variations: Mapping[str, Sequence[Sequence[float]]],
    retrains: torch.Generator,
    permutation: torch.Generator,
) -> dict[str, Any]:
    """Describe the methods, compare every two, and rank them: ``methods``, ``pairs`` and ``ranking``.

    Args:
        variations: By method, the mean LDS of attributions of other checkpoints (rows) with other draws (columns).
        retrains: The stream of what other retrains would do.
        permutation: That of the null bands.
    """
    noise = _draw_noise(sides, losses, retrains)
    permutations = draw_permutations(len(sides.measured), count=settings.resamples, generator=permutation)
    methods = {
        name: _describe_method(sides, index, noise[:, index], permutations, settings)
        for index, name in enumerate(sides.names)
    }
    for index, (name, method) in enumerate(methods.items()):
        checkpoint, sampler = nested_variances(variations[name]) if variations.get(name) else (None, None)
        method["variance"] |= {"checkpoint": checkpoint, "sampler": sampler}
        method |= reliability.share(sides.lds.spread(index), settings.confidence)
        method["draws"] = [round(value, 6) for value in sides.lds.both[:, index].tolist()]
    pairs = _compare_pairs(sides, noise, settings)
    lds = {name: method["lds"] for name, method in methods.items()}
    ranking = rank_with_groups(lds, pairs, confidence=settings.confidence)
    return {"methods": methods, "pairs": pairs, "ranking": ranking}


def _describe_method(
    sides: Sides, index: int, noise: Tensor, permutations: Tensor, settings: EvaluationSettings
) -> Row:
    spread, predicted = sides.lds.spread(index), sides.predicted[index]
    band = permutation_null(predicted, sides.measured, permutations, confidence=settings.confidence)
    return {
        **_interval(spread, settings, "lds"),
        "nan_queries": int(sides.lds.per_query[index].isnan().sum()),
        "null_low": band.low,
        "null_high": band.high,
        "p_value": band.p_value,
        "variance": _from_bank(spread, noise),
    }


def _draw_noise(sides: Sides, losses: Tensor, generator: torch.Generator) -> Float[Tensor, "draw method"]:
    """Draw what other retrains would do to each mean LDS; NaN where one retrain a subset can't tell."""
    if losses.shape[1] < 2:
        return torch.full((2, len(sides.names)), torch.nan)
    return vary_retrains(sides.predicted, losses, draws=RETRAIN_DRAWS, generator=generator)


def _compare_pairs(sides: Sides, noise: Float[Tensor, "draw method"], settings: EvaluationSettings) -> list[Row]:
    rows = []
    for first, second in all_pairs(len(sides.names)):
        spread = sides.lds.spread(first, second)
        numbers = _interval(spread, settings, "difference")
        rows.append(
            {
                "first": sides.names[first],
                "second": sides.names[second],
                **numbers,
                "p_value": spread.p_value,
                "bootstrap_low": numbers["low"],
                "bootstrap_high": numbers["high"],
                "variance": _from_bank(spread, noise[:, first] - noise[:, second]),
            }
        )
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return rows


def _interval(spread: Spread, settings: EvaluationSettings, name: str) -> Row:
    numbers = dataclasses.asdict(spread.interval(settings.confidence))
    return {name: numbers.pop("mean"), **numbers}


def _from_bank(spread: Spread, noise: Float[Tensor, " draw"]) -> dict[str, float]:
    """Divide a variance: queries, subsets without their models' noise, and that noise (unknown with one retrain)."""
    if noise.isnan().any():
        return {"queries": spread.over_queries, "subsets": spread.over_subsets, "retrains": torch.nan}
    retrains = min(noise.var().item(), spread.over_subsets)
    return {"queries": spread.over_queries, "subsets": spread.over_subsets - retrains, "retrains": retrains}
