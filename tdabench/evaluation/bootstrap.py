"""A fast two-way bootstrap of mean rank correlations: many pairs on the same resamples, ranks taken anew in each."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tdabench.runtime.progress import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resamples:
    """How often each resample has each subset and each query; each is drawn as often as there are."""

    subsets: Float[Tensor, "resample subset"]
    queries: UInt8[Tensor, "resample query"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResampledMeans:
    """Mean correlation over the queries of each resample, a column a pair; NaN where every query is constant.

    Attributes:
        both: Subsets and queries resampled.
        subsets: The same resamples of the subsets, every query counted once.
    """

    both: Float[Tensor, "resample pair"]
    subsets: Float[Tensor, "resample pair"]


def draw_resamples(subsets: int, queries: int, *, resamples: int, generator: torch.Generator) -> Resamples:
    """Draw subsets and queries with replacement; equal generators give equal resamples."""
    return Resamples(
        subsets=draw_counts(subsets, resamples, generator).float(),
        queries=draw_counts(queries, resamples, generator),
    )


def draw_counts(size: int, resamples: int, generator: torch.Generator) -> UInt8[Tensor, "resample item"]:
    """Draw so many items with replacement, and count how often each resample has each."""
    counts = torch.zeros(resamples, size, dtype=torch.uint8)
    for part in counts.split(1000):
        chosen = torch.randint(size, part.shape, generator=generator)
        part.scatter_add_(1, chosen, torch.ones_like(part))
    return counts


def resampled_means(
    sides: Float[Tensor, "side subset query"],
    pairs: Sequence[tuple[int, int]],
    resamples: Resamples,
    *,
    factors: Float[Tensor, " query"] | None = None,
) -> ResampledMeans:
    r"""Correlate pairs of sides by rank in each resample, and average over its queries.

    With subset s counted :math:`w_s` times, :math:`N = \sum_s w_s`, its centred average rank on a side is

    .. math:: r_s = \sum_{t: x_t < x_s} w_t + \tfrac12 \sum_{t: x_t = x_s} w_t - \tfrac N2

    and the correlation of two sides is :math:`\sum_s w_s r_s r'_s` over the root of the two variances
    :math:`\sum_s w_s r_s^2`; without ties each is :math:`(N^3 - \sum_s w_s^3) / 12`: running sums in sorted order, for
    many resamples at once, in blocks that fit a core's cache.

    Args:
        pairs: Which two sides each column of the result is for; few different first ones are fastest.
        factors: What each query's correlation is multiplied by before the mean; 1 if not given.
    """
    factors = torch.ones(sides.shape[2]) if factors is None else factors
    firsts = sorted({first for first, _ in pairs})
    columns = [(firsts.index(first), second) for first, second in pairs]
    orders = _sorted_both_ways(sides)
    together, apart, weight, valid = torch.zeros(4, len(resamples.subsets), len(pairs), dtype=torch.float64)
    width = max(1, 32_000 // (min(1000, len(together)) * len(pairs)))
    with _one_thread():
        for start in progress(range(0, len(together), 1000), "bootstrap"):
            part = slice(start, start + 1000)
            weights, counts = resamples.subsets[part].T.contiguous(), resamples.queries[part].double().T
            blocks = (values.split(width) for values in (*orders, counts, factors))
            for forward, backward, count, factor in zip(*blocks, strict=True):
                found = _correlations(weights, forward, backward, firsts, columns).double() * factor[:, None, None]
                seen, found = found.isfinite().double(), found.nan_to_num()
                together[part] += torch.einsum("qpr,qr->rp", found, count)
                weight[part] += torch.einsum("qpr,qr->rp", seen, count)
                apart[part] += found.sum(dim=0).T
                valid[part] += seen.sum(dim=0).T
    return ResampledMeans(both=together / weight, subsets=apart / valid)


def _sorted_both_ways(
    sides: Float[Tensor, "side subset query"],
) -> tuple[Int[Tensor, "query side subset"], Int[Tensor, "query side subset"]]:
    """Sort subsets by value, equal ones by place and against it: the mean over both orders shares ranks of ties."""
    values = sides.permute(2, 0, 1).contiguous()
    forward = values.argsort(dim=2, stable=True)
    return forward, values.shape[2] - 1 - values.flip(2).argsort(dim=2, stable=True)


def _correlations(
    weights: Float[Tensor, "subset resample"],
    forward: Int[Tensor, "query side subset"],
    backward: Int[Tensor, "query side subset"],
    firsts: list[int],
    columns: list[tuple[int, int]],
) -> Float[Tensor, "query pair resample"]:
    queries, _, subsets = forward.shape
    ranks = _centred_ranks(weights, forward[:, firsts].flatten(0, 1), backward[:, firsts].flatten(0, 1))
    weighted = ranks * weights
    variances = (ranks * weighted).sum(dim=1).unflatten(0, (queries, len(firsts)))
    halves = (weights * weighted).sum(dim=1).unflatten(0, (queries, len(firsts))) / 2
    chosen, seconds = [first for first, _ in columns], [second for _, second in columns]
    starts = (torch.arange(queries)[:, None] * len(firsts) + torch.tensor(chosen)) * subsets  # (query, pair)
    orders = forward[:, seconds], backward[:, seconds]
    tied = (orders[0] != orders[1]).any(dim=2)
    product = _products(weights, weighted.flatten(0, 1), orders[0].flatten(0, 1), starts.flatten())
    product = product.unflatten(0, tied.shape)
    other = (_untied_variance(weights)).expand(product.shape)
    if tied.any():
        again = _products(weights, weighted.flatten(0, 1), orders[1][tied], starts[tied])
        product[tied] = (product[tied] + again) / 2
        shared = _centred_ranks(weights, orders[0][tied], orders[1][tied])
        other = other.clone()
        other[tied] = (shared.square() * weights).sum(dim=1)
    return (product - halves[:, chosen]) / (variances[:, chosen] * other).sqrt()


def _centred_ranks(
    weights: Float[Tensor, "subset resample"],
    forward: Int[Tensor, "column subset"],
    backward: Int[Tensor, "column subset"],
) -> Float[Tensor, "column subset resample"]:
    ranks = torch.empty(forward.numel(), weights.shape[1])
    starts = torch.arange(len(forward)) * len(weights)
    for order in (forward,) if torch.equal(forward, backward) else (forward, backward):
        found = torch.empty_like(ranks)
        for rows, running in zip((order + starts[:, None]).T, _running_sums(weights, order), strict=True):
            found.index_copy_(0, rows, running)
        ranks = found if order is forward else (ranks + found) / 2
    return ranks.unflatten(0, forward.shape) - weights / 2


def _products(
    weights: Float[Tensor, "subset resample"],
    weighted: Float[Tensor, "row resample"],
    order: Int[Tensor, "column subset"],
    starts: Int[Tensor, " column"],
) -> Float[Tensor, "column resample"]:
    """Sum the first side's weighted ranks times the second's running sums; each column's own rows begin at starts."""
    total = torch.zeros(len(order), weights.shape[1])
    step = torch.empty_like(total)
    for rows, running in zip((order + starts[:, None]).T.contiguous(), _running_sums(weights, order), strict=True):
        total.addcmul_(torch.index_select(weighted, 0, rows, out=step), running)
    return total


def _running_sums(
    weights: Float[Tensor, "subset resample"], order: Int[Tensor, "column subset"]
) -> Iterator[Float[Tensor, "column resample"]]:
    """Return the sum of the weights up to each place of the order, less half of all; always in the same buffer."""
    running = (-weights.sum(dim=0) / 2).repeat(len(order), 1)
    step = torch.empty_like(running)
    for chosen in order.T.contiguous():
        yield running.add_(torch.index_select(weights, 0, chosen, out=step))


def _untied_variance(weights: Float[Tensor, "subset resample"]) -> Float[Tensor, " resample"]:
    exact = weights.double()
    return ((exact.sum(dim=0) ** 3 - (exact**3).sum(dim=0)) / 12).float()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
