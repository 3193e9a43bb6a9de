"""From scores and a bank to what the tables show."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples
from tdabench.evaluation.intervals import ResampledLDS, resample_lds
from tdabench.evaluation.lds import GroundTruth, average_retrains, predicted_and_measured, rank_correlation
from tdabench.evaluation.memory import SUMMED_BYTES, bank_bytes, queries_at_once
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.experiment.sections import EvaluationSettings
from tdabench.storage.matrix import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a method's scores say of the subsets.

    Attributes:
        predicted: Summed scores of the scored queries.
        measured: Their negative losses.
        tuning_lds: Mean LDS on the tuning queries; None without such.
    """

    predicted: Float[Tensor, "subset query"]
    measured: Float[Tensor, "subset query"]
    tuning_lds: float | None


def predict_bank(
    scores: Float[Tensor, "query train"] | Rows, truth: GroundTruth, *, num_scored: int, at_once: int
) -> Prediction:
    """Sum the scores over the subsets; the first ``num_scored`` queries are scored, the rest are for tuning.

    Raises:
        ValueError: If shapes disagree, or a score is not finite.
    """
    scored = scores.narrow(0, 0, min(num_scored, scores.shape[0]))
    sides = predicted_and_measured(scored, truth.masks, truth.losses[:, :num_scored], at_once=at_once)
    tuning_lds, rest = None, scores.shape[0] - num_scored
    if rest > 0:
        tuning = scores.narrow(0, num_scored, rest)
        tuned = predicted_and_measured(tuning, truth.masks, truth.losses[:, num_scored:], at_once=at_once)
        tuning_lds = rank_correlation(*tuned).nanmean().item()
    return Prediction(predicted=sides[0], measured=sides[1], tuning_lds=tuning_lds)


def evaluate_scores(
    scores: Float[Tensor, "query train"] | Rows,
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    settings: EvaluationSettings,
    *,
    num_scored: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Compute the LDS with its interval on the scored queries, and on the tuning queries apart.

    Args:
        num_scored: The first so many queries are scored; the rest are for tuning.
        generator: The stream of the bootstrap; the same one for every method makes the resamples paired.

    Returns:
        Numbers by name: ``lds`` (one a query), ``mean``, ``low``, ``high``, ``standard_error``, ``queries``,
        ``nan_queries``, ``ceiling``, ``agreement``, ``subsets``, ``dropped_subsets``, ``diverged_retrains``,
        ``tuning_lds``.

    Raises:
        ValueError: If shapes disagree, too few retrained models converged, or the memory is too little.
    """
    beside = bank_bytes(masks, losses, methods=1, resamples=settings.resamples)
    at_once = queries_at_once(settings.memory_gib, beside=beside, per_query=SUMMED_BYTES * masks.shape[1])
    truth = average_retrains(masks, losses)
    found = predict_bank(scores, truth, num_scored=num_scored, at_once=at_once)
    resamples = draw_resamples(*found.measured.shape, resamples=settings.resamples, generator=generator)
    lds = resample_lds(found.predicted[None], found.measured, resamples)
    bank = describe_bank(truth, losses[..., :num_scored])
    return describe_lds(lds, 0, settings.confidence) | bank | {"tuning_lds": found.tuning_lds}


def describe_lds(lds: ResampledLDS, place: int, confidence: float) -> dict[str, Any]:
    """Return the numbers of one method; those of the mean are NaN if every query has constant scores or losses."""
    per_query = lds.per_query[place]
    return {
        "lds": per_query.tolist(),
        **dataclasses.asdict(lds.spread(place).interval(confidence)),
        "queries": len(per_query),
        "nan_queries": int(per_query.isnan().sum()),
    }


def describe_bank(truth: GroundTruth, losses: Float[Tensor, "subset retrain query"]) -> dict[str, Any]:
    """Return how good a method could be, and what was left out."""
    agreement = retrain_agreement(losses)
    return {
        "ceiling": lds_ceiling(agreement, losses.shape[1]),
        "agreement": agreement,
        "subsets": len(truth.masks),
        "dropped_subsets": truth.dropped,
        "diverged_retrains": truth.diverged,
    }
