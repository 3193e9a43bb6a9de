"""All methods of one bank, compared on the same resamples: numbers for the tables, as JSON can hold them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.bootstrap import ResampledMeans, draw_resamples, resampled_means
from tdabench.evaluation.intervals import Spread, make_spread
from tdabench.evaluation.lds import GroundTruth, average_retrains, predicted_and_measured, rank_correlation
from tdabench.evaluation.memory import SUMMED_BYTES, bank_bytes, queries_at_once
from tdabench.evaluation.pairs import Row, all_pairs, holm, rank_with_groups
from tdabench.evaluation.permutation import draw_permutations, permutation_null
from tdabench.evaluation.reliability import measure_reliability, query_independent_oracle, without_diverged
from tdabench.evaluation.variance import nested_variances, vary_retrains
from tdabench.experiment.sections import EvaluationSettings
from tdabench.seeds import make_generator
from tdabench.storage.matrix import Rows

# Enough for a variance: known to a tenth.
RETRAIN_DRAWS = 200
# Of each side's loss or sum, beside the bootstrap's, in bytes (measured as a whole, with three methods: 200).
COMPARED_BYTES = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """What is compared: each method's summed scores, and the negative losses, on the scored queries."""

    names: tuple[str, ...]
    predicted: Float[Tensor, "method subset query"]
    measured: Float[Tensor, "subset query"]
    per_query: Float[Tensor, "method query"]


