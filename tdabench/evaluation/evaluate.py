"""From scores and a bank to what the tables show."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.intervals import bootstrap_interval
from tdabench.evaluation.lds import average_retrains, predicted_and_measured, rank_correlation
from tdabench.evaluation.memory import SUMMED_BYTES, bank_bytes, queries_at_once
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.experiment.sections import EvaluationSettings
from tdabench.storage.matrix import Rows


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
    at_once = queries_at_once(
        settings.memory_gib,
        beside=bank_bytes(masks, losses, methods=1, resamples=settings.resamples),
        per_query=SUMMED_BYTES * masks.shape[1],
    )
    truth = average_retrains(masks, losses)
    scored, rest = slice(num_scored), scores.shape[0] - num_scored
    predicted, measured = predicted_and_measured(
        scores.narrow(0, 0, num_scored), truth.masks, truth.losses[:, scored], at_once=at_once
    )
    per_query = rank_correlation(predicted, measured)
    interval = bootstrap_interval(
        predicted, measured, resamples=settings.resamples, confidence=settings.confidence, generator=generator
    )
    agreement = retrain_agreement(losses[..., scored])
    tuning_lds = None
    if rest > 0:
        sides = predicted_and_measured(
            scores.narrow(0, num_scored, rest), truth.masks, truth.losses[:, num_scored:], at_once=at_once
        )
        tuning_lds = rank_correlation(*sides).nanmean().item()
    return {
        "lds": per_query.tolist(),
        **dataclasses.asdict(interval),
        "queries": len(per_query),
        "nan_queries": int(per_query.isnan().sum()),
        "ceiling": lds_ceiling(agreement, losses.shape[1]),
        "agreement": agreement,
        "subsets": len(truth.masks),
        "dropped_subsets": truth.dropped,
        "diverged_retrains": truth.diverged,
        "tuning_lds": tuning_lds,
    }
