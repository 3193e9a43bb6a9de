"""All methods of one bank, judged on the same resamples: numbers for the tables, as JSON can hold them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples
from tdabench.evaluation.evaluate import describe_bank, describe_lds, predict_bank
from tdabench.evaluation.intervals import resample_lds
from tdabench.evaluation.lds import GroundTruth, average_retrains, predicted_and_measured, rank_correlation
from tdabench.evaluation.memory import SUMMED_BYTES, bank_bytes, queries_at_once
from tdabench.evaluation.reliability import measure_reliability, query_independent_oracle, without_diverged
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.agreement.compare import compare_methods
from tdabench.questions.lds.comparison import Sides, compare_sides
from tdabench.seeds import make_generator
from tdabench.storage.matrix import Rows

# Of each side's loss or sum, beside the bootstrap's, in bytes (measured as a whole, with three methods: 200).
COMPARED_BYTES = 200

Scores = Mapping[str, Float[Tensor, "query train"] | Rows]


def judge_cell(
    scores: Scores,
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    settings: EvaluationSettings,
    *,
    num_scored: int,
    seed: int,
    place: tuple[int, int],
    variations: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """Judge methods by a bank, compare them with each other, and the bank with itself, all on the same resamples.

    Args:
        scores: By method, read one after the other; those of methods that can't run are left out by the caller.
        num_scored: The first so many queries are scored; the rest are for tuning, and only ``tuning_lds`` is of them.
        place: Repeat and train size: they name the streams of the resamples.
        variations: By method, the mean LDS of attributions of other checkpoints (rows) with other draws (columns).

    Returns:
        ``lds``: by method, the numbers of ``evaluate_scores``. ``comparison``: ``methods`` (by name: ``lds`` with
        interval, ``share`` of the ceiling, null band, ``variance`` by source, the bootstrap's ``draws``), ``pairs``,
        ``ranking``, ``reliability``, and counts. ``agreement``: the rows of ``compare_methods``.

    Raises:
        ValueError: If masks, losses and scores disagree, scores are not finite, every query's losses are constant,
            there are fewer than 3 subsets, or the memory is too little.
    """
    _check_bank(masks, losses, num_scored)
    lds, comparison = _judge(scores, masks, losses, settings, num_scored, (seed, *place), variations or {})
    pairs = []
    if len(scores) > 1:
        generator, beside = make_generator(seed, "agreement", *place), masks.nbytes + losses.nbytes
        pairs = compare_methods(scores, settings, num_scored=num_scored, generator=generator, beside=beside)
    return {"lds": lds, "comparison": comparison, "agreement": pairs}


def _judge(
    scores: Scores,
    masks: Tensor,
    losses: Tensor,
    settings: EvaluationSettings,
    num_scored: int,
    stream: tuple[int, int, int],
    variations: Mapping[str, Sequence[Sequence[float]]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each method's LDS, and the comparison."""
    generators = (make_generator(stream[0], name, *stream[1:]) for name in ("bootstrap", "retrains", "permutation"))
    at_once = _queries_at_once(masks, losses, settings, len(scores))
    truth, bank, losses = _average(masks, losses, num_scored)
    drawn = len(truth.masks), num_scored
    resamples = draw_resamples(*drawn, resamples=settings.resamples, generator=next(generators))
    reliability = measure_reliability(losses, resamples)
    measured = -truth.losses[:, :num_scored]
    oracle = query_independent_oracle(measured, resamples).interval(settings.confidence)
    comparison = {
        **_count(truth, losses),
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "reliability": reliability.describe(settings.confidence)
        | {"oracle": oracle.mean, "oracle_low": oracle.low, "oracle_high": oracle.high},
    }
    if not scores:
        return {}, {**comparison, "methods": {}, "pairs": [], "ranking": []}
    predicted, tuning = _predict(scores, truth, num_scored, at_once)
    found = resample_lds(predicted, measured, resamples)
    lds = {
        name: describe_lds(found, index, settings.confidence) | bank | {"tuning_lds": tuning[index]}
        for index, name in enumerate(scores)
    }
    sides = Sides(names=tuple(scores), predicted=predicted, measured=measured, lds=found)
    return lds, comparison | compare_sides(sides, losses, reliability, settings, variations, *generators)


def _average(masks: Tensor, losses: Tensor, num_scored: int) -> tuple[GroundTruth, dict[str, Any], Tensor]:
    """Return the truth, what it says of the bank, and the scored losses of its subsets; NaN where a model diverged."""
    truth, converged = average_retrains(masks, losses), losses.isfinite().all(dim=2)
    _check_truth(truth.losses[:, :num_scored])
    scored = losses[..., :num_scored]
    kept = scored.where(converged[..., None], torch.nan)[converged.any(dim=1)]
    return truth, describe_bank(truth, scored), kept


def mean_lds_of(
    scores: Float[Tensor, "query train"] | Rows,
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    *,
    num_scored: int,
) -> float:
    """Return the mean LDS of one set of scores on the scored queries."""
    truth = average_retrains(masks, losses)
    scored = truth.losses[:, :num_scored]
    predicted, measured = predicted_and_measured(scores.narrow(0, 0, num_scored), truth.masks, scored)
    return rank_correlation(predicted, measured).nanmean().item()


def _queries_at_once(masks: Tensor, losses: Tensor, settings: EvaluationSettings, methods: int) -> int:
    beside = bank_bytes(masks, losses, methods=methods, resamples=settings.resamples)
    beside += COMPARED_BYTES * (1 + methods) * len(masks) * losses.shape[2]
    return queries_at_once(settings.memory_gib, beside=beside, per_query=SUMMED_BYTES * masks.shape[1])


def _predict(
    scores: Scores, truth: GroundTruth, num_scored: int, at_once: int
) -> tuple[Float[Tensor, "method subset scored"], list[float | None]]:
    predicted, tuning = [], []
    for name, values in scores.items():
        try:
            found = predict_bank(values, truth, num_scored=num_scored, at_once=at_once)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        predicted.append(found.predicted)
        tuning.append(found.tuning_lds)
    return torch.stack(predicted), tuning


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


def _check_truth(losses: Float[Tensor, "subset query"]) -> None:
    if (losses == losses[0]).all():
        raise ValueError(
            "Every query has the same loss after every retraining, so that there is nothing to predict: the subsets "
            "are equal, or the queries' losses are 0 (train less, or choose other queries)."
        )


def _count(truth: GroundTruth, losses: Float[Tensor, "subset retrain query"]) -> dict[str, int]:
    return {
        "retrains": losses.shape[1],
        "subsets": len(truth.masks),
        "queries": losses.shape[2],
        "diverged_retrains": truth.diverged,
        "dropped_subsets": truth.dropped,
        "complete_subsets": int(without_diverged(losses).sum()),
    }
