"""How much two methods agree: on the order of all training examples, and on the few most helpful or harmful ones."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.lds import average_ranks
from tdabench.progress import progress

# Scores in memory at once, over all methods, in float64.
BLOCK_SCORES = 2**22


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
    scores: Mapping[str, Float[Tensor, "query train"]],
    *,
    top: int,
    num_scored: int,
    resamples: int,
    confidence: float,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    r"""Compare every two methods, in the mapping's order, as means over the scored queries with bootstrap intervals.

    Rankings that have nothing to do with each other have an expected correlation of 0 and an expected overlap of
    :math:`k / n`: ``top`` divided by the number of training examples. The queries are resampled, alike for all pairs.

    Args:
        scores: By method; positive means helpful.
        top: Examples that the overlaps compare, :math:`k`.
        num_scored: The first so many queries are scored; the rest are for tuning.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        For each pair ``first``, ``second``, ``top``, ``queries`` and ``nan_queries`` (of the correlation, left out of
        its mean), and means with their bounds: ``rank_correlation``, ``rank_low``, ``rank_high``, ``overlap`` (of the
        most helpful) and ``harmful_overlap`` likewise.

    Raises:
        ValueError: If there are fewer than two methods, the scores' shapes differ, a score is not finite, or ``top``
            is not below the number of training examples.
    """
    agreement = agree_by_query({name: values[:num_scored] for name, values in scores.items()}, top=top)
    counts = _draw_counts(len(agreement.correlation), resamples, generator)
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


def agree_by_query(scores: Mapping[str, Float[Tensor, "query train"]], *, top: int) -> Agreement:
    """Compare every two methods on each query, pairs as ``itertools.combinations`` gives them.

    Raises:
        ValueError: If there are fewer than two methods, the scores' shapes differ, a score is not finite, or ``top``
            is not below the number of training examples.
    """
    _require_comparable(scores, top)
    num_query, num_train = next(iter(scores.values())).shape
    first, second = torch.triu_indices(len(scores), len(scores), offset=1)
    parts = []
    size = max(1, BLOCK_SCORES // (num_train * len(scores)))
    for start in progress(range(0, num_query, size), "agreement"):
        block = slice(start, start + size)
        values = torch.stack([method[block].double() for method in scores.values()], dim=1)  # (query, method, train)
        compared = (_correlate(values), _overlap(values, top), _overlap(-values, top))
        parts.append([matrix[:, first, second] for matrix in compared])
    correlation, helpful, harmful = (torch.cat(part) for part in zip(*parts, strict=True))
    return Agreement(correlation=correlation, helpful=helpful, harmful=harmful)


def _require_comparable(scores: Mapping[str, Tensor], top: int) -> None:
    shapes = {name: tuple(values.shape) for name, values in scores.items()}
    if len(scores) < 2:
        raise ValueError(f"Agreement needs the scores of at least 2 methods, got {len(scores)}: {list(scores)}.")
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Agreement needs scores of one shape (query, train), got {shapes}.")
    num_train = next(iter(shapes.values()))[1]
    if not 1 <= top < num_train:
        raise ValueError(f"top must be at least 1 and below the number of training examples ({num_train}), got {top}.")
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


def _draw_counts(num_query: int, resamples: int, generator: torch.Generator) -> Float[Tensor, "resample query"]:
    drawn = torch.randint(num_query, (resamples, num_query), generator=generator)
    return torch.zeros(resamples, num_query, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, dtype=torch.float64).expand_as(drawn)
    )


def _interval(
    values: Float[Tensor, "query pair"], counts: Float[Tensor, "resample query"], confidence: float
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Mean over queries and the percentile interval of its resamples; NaN queries are left out of both."""
    found = (~values.isnan()).double()
    means = (counts @ values.nan_to_num()) / (counts @ found)
    tail = (1 - confidence) / 2
    low, high = means.nanquantile(torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
    return values.nanmean(dim=0), low, high
