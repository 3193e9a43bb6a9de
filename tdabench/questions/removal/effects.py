"""What removing a method's most helpful examples does, against removing as many at random."""

import dataclasses
import itertools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.intervals import NO_INTERVAL, Interval
from tdabench.experiment.sections import EvaluationSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemovalEffects:
    """Differences of a query's loss between arms with the same training seed, in nats; NaN where a model diverged.

    Attributes:
        chosen: Without the most helpful examples, minus without the matched random ones. Positive: the method found
            examples that help this query more than others of their classes do.
        matched: Without the matched random ones, minus trained on everything.
        overlap: Share of the matched random examples that are the removed ones themselves. Near 1 the two arms are
            nearly the same, and the effect is small however right the method is: whole classes are removed.
    """

    chosen: Float[Tensor, "query retrain"]
    matched: Float[Tensor, "query retrain"]
    overlap: Float[Tensor, "query retrain"]


def removal_effects(
    removed: Float[Tensor, "query retrain"],
    matched: Float[Tensor, "query retrain"],
    full: Float[Tensor, "query retrain"],
    overlap: Float[Tensor, "query retrain"],
) -> RemovalEffects:
    """Subtract the losses of the arms, in float64.

    Raises:
        ValueError: If the arms have other queries or retrains than each other.
    """
    if not removed.shape == matched.shape == full.shape == overlap.shape:
        shapes = ", ".join(str(tuple(arm.shape)) for arm in (removed, matched, full, overlap))
        raise ValueError(f"The arms disagree in (query, retrain): {shapes}. Make the removals again.")
    removed, matched, full = removed.double(), matched.double(), full.double()
    return RemovalEffects(chosen=removed - matched, matched=matched - full, overlap=overlap)


def evaluate_removal(
    effects: RemovalEffects, settings: EvaluationSettings, *, generator: torch.Generator
) -> dict[str, Any]:
    """Average over queries, with an interval that counts queries, seeds and matched draws.

    Args:
        generator: The stream of the bootstrap; the same one for every method makes the resamples paired.

    Returns:
        Numbers by name: ``effect``, ``low``, ``high``, ``standard_error``, ``effect_random``, ``queries`` (that have a
        retrain in which both arms converged), ``diverged`` (retrains of a query in which an arm diverged), ``overlap``.
    """
    per_query = effects.chosen.nanmean(dim=1)
    interval = dataclasses.asdict(query_interval(per_query, settings, generator=generator))
    return {
        "effect": interval.pop("mean"),
        **interval,
        "effect_random": effects.matched.nanmean(dim=1).nanmean().item(),
        "queries": int(per_query.isfinite().sum()),
        "overlap": effects.overlap.mean().item(),
        "diverged": int((effects.chosen.isnan() | effects.matched.isnan()).sum()),
    }


def compare_removals(
    effects: dict[str, RemovalEffects], settings: EvaluationSettings, *, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Subtract the effects of every two methods, paired by query and retrain.

    Returns:
        A mapping a pair: ``method``, ``other``, ``difference`` (the method's effect minus the other's), ``low``,
        ``high``, ``standard_error``, ``queries``.
    """
    state, rows = generator.get_state(), []
    for first, second in itertools.combinations(effects, 2):
        generator.set_state(state)  # every pair on the same resamples
        per_query = (effects[first].chosen - effects[second].chosen).nanmean(dim=1)
        interval = dataclasses.asdict(query_interval(per_query, settings, generator=generator))
        row = {"method": first, "other": second, "difference": interval.pop("mean"), **interval}
        rows.append({**row, "queries": int(per_query.isfinite().sum())})
    return rows


def query_interval(
    per_query: Float[Tensor, " query"], settings: EvaluationSettings, *, generator: torch.Generator
) -> Interval:
    """Bootstrap the mean over queries; NaN queries are left out.

    The retrains of a query have seeds and matched draws of their own: they lie *within* queries, so that resampling
    whole queries counts both sources, as the variance between queries' means holds the retrains' share. (Resampling
    retrains again on top would count that share twice.) A bootstrap of Q queries has the variance of a sample with
    Q - 1 in the place of Q; its deviations are stretched by the root of Q / (Q - 1).

    Returns:
        NaN where there are no queries; with a single query, NaN but for the mean.
    """
    values = per_query[per_query.isfinite()].double()
    count, mean = len(values), values.mean().item()
    if count < 2:
        return dataclasses.replace(NO_INTERVAL, mean=mean)
    chosen = torch.randint(count, (settings.resamples, count), generator=generator)
    deviations = (values[chosen].mean(dim=1) - mean) * math.sqrt(count / (count - 1))
    tail = (1 - settings.confidence) / 2
    low, high = (mean + deviations.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))).tolist()
    return Interval(mean=mean, low=low, high=high, standard_error=deviations.std().item())
