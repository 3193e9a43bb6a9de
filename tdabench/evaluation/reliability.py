"""How well any method could do: agreement between retrained models, and the ceiling it sets."""

import dataclasses
import itertools
import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.bootstrap import Resamples, resampled_means
from tdabench.evaluation.intervals import Spread, make_spread, resample_lds
from tdabench.evaluation.lds import average_ranks, rank_correlation


def retrain_agreement(losses: Float[Tensor, "subset retrain query"]) -> float:
    """Mean Spearman correlation, over subsets, between two retrains of the same subsets (all pairs, all queries).

    Subsets with a diverged model are left out. NaN with a single retrain or fewer than 3 subsets.
    """
    losses = losses[without_diverged(losses)].double()
    if losses.shape[1] < 2 or len(losses) < 3:
        return math.nan
    pairs = itertools.combinations(range(losses.shape[1]), 2)
    return torch.stack([rank_correlation(losses[:, a], losses[:, b]).nanmean() for a, b in pairs]).mean().item()


def lds_ceiling(agreement: float, retrains: int) -> float:
    """LDS that a perfect predictor of the expected loss would reach, for the mean of several retrains.

    Spearman-Brown's reliability of the mean, ``k r / (1 + (k - 1) r)``, and its square root. NaN if the agreement is
    NaN or not positive.
    """
    if not agreement > 0:
        return math.nan
    return math.sqrt(retrains * agreement / (1 + (retrains - 1) * agreement))


def without_diverged(losses: Float[Tensor, "subset retrain query"]) -> Bool[Tensor, " subset"]:
    """Tell the subsets of which every model converged."""
    return losses.isfinite().all(dim=2).all(dim=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far a bank agrees with itself.

    Attributes:
        per_query: Agreement of each query, the mean over pairs of retrains; NaN where losses are constant.
        agreement: The mean over queries, with its uncertainty; None with a single retrain.
        retrains: Models that a subset's loss is averaged over.
    """

    per_query: Float[Tensor, " query"]
    agreement: Spread | None
    retrains: int

    def describe(self, confidence: float) -> dict[str, Any]:
        """Return agreement and ceiling with their intervals, and for each query.

        The ceiling rises with the agreement, so that its interval is that of the agreement, carried over; an agreement
        that may be zero gives a ceiling that may be zero.
        """
        if self.agreement is None:
            names = ("agreement", "ceiling")
            return {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
        interval = self.agreement.interval(confidence)
        low, high = (self._ceiling_of_end(end) for end in (interval.low, interval.high))
        per_query = self.per_query.tolist()
        return {
            "agreement": interval.mean,
            "agreement_low": interval.low,
            "agreement_high": interval.high,
            "ceiling": lds_ceiling(interval.mean, self.retrains),
            "ceiling_low": low,
            "ceiling_high": high,
            "agreement_per_query": per_query,
            "ceiling_per_query": [lds_ceiling(value, self.retrains) for value in per_query],
        }

    def share(self, lds: Spread, confidence: float) -> dict[str, float | None]:
        """Return an LDS as a share of the ceiling, with its interval; the draws must be on the same resamples."""
        if self.agreement is None:
            return {"share": None, "share_low": None, "share_high": None}
        draws = [spread.mean + spread.deviations for spread in (lds, self.agreement)]
        ceilings = torch.tensor([self._ceiling_of_end(agreement) for agreement in draws[1].tolist()])
        # Where the ceiling may be zero the share is unbounded: such a draw is infinite.
        shares = draws[0] / ceilings.double()
        ends = shares.nanquantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2]).double(),
                                  interpolation="nearest")  # fmt: skip
        low, high = ends.tolist()
        return {"share": lds.mean / lds_ceiling(self.agreement.mean, self.retrains), "share_low": low,
                "share_high": high}  # fmt: skip

    def _ceiling_of_end(self, agreement: float) -> float:
        # Nothing agrees better than fully; a draw may reach beyond.
        return 0.0 if agreement <= 0 else lds_ceiling(min(agreement, 1.0), self.retrains)


def measure_reliability(losses: Float[Tensor, "subset retrain query"], resamples: Resamples) -> Reliability:
    """Correlate every two retrains over the subsets, for each query and each resample.

    Subsets with a diverged model are left out, of the resamples too.

    Args:
        resamples: Of these subsets and queries; those of the methods, to put LDS and ceiling into one interval.
    """
    complete = without_diverged(losses)
    kept, retrains = losses[complete].double(), losses.shape[1]
    if retrains < 2 or len(kept) < 3:
        return Reliability(
            per_query=torch.full((losses.shape[2],), torch.nan).double(), agreement=None, retrains=retrains
        )
    pairs = list(itertools.combinations(range(retrains), 2))
    per_query = torch.stack([rank_correlation(kept[:, a], kept[:, b]) for a, b in pairs]).nanmean(dim=0)
    means = resampled_means(
        kept.transpose(0, 1), pairs, Resamples(subsets=resamples.subsets[:, complete], queries=resamples.queries)
    )
    agreement = make_spread(
        per_query, means.both.mean(dim=1), means.subsets.mean(dim=1), num_subsets=int(complete.sum()), bound=1.0
    )
    return Reliability(per_query=per_query, agreement=agreement, retrains=retrains)


def query_independent_oracle(measured: Float[Tensor, "subset query"], resamples: Resamples) -> Spread:
    """Return the LDS of an oracle that ranks the subsets alike for every query: by how the other queries fared.

    It knows the retrained models, and still answers only "which subsets are good", never "good for what": an LDS
    below it may be had without looking at the query.

    Args:
        measured: Negative losses.
    """
    ranks = average_ranks(measured)  # half integers: their sums are exact, and tie where they should
    others = ranks.sum(dim=1, keepdim=True) - ranks
    return resample_lds(others[None], measured, resamples).spread(0)
