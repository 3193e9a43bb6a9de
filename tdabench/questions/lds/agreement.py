"""How much two methods agree: on the order of all training examples, and on the few most helpful or harmful ones."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_counts
from tdabench.evaluation.lds import average_ranks
from tdabench.evaluation.memory import queries_at_once
from tdabench.runtime.progress import progress
from tdabench.storage.matrix import Rows

# Scores in memory at once, over all methods; what each takes while it is ranked, in bytes (measured: 186).
BLOCK_SCORES, RANKED_BYTES = 2**22, 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of every two methods on each query.

    Attributes:
        correlation: Spearman's, over training examples; NaN where a method's scores are constant.
        helpful: Share of the ``top`` highest scored examples that both have.
        harmful: The same of the lowest scored ones.
    """

    correlation: Float[Tensor, "query pair"]
    helpful: Float[Tensor, "query pair"]
    harmful: Float[Tensor, "query pair"]


def compare_methods(
    scores: Mapping[str, Float[Tensor, "query train"] | Rows],
    *,
    top: int,
    num_scored: int,
    resamples: int,
    confidence: float,
    generator: torch.Generator,
    memory_gib: float | None = None,
    beside: int = 0,
) -> list[dict[str, Any]]:
    r"""Compare every two methods, in the mapping's order, as means over the scored queries with bootstrap intervals.

    Rankings that have nothing to do with each other have an expected correlation of 0 and an expected overlap of
    :math:`k / n`: ``top`` divided by the number of training examples. The queries are resampled, alike for all pairs.

    Args:
        scores: By method; positive means helpful.
        top: Examples that the overlaps compare, :math:`k`.
        num_scored: The first so many queries are scored; the rest are for tuning.
        confidence: Coverage of the intervals, in (0, 1).
        memory_gib: Most resident memory of the process in GiB; None for no limit.
        beside: Bytes of it that are needed for something else.

    Returns:
        For each pair ``first``, ``second``, ``top``, ``queries`` and ``nan_queries`` (of the correlation, left out of
        its mean), and means with their bounds: ``rank_correlation``, ``rank_low``, ``rank_high``, ``overlap`` (of the
        most helpful) and ``harmful_overlap`` likewise.

    Raises:
        ValueError: If there are fewer than two methods, the scores' shapes differ, a score is not finite, or ``top``
            is not below the number of training examples; if the memory is too little.
    """
    counted = 24 * resamples * num_scored  # which queries each resample has, and how often in float64
    agreement = agree_by_query(
        {name: values.narrow(0, 0, min(num_scored, values.shape[0])) for name, values in scores.items()},
        top=top,
        memory_gib=memory_gib,
        beside=beside + counted,
    )
    counts = draw_counts(len(agreement.correlation), resamples, generator).double()
    means = {
        "rank_correlation": ("rank", _interval(agreement.correlation, counts, confidence)),
        "overlap": ("overlap", _interval(agreement.helpful, counts, confidence)),
        "harmful_overlap": ("harmful", _interval(agreement.harmful, counts, confidence)),
    }
    rows = []
    for index, (first, second) in enumerate(itertools.combinations(scores, 2)):
        row: dict[str, Any] = {"first": first, "second": second, "top": top}
        row["queries"] = len(agreement.correlation)
        row["nan_queries"] = int(agreement.correlation[:, index].isnan().sum())
        for name, (short, (mean, low, high)) in means.items():
            row |= {name: mean[index].item(), f"{short}_low": low[index].item(), f"{short}_high": high[index].item()}
        rows.append(row)
    return rows


def agree_by_query(
    scores: Mapping[str, Float[Tensor, "query train"] | Rows],
    *,
    top: int,
    memory_gib: float | None = None,
    beside: int = 0,
) -> Agreement:
    """Compare every two methods on each query, pairs as ``itertools.combinations`` gives them.

    Args:
        memory_gib: Most resident memory of the process in GiB; None for no limit.
        beside: Bytes of it that are needed for something else.

    Raises:
        ValueError: If there are fewer than two methods, the scores' shapes differ, a score is not finite, ``top`` is
            not below the number of training examples, or the memory is too little.
    """
    _require_comparable(scores, top)
    num_query, num_train = next(iter(scores.values())).shape
    of_a_query = len(scores) * num_train
    most = max(1, BLOCK_SCORES // of_a_query)
    size = queries_at_once(memory_gib, beside=beside, per_query=RANKED_BYTES * of_a_query, most=most)
    first, second = torch.triu_indices(len(scores), len(scores), offset=1)
    parts = []
    blocks = zip(*(values.split(size) for values in scores.values()), strict=True)
    for block in progress(blocks, "agreement", total=-(-num_query // size)):
        values = torch.stack([method.double() for method in block], dim=1)  # (query, method, train)
        _require_finite(dict(zip(scores, block, strict=True)))
        compared = (_correlate(values), _overlap(values, top), _overlap(-values, top))
        parts.append([matrix[:, first, second] for matrix in compared])
    correlation, helpful, harmful = (torch.cat(part) for part in zip(*parts, strict=True))
    return Agreement(correlation=correlation, helpful=helpful, harmful=harmful)


def _require_comparable(scores: Mapping[str, Tensor | Rows], top: int) -> None:
    shapes = {name: tuple(values.shape) for name, values in scores.items()}
    if len(scores) < 2:
        raise ValueError(f"Agreement needs the scores of at least 2 methods, got {len(scores)}: {list(scores)}.")
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Agreement needs scores of one shape (query, train), got {shapes}.")
    num_train = next(iter(shapes.values()))[1]
    if not 1 <= top < num_train:
        raise ValueError(f"top must be at least 1 and below the number of training examples ({num_train}), got {top}.")


def _require_finite(scores: Mapping[str, Tensor]) -> None:
    wrong = [name for name, values in scores.items() if not values.isfinite().all()]
    if wrong:
        raise ValueError(f"Agreement needs finite scores; not so: {', '.join(wrong)}.")


def _correlate(values: Float[Tensor, "query method train"]) -> Float[Tensor, "query method method"]:
    ranks = average_ranks(values.flatten(0, 1).T).T.unflatten(0, values.shape[:2])
    centred = ranks - (values.shape[2] + 1) / 2
    product = centred @ centred.mT
    scale = product.diagonal(dim1=1, dim2=2).sqrt()
    return product / (scale[:, :, None] * scale[:, None, :])


def _overlap(values: Float[Tensor, "query method train"], top: int) -> Float[Tensor, "query method method"]:
    """Share of the ``top`` largest that two methods have in common.

    Examples that tie for the last places share them: the expectation if each method broke its ties by lot.
    """
    last = values.topk(top, dim=2).values[..., -1:]
    above, tied = (values > last).double(), (values == last).double()
    places = top - above.sum(dim=2, keepdim=True)
    members = above + tied * places / tied.sum(dim=2, keepdim=True)
    return members @ members.mT / top


def _interval(
    values: Float[Tensor, "query pair"], counts: Float[Tensor, "resample query"], confidence: float
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Mean over queries and the percentile interval of its resamples; NaN queries are left out of both."""
    found = (~values.isnan()).double()
    means = (counts @ values.nan_to_num()) / (counts @ found)
    tail = (1 - confidence) / 2
    low, high = means.nanquantile(torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
    return values.nanmean(dim=0), low, high