def compare_scores(
    scores: Mapping[str, Float[Tensor, "query train"] | Rows],
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    settings: EvaluationSettings,
    *,
    num_scored: int,
    seed: int,
    place: tuple[int, int],
    variations: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """Compare methods with a bank, with each other, and the bank with itself, on the scored queries.

    Args:
        scores: By method, read one after the other; those of methods that can't run are left out by the caller.
        num_scored: The first so many queries are scored; the rest are for tuning and not looked at.
        place: Repeat and train size: they name the streams of the resamples. The bootstrap's is that of ``evaluate``.
        variations: By method, the mean LDS of attributions of other checkpoints (rows) with other draws (columns).

    Returns:
        ``methods`` (by name: ``lds`` with interval, ``share`` of the ceiling, null band, ``variance`` by source, the
        bootstrap's ``draws``), ``pairs``, ``ranking``, ``reliability``, and counts.

    Raises:
        ValueError: If masks, losses and scores disagree, scores are not finite, every query's losses are constant,
            there are fewer than 3 subsets, or the memory is too little.
    """
    _check_bank(masks, losses, num_scored)
    at_once = queries_at_once(
        settings.memory_gib,
        beside=bank_bytes(masks, losses, methods=len(scores), resamples=settings.resamples)
        + COMPARED_BYTES * (1 + len(scores)) * len(masks) * losses.shape[2],
        per_query=SUMMED_BYTES * masks.shape[1],
    )
    losses = losses[..., :num_scored]
    truth = average_retrains(masks, losses)
    losses = losses[losses.isfinite().all(dim=2).any(dim=1)]
    _check_truth(truth)
    resamples = draw_resamples(
        *truth.losses.shape, resamples=settings.resamples, generator=make_generator(seed, "bootstrap", *place)
    )
    reliability = measure_reliability(losses, resamples)
    result = {
        **_count(truth, losses, num_scored),
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "reliability": reliability.describe(settings.confidence)
        | _describe_oracle(query_independent_oracle(-truth.losses, resamples), settings),
    }
    if not scores:
        return {**result, "methods": {}, "pairs": [], "ranking": []}
    sides = _make_sides(scores, truth, num_scored, at_once)
    columns = [(0, 1 + index) for index in range(len(sides.names))]
    means = resampled_means(torch.cat([sides.measured[None], sides.predicted]), columns, resamples)
    noise = _draw_noise(sides, losses, make_generator(seed, "retrains", *place))
    spreads = _spreads(sides, means)
    methods = _describe_methods(sides, spreads, noise, settings, make_generator(seed, "permutation", *place))
    for index, (name, described) in enumerate(methods.items()):
        described |= reliability.share(spreads[index], settings.confidence)
        described["draws"] = [round(value, 6) for value in means.both[:, index].tolist()]
        described["variance"] |= _from_variations((variations or {}).get(name))
    pairs = _describe_pairs(sides, means, noise, settings)
    lds = {name: spread.mean for name, spread in zip(sides.names, spreads, strict=True)}
    ranking = rank_with_groups(lds, pairs, confidence=settings.confidence)
    return {**result, "methods": methods, "pairs": pairs, "ranking": ranking}


def mean_lds_of(
    scores: Float[Tensor, "query train"] | Rows,
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    *,
    num_scored: int,
) -> float:
    """Return the mean LDS of one set of scores on the scored queries."""
    truth = average_retrains(masks, losses[..., :num_scored])
    predicted, measured = predicted_and_measured(scores.narrow(0, 0, num_scored), truth.masks, truth.losses)
    return rank_correlation(predicted, measured).nanmean().item()


def _check_bank(masks: Tensor, losses: Tensor, num_scored: int) -> None:
    if len(masks) != len(losses):
        raise ValueError(
            f"The bank has {len(masks)} masks and outputs of {len(losses)} subsets: give every shard's file once."
        )
    if len(masks) < 3:
        raise ValueError(f"A comparison needs at least 3 subsets, got {len(masks)}: raise bank.subsets.")
    if not 1 <= num_scored <= losses.shape[2]:
        raise ValueError(
            f"The bank has outputs of {losses.shape[2]} queries and the split {num_scored} scored ones: they are of "
            "different runs."
        )


def _check_truth(truth: GroundTruth) -> None:
    if (truth.losses == truth.losses[0]).all():
        raise ValueError(
            "Every query has the same loss after every retraining, so that there is nothing to predict: the subsets "
            "are equal, or the queries' losses are 0 (train less, or choose other queries)."
        )


def _count(truth: GroundTruth, losses: Tensor, num_scored: int) -> dict[str, int]:
    return {
        "retrains": losses.shape[1],
        "subsets": len(truth.masks),
        "queries": num_scored,
        "diverged_retrains": truth.diverged,
        "dropped_subsets": truth.dropped,
        "complete_subsets": int(without_diverged(losses).sum()),
    }


def _draw_noise(sides: Sides, losses: Tensor, generator: torch.Generator) -> Float[Tensor, "draw method"]:
    """Draw what other retrains would do to each mean LDS; NaN where one retrain a subset can't tell."""
    if losses.shape[1] < 2:
        return torch.full((2, len(sides.names)), torch.nan)
    return vary_retrains(sides.predicted, losses, draws=RETRAIN_DRAWS, generator=generator)


def _make_sides(scores: Mapping[str, Tensor | Rows], truth: GroundTruth, num_scored: int, at_once: int) -> Sides:
    predicted = []
    for name, values in scores.items():
        try:
            scored = values.narrow(0, 0, min(num_scored, values.shape[0]))
            one, measured = predicted_and_measured(scored, truth.masks, truth.losses, at_once=at_once)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        predicted.append(one)
    stacked = torch.stack(predicted)
    per_query = torch.stack([rank_correlation(one, measured) for one in stacked])
    return Sides(names=tuple(scores), predicted=stacked, measured=measured, per_query=per_query)


def _spreads(sides: Sides, means: ResampledMeans) -> list[Spread]:
    return [
        make_spread(values, means.both[:, index], means.subsets[:, index], num_subsets=len(sides.measured))
        for index, values in enumerate(sides.per_query)
    ]


def _describe_oracle(oracle: Spread, settings: EvaluationSettings) -> Row:
    interval = oracle.interval(settings.confidence)
    return {"oracle": interval.mean, "oracle_low": interval.low, "oracle_high": interval.high}


def _describe_methods(
    sides: Sides, spreads: list[Spread], noise: Tensor, settings: EvaluationSettings, generator: torch.Generator
) -> dict[str, Row]:
    permutations = draw_permutations(len(sides.measured), count=settings.resamples, generator=generator)
    described = {}
    for index, name in enumerate(sides.names):
        interval = spreads[index].interval(settings.confidence)
        band = permutation_null(
            sides.predicted[index], sides.measured, permutations, confidence=settings.confidence
        )  # fmt: skip
        described[name] = {
            "lds": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "standard_error": interval.standard_error,
            "nan_queries": int(sides.per_query[index].isnan().sum()),
            "null_low": band.low,
            "null_high": band.high,
            "p_value": band.p_value,
            "variance": _from_bank(spreads[index], noise[:, index]),
        }
    return described


def _describe_pairs(sides: Sides, means: ResampledMeans, noise: Tensor, settings: EvaluationSettings) -> list[Row]:
    rows = []
    for first, second in all_pairs(len(sides.names)):
        both, subsets = (values[:, first] - values[:, second] for values in (means.both, means.subsets))
        difference = sides.per_query[first] - sides.per_query[second]
        spread = make_spread(difference, both, subsets, num_subsets=len(sides.measured))
        interval = spread.interval(settings.confidence)
        rows.append(
            {
                "first": sides.names[first],
                "second": sides.names[second],
                "difference": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "standard_error": interval.standard_error,
                "p_value": spread.p_value(settings.confidence),
                "bootstrap_low": interval.low,
                "bootstrap_high": interval.high,
                "variance": _from_bank(spread, noise[:, first] - noise[:, second]),
            }
        )
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return rows


def _from_bank(spread: Spread, noise: Float[Tensor, " draw"]) -> dict[str, float]:
    """Divide a variance: queries, subsets without their models' noise, and that noise (unknown with one retrain)."""
    retrains = min(noise.var().item(), spread.over_subsets) if not noise.isnan().any() else torch.nan
    known = 0.0 if retrains != retrains else retrains
    return {"queries": spread.over_queries, "subsets": spread.over_subsets - known, "retrains": retrains}


def _from_variations(lds: Sequence[Sequence[float]] | None) -> dict[str, float | None]:
    checkpoint, sampler = nested_variances(lds) if lds else (None, None)
    return {"checkpoint": checkpoint, "sampler": sampler}
