"""What chance alone reaches: the LDS of scores that know nothing of the bank, by permutation of the subsets."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdabench.evaluation.lds import standard_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class NullBand:
    """Where the mean LDS lies by chance, and the one-sided p-value of an LDS above zero."""

    low: float
    high: float
    p_value: float


def draw_permutations(subsets: int, *, count: int, generator: torch.Generator) -> Int[Tensor, "permutation subset"]:
    """Draw permutations of the subsets."""
    return torch.rand(count, subsets, generator=generator).argsort(dim=1)


def permutation_null(
    predicted: Float[Tensor, "subset query"],
    measured: Float[Tensor, "subset query"],
    permutations: Int[Tensor, "permutation subset"],
    *,
    confidence: float,
) -> NullBand:
    r"""Permute which subset a prediction is for, alike for every query, so that what queries share stays shared.

    The mean LDS under a permutation :math:`\pi` is :math:`\sum_s M_{\pi(s), s}` with the mean over queries of products
    of standardised ranks, :math:`M_{st} = \tfrac1q \sum_j z_{sj} z'_{tj}`: a sum of as many numbers as there are
    subsets. One is added to hits and permutations, as for every test by random permutations.

    Returns:
        All NaN if every query has constant predictions or losses.
    """
    first, second = (standard_ranks(values) for values in (predicted, measured))
    used = (first.isfinite() & second.isfinite()).all(dim=0)
    if not used.any():
        return NullBand(low=torch.nan, high=torch.nan, p_value=torch.nan)
    products = first[:, used] @ second[:, used].T / used.sum()
    drawn = products[permutations, torch.arange(len(products))].sum(dim=1)
    tail = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = drawn.quantile(tail).tolist()
    # Equal up to rounding is a hit: with few subsets, permutations repeat.
    hits = int((drawn >= products.trace() - 1e-12).sum())
    return NullBand(low=low, high=high, p_value=(1 + hits) / (1 + len(drawn)))
