r"""Where the LDS would end with ever more draws, and how much the draws leave to chance.

Noise in a query's scores shrinks its correlation with the truth by the root of their reliability
:math:`\rho_j = 1 / (1 + c_j / T)` (Spearman, 1904), and independent chains show the reliability itself: it is the share
of the variance of the subsets' sums that chains have in common, known in closed form from the scores, with none of the
bank's noise. So

.. math:: \mathrm{LDS}_\infty = \sum_j \mathrm{LDS}_j \sqrt{\rho_j} \Big/ \sum_j \rho_j

(least squares over the queries; those that are all noise weigh nothing). To fit both numbers to the curve of the mean
LDS instead uses the same draws with two to three times the error, and reads what slow chains add late as a lower end.

The interval is the two-way bootstrap's for given draws, widened by the jackknife's error over the draws. It errs to the
safe side, since chance agreement of the noise with single subsets is in both, and the jackknife counts it once more: in
simulations it is about half as wide again as it had to be. It is about the limit of more chains like these: what no
chain has seen is not in it.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples, resampled_means
from tdabench.evaluation.intervals import NO_INTERVAL, Interval, make_spread
from tdabench.evaluation.lds import GroundTruth, predicted_and_measured, rank_correlation
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.lds.growth import Estimate, estimated_rows, estimates_at_once

# Fewest draws a chain from which the LDS is extrapolated; blocks of draws that the jackknife leaves out in turn.
FEWEST, BLOCKS = 8, 20
# Share of the scores' variance that is no noise, below which nothing is extrapolated.
LEAST_RELIABILITY = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    r"""Where the LDS ends: :math:`\mathrm{LDS}(T) \approx \mathrm{LDS}_\infty / \sqrt{1 + c / T}`.

    Attributes:
        interval: Of :math:`\mathrm{LDS}_\infty`, over subsets, queries and draws; NaN if nothing can be said.
        half_draws: :math:`c`, the draws a chain at which half of the scores' variance is noise.
        reliability: Share of the scores' variance over subsets that is no noise, the mean over queries.
        monte_carlo_error: Standard error of the LDS at all draws, over other draws alone.
        limit_error: The same of the limit.
        note: Why there is no limit, if there is none.
    """

    interval: Interval = NO_INTERVAL
    half_draws: float = math.nan
    reliability: float = math.nan
    monte_carlo_error: float = math.nan
    limit_error: float = math.nan
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """What all draws, or all but a block, say; one a query, and what is made of them."""

    lds: Float[Tensor, " query"]
    reliability: Float[Tensor, " query"]
    predicted: Float[Tensor, "subset query"]

    @property
    def mean(self) -> float:
        return self.lds.nanmean().item()

    @property
    def weights(self) -> Float[Tensor, " query"]:
        """Root of the reliability, by which noise shrinks the LDS; 0 where there is none, or no LDS."""
        return torch.where(self.lds.isfinite(), self.reliability.clamp(0, 1).sqrt(), 0)

    @property
    def limit(self) -> float:
        """Least squares of the LDS on the weights, through the origin."""
        weights = self.weights
        return ((self.lds.nan_to_num() * weights).sum() / weights.square().sum()).item()

    @property
    def mean_reliability(self) -> float:
        return self.reliability.nanmean().item()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Traces:
    query: Float[Tensor, "chain draw query"]
    train: Float[Tensor, "chain draw train"]
    estimate: Estimate
    truth: GroundTruth
    at_once: int

    def look(self, kept: Bool[Tensor, " draw"]) -> _Found:
        """Return what some of the draws say."""
        sizes = self.truth.masks.sum(dim=1)
        equal_sizes = bool((sizes == sizes[0]).all())
        scores = estimated_rows(self.query[:, kept], self.train[:, kept], self.estimate)
        both = predicted_and_measured(scores, self.truth.masks, self.truth.losses, at_once=self.at_once)
        parts = [
            estimated_rows(self.query[chains][:, draws], self.train[chains][:, draws], self.estimate).split(
                self.at_once
            )
            for chains, draws in _independent_parts(self.query, kept)
        ]
        found = [reliability_of(torch.stack(block), equal_sizes=equal_sizes) for block in zip(*parts, strict=True)]
        return _Found(lds=rank_correlation(*both), reliability=torch.cat(found), predicted=both[0])


def extrapolate(
    query: Float[Tensor, "chain draw query"],
    train: Float[Tensor, "chain draw train"],
    estimate: Estimate,
    truth: GroundTruth,
    settings: EvaluationSettings,
    *,
    generator: torch.Generator,
) -> Limit:
    """Say where the LDS ends with ever more such draws, from how much the chains' scores agree.

    The arguments are those of ``measure_growth``; a single chain is taken for two, its halves.
    """
    draws = query.shape[1]
    if draws < FEWEST:
        return Limit(note=f"{draws} draws a chain are too few to extrapolate: {FEWEST} are needed.")
    traces = _Traces(query=query, train=train, estimate=estimate, truth=truth,
                     at_once=estimates_at_once(query, train, truth, settings))  # fmt: skip
    found = traces.look(torch.ones(draws, dtype=torch.bool))
    if not found.lds.isfinite().any():
        return Limit(note="Every query has constant scores or losses.")
    left = [traces.look(kept) for kept in _leave_out(draws)]
    error, limit_error, reliability_error = (
        jackknife_error([getattr(one, name) for one in left]) for name in ("mean", "limit", "mean_reliability")
    )
    reliability = found.mean_reliability
    known = {"reliability": reliability, "monte_carlo_error": error}
    if not reliability > max(LEAST_RELIABILITY, 2 * reliability_error):
        note = "The chains' scores agree no more than noise does: more draws are needed before anything can be said."
        return Limit(**known, note=note)
    if found.limit > 1:
        note = "The chains agree too little for so high an LDS: their draws are not independent of one another."
        return Limit(**known, note=note)
    interval = _interval_of_limit(traces, found, limit_error, settings, generator)
    return Limit(interval=interval, half_draws=draws * (1 / reliability - 1), limit_error=limit_error, **known)


def jackknife_error(values: Sequence[float]) -> float:
    """Return the standard error of an estimate from its values with each block left out in turn."""
    found = torch.tensor(values, dtype=torch.float64)
    return math.sqrt((len(found) - 1) * found.var(correction=0).item())


def reliability_of(parts: Float[Tensor, "part query train"], *, equal_sizes: bool) -> Float[Tensor, " query"]:
    r"""Return the share of variance that the parts' mean has in common, over random subsets' summed scores.

    Sums over subsets of equal size vary as the scores do around their mean, those of other subsets as around zero.
    Of k parts, mean covariance over mean variance is :math:`r`, and their mean has :math:`k r / (1 + (k - 1) r)`
    (Spearman and Brown). It may be negative, as an estimate of nothing; NaN where no score differs.
    """
    values = parts.double()
    values = values - values.mean(dim=2, keepdim=True) if equal_sizes else values
    count = len(values)
    squares = values.square().sum(dim=(0, 2))
    shared = (values.sum(dim=0).square().sum(dim=1) - squares) / (count - 1) / squares
    return count * shared / (1 + (count - 1) * shared)


def _independent_parts(
    query: Float[Tensor, "chain draw query"], kept: Bool[Tensor, " draw"]
) -> list[tuple[slice, Int[Tensor, " kept_draw"]]]:
    """Name the chains, or the halves of a single one, each with its draws that are kept."""
    chains, draws = query.shape[:2]
    if chains > 1:
        return [(slice(chain, chain + 1), kept.nonzero().flatten()) for chain in range(chains)]
    middle = draws // 2
    return [(slice(0, 1), kept[:middle].nonzero().flatten()), (slice(0, 1), middle + kept[middle:].nonzero().flatten())]


def _leave_out(draws: int) -> list[Bool[Tensor, " draw"]]:
    """Leave out each block of draws in turn, of all chains at once."""
    blocks = min(BLOCKS, draws // 2)
    block_of = torch.arange(draws) * blocks // draws
    return [block_of != block for block in range(blocks)]


def _interval_of_limit(
    traces: _Traces, found: _Found, limit_error: float, settings: EvaluationSettings, generator: torch.Generator
) -> Interval:
    """Make the interval of the limit over subsets and queries for these draws, and widen it by the draws' error."""
    predicted, measured = found.predicted, -traces.truth.losses.double()
    drawn = draw_resamples(*measured.shape, resamples=settings.resamples, generator=generator)
    weights = found.weights
    means = resampled_means(torch.stack([measured, predicted]), [(0, 1)], drawn, factors=weights)
    counts, squares, seen = drawn.queries.double(), weights.square(), found.lds.isfinite()
    both = means.both[:, 0] / (counts @ squares / (counts @ seen.double()))
    subsets = means.subsets[:, 0] / squares[seen].mean()
    # A ratio of two means, to first order in each query.
    limit = found.limit
    each = limit + (found.lds * weights - limit * squares) / squares[seen].mean()
    spread = make_spread(each, both, subsets, num_subsets=len(measured))
    # Errors over draws and over subsets and queries are independent.
    wider = math.hypot(1, limit_error / spread.standard_error) if spread.standard_error > 0 else 1.0
    interval = dataclasses.replace(spread, deviations=spread.deviations * wider).interval(settings.confidence)
    return dataclasses.replace(interval, standard_error=math.hypot(spread.standard_error, limit_error))
