"""Intervals that count both sources of chance: which subsets were drawn, and which queries."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.lds import tie_groups
from tdabench.progress import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean LDS with its uncertainty; NaN queries are left out of the mean."""

    mean: float
    low: float
    high: float
    standard_error: float


def bootstrap_interval(
    predicted: Float[Tensor, "subset query"],
    measured: Float[Tensor, "subset query"],
    *,
    resamples: int,
    confidence: float,
    generator: torch.Generator,
) -> Interval:
    """Two-way bootstrap of the mean LDS: subsets and queries are resampled together, ranks taken anew each time.

    All queries share the subsets, so that an interval over queries alone is far too narrow. The interval is the
    bootstrap's percentile interval, moved onto the estimate: a resample has some subsets twice and others not at all,
    which lowers a rank correlation (by 0.01 to 0.02 at 60 subsets) and says nothing about the estimate.

    Args:
        predicted: Summed scores (``predicted_and_measured``).
        measured: Negative losses.
        confidence: Coverage, in (0, 1).

    Returns:
        All NaN if every query has constant scores or losses.
    """
    means = bootstrap_means(predicted, measured, resamples=resamples, generator=generator)
    every_once = torch.ones(len(predicted), dtype=torch.float64)
    mean = _WeightedRanks(predicted, measured).correlation(every_once).nanmean()
    if not mean.isfinite():
        return Interval(mean=math.nan, low=math.nan, high=math.nan, standard_error=math.nan)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)) - means.mean() + mean
    return Interval(mean=mean.item(), low=low.item(), high=high.item(), standard_error=means.std().item())


def bootstrap_means(
    predicted: Float[Tensor, "subset query"],
    measured: Float[Tensor, "subset query"],
    *,
    resamples: int,
    generator: torch.Generator,
) -> Float[Tensor, " resample"]:
    """Mean LDS of every two-way resample; methods given equal generators are resampled alike (paired)."""
    subsets, queries = predicted.shape
    ranks = _WeightedRanks(predicted, measured)
    means = torch.empty(resamples, dtype=torch.float64)
    for index in progress(range(resamples), "bootstrap"):
        subset_counts = _resample_counts(subsets, generator)
        query_counts = _resample_counts(queries, generator)
        correlation = ranks.correlation(subset_counts)
        weights = torch.where(correlation.isnan(), 0.0, query_counts)
        means[index] = (correlation.nan_to_num() * weights).sum() / weights.sum()
    return means[means.isfinite()]


def _resample_counts(size: int, generator: torch.Generator) -> Float[Tensor, " item"]:
    chosen = torch.randint(size, (size,), generator=generator)
    return torch.bincount(chosen, minlength=size).double()


class _WeightedRanks:
    """Spearman's correlation when each subset counts several times, without sorting again.

    A value that stands c times, after b smaller ones, has the average rank b + (c + 1) / 2, and ties add up.
    """

    def __init__(self, predicted: Float[Tensor, "subset query"], measured: Float[Tensor, "subset query"]) -> None:
        self.sides = [self._prepare(values) for values in (predicted, measured)]

    def _prepare(self, values: Float[Tensor, "subset query"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        order, first, after = tie_groups(values)
        return order, order.argsort(dim=1), first, after

    def correlation(self, counts: Float[Tensor, " subset"]) -> Float[Tensor, " query"]:
        """Correlate with subset s counted ``counts[s]`` times."""
        centre = (counts.sum() + 1) / 2
        first, second = (self._ranks(side, counts) - centre for side in self.sides)
        weighted = first * counts
        product = (weighted * second).sum(dim=1)
        return product / ((weighted * first).sum(dim=1) * (second.square() @ counts)).sqrt()

    def _ranks(self, side: tuple[Tensor, Tensor, Tensor, Tensor], counts: Tensor) -> Float[Tensor, "query subset"]:
        order, place, first, after = side
        through = torch.nn.functional.pad(counts[order].cumsum(dim=1), (1, 0))
        ranks = (through.gather(1, first) + through.gather(1, after) + 1) / 2
        return ranks.gather(1, place)


def over_repeats(means: list[float], confidence: float) -> Interval:
    """Mean over repeats with its standard error; the interval is Student's t, NaN for a single repeat."""
    from scipy.stats import t

    values = torch.tensor(means, dtype=torch.float64)
    count = len(values)
    if count < 2:
        return Interval(mean=values.mean().item(), low=math.nan, high=math.nan, standard_error=math.nan)
    error = (values.std() / count**0.5).item()
    reach = float(t.ppf((1 + confidence) / 2, count - 1)) * error
    mean = values.mean().item()
    return Interval(mean=mean, low=mean - reach, high=mean + reach, standard_error=error)
