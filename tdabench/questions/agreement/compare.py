"""How much two methods agree: on the order of all training examples, and on the few most helpful or harmful ones."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_counts
from tdabench.evaluation.lds import average_ranks
from tdabench.evaluation.memory import queries_at_once
from tdabench.experiment.sections import EvaluationSettings
from tdabench.runtime.progress import progress
from tdabench.storage.matrix import Rows

# Scores in memory at once, over all methods; what each takes while it is ranked, in bytes (measured: 186).
BLOCK_SCORES, RANKED_BYTES = 2**22, 200
# What is compared, and how its bounds are named.
SHORT = {"rank_correlation": "rank", "overlap": "overlap", "harmful_overlap": "harmful"}


def compare_methods(
    scores: Mapping[str, Float[Tensor, "query train"] | Rows],
    settings: EvaluationSettings,
    *,
    num_scored: int,
    generator: torch.Generator,
    beside: int = 0,
) -> list[dict[str, Any]]:
    r"""Compare every two methods, in the mapping's order, as means over the scored queries with bootstrap intervals.

    Rankings that have nothing to do with each other have an expected correlation of 0 and an expected overlap of
    :math:`k / n`: ``top`` divided by the number of training examples. The queries are resampled, alike for all pairs.

    Args:
        scores: By method; positive means helpful.
        num_scored: The first so many queries are scored; the rest are for tuning.
        beside: Bytes of the memory that are needed for something else.

    Returns:
        For each pair ``first``, ``second``, ``top``, ``queries`` and ``nan_queries`` (of the correlation, left out of
        its mean), and means with their bounds: ``rank_correlation``, ``rank_low``, ``rank_high``, ``overlap`` (of the
        most helpful) and ``harmful_overlap`` likewise.

    Raises:
        ValueError: As ``agree_by_query``.
    """
    scored = {name: values.narrow(0, 0, min(num_scored, values.shape[0])) for name, values in scores.items()}
    counted = 24 * settings.resamples * num_scored  # which queries each resample has, and how often in float64
    agreement = agree_by_query(scored, top=settings.top, memory_gib=settings.memory_gib, beside=beside + counted)
    correlation = agreement["rank_correlation"]
    counts = draw_counts(len(correlation), settings.resamples, generator).double()
    means = {name: _interval(values, counts, settings.confidence) for name, values in agreement.items()}
    rows = []
    for index, (first, second) in enumerate(itertools.combinations(scores, 2)):
        row = {"first": first, "second": second, "top": settings.top, "queries": len(correlation)}
        row["nan_queries"] = int(correlation[:, index].isnan().sum())
        for name, short in SHORT.items():
            row |= dict(zip((name, f"{short}_low", f"{short}_high"), means[name][:, index].tolist(), strict=True))
        rows.append(row)
    return rows


def agree_by_query(
    scores: Mapping[str, Float[Tensor, "query train"] | Rows],
    *,
    top: int,
    memory_gib: float | None = None,
    beside: int = 0,
) -> dict[str, Float[Tensor, "query pair"]]:
    """Compare every two methods on each query, pairs as ``itertools.combinations`` gives them.

    Args:
        memory_gib: Most resident memory of the process in GiB; None for no limit.
        beside: Bytes of it that are needed for something else.

    Returns:
        ``rank_correlation``: Spearman's over training examples, NaN where a method's scores are constant; ``overlap``:
        the share of the ``top`` highest scored examples that both have; ``harmful_overlap``: that of the lowest ones.

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
    return {name: torch.cat(part) for name, part in zip(SHORT, zip(*parts, strict=True), strict=True)}


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
) -> Float[Tensor, "bound pair"]:
    """Mean over queries and the percentile interval of its resamples; NaN queries are left out of both."""
    found = (~values.isnan()).double()
    means = (counts @ values.nan_to_num()) / (counts @ found)
    tail = (1 - confidence) / 2
    bounds = means.nanquantile(torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
    return torch.cat([values.nanmean(dim=0, keepdim=True), bounds])
