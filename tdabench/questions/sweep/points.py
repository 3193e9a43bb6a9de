"""Points of a sweep, judged on the tuning queries: each one's mean LDS, and which can't be told from the best."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.special import ndtri, stdtrit
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples
from tdabench.evaluation.intervals import ResampledLDS, Spread, resample_lds
from tdabench.evaluation.lds import average_retrains, predicted_and_measured
from tdabench.experiment.sections import EvaluationSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """The points of one repeat on the same resamples; those without scores are not among them."""

    names: tuple[str, ...]
    lds: ResampledLDS

    def describe(self, confidence: float) -> dict[str, dict[str, Any]]:
        """Return each point's ``tuning_lds`` with interval, ``standard_error`` and ``tuning_queries``, by its name."""
        rows = {}
        for place, name in enumerate(self.names):
            numbers = dataclasses.asdict(self.lds.spread(place).interval(confidence))
            mean, queries = numbers.pop("mean"), self.lds.per_query.shape[1]
            rows[name] = {"tuning_lds": mean, **numbers, "tuning_queries": queries}
        return rows

    def mean(self, name: str) -> float:
        """Return the mean LDS of a point; NaN if it has none."""
        if name not in self.names:
            return math.nan
        return self.lds.per_query[self.names.index(name)].nanmean().item()

    def difference(self, first: str, second: str) -> Spread:
        """Return how much higher the LDS of the first point is, paired."""
        return self.lds.spread(self.names.index(first), self.names.index(second))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The best point of a sweep.

    Attributes:
        lds: Its mean LDS over repeats.
        together: The points that can't be told from it, itself left out.
        worse: The points that can.
    """

    best: str
    lds: float
    together: tuple[str, ...]
    worse: tuple[str, ...]


def judge_points(
    scores: Mapping[str, Float[Tensor, "query train"]],
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    settings: EvaluationSettings,
    *,
    generator: torch.Generator,
) -> Judgement:
    """Compute the LDS of every point, and resample subsets and queries together, alike for all of them.

    Args:
        scores: For the tuning queries, by the name of the point.
        losses: Of the tuning queries alone.

    Raises:
        ValueError: If there are no scores, shapes disagree, or too few retrained models converged.
    """
    if not scores:
        raise ValueError("No point of the sweep has scores, so that there is none to choose: mend the grid.")
    truth = average_retrains(masks, losses)
    sides = [predicted_and_measured(values, truth.masks, truth.losses) for values in scores.values()]
    measured, predicted = sides[0][1], torch.stack([side for side, _ in sides])
    resamples = draw_resamples(*measured.shape, resamples=settings.resamples, generator=generator)
    return Judgement(names=tuple(scores), lds=resample_lds(predicted, measured, resamples))


def choose_point(judgements: Sequence[Judgement], confidence: float) -> Choice | None:
    r"""Choose the point of the highest mean LDS over repeats, among those that every repeat has.

    A point is told from the best one if their difference, in its standard errors, exceeds the quantile of

    .. math:: \max_{a, b} |d^*_{ab}| / \mathrm{SE}_{ab}

    over the bootstrap's draws :math:`d^*` around each difference: the maximum over all pairs, since which point is the
    best was seen in the same data (Westfall and Young's single step, 1993). The true best point is so among those that
    are not told apart with the given confidence, for these repeats: with other subsets and queries.

    Returns:
        None if no point has an LDS in every repeat.
    """
    means = {
        name: sum(judgement.mean(name) for judgement in judgements) / len(judgements) for name in judgements[0].names
    }
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    if not means:
        return None
    best = max(means, key=lambda name: means[name])
    largest, errors, freedom = torch.zeros(()), {}, 0
    for pair in itertools.combinations(means, 2):
        deviations, error, freedom = _average([judgement.difference(*pair) for judgement in judgements])
        errors[frozenset(pair)] = error
        if error > 0:
            largest = torch.maximum(largest, deviations.abs() / error)
    limit = _limit(largest, freedom, confidence)
    others = [name for name in means if name != best]
    together = [name for name in others if means[best] - means[name] <= limit * errors[frozenset((name, best))]]
    worse = tuple(name for name in others if name not in together)
    return Choice(best=best, lds=means[best], together=tuple(together), worse=worse)


def _average(spreads: Sequence[Spread]) -> tuple[Float[Tensor, " resample"], float, int]:
    """Average a difference over repeats: deviations, standard error, and degrees of freedom."""
    deviations = torch.stack([spread.deviations.nan_to_num() for spread in spreads]).mean(dim=0)
    error = math.sqrt(sum(spread.standard_error**2 for spread in spreads)) / len(spreads)
    return deviations, error, sum(spread.freedom for spread in spreads)


def _limit(largest: Tensor, freedom: int, confidence: float) -> float:
    if not freedom or largest.dim() == 0:
        return 0.0
    upper = (1 + confidence) / 2
    return largest.quantile(confidence).item() * float(stdtrit(freedom, upper) / ndtri(upper))
