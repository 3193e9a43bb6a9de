"""The linear datamodeling score (Park et al., 2023, arXiv:2303.14186; the paper's eq. 19)."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdabench.storage.matrix import Rows

# Queries whose scores are in memory at once, in float64: more of them are not faster.
QUERIES_AT_ONCE = 128


def linear_datamodeling_score(
    scores: Float[Tensor, "query train"],
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset query"],
) -> Float[Tensor, " query"]:
    r"""Rank-correlate, for each query, the summed scores of the subsets with the retrained losses.

    .. math:: \mathrm{LDS}_j = \mathrm{Spearman}_s \big( \textstyle\sum_{i \in D_s} \tau_{ji}, \; -\ell_j(D_s) \big)

    Args:
        scores: Positive means helpful.
        masks: Which examples each subset has.
        losses: Loss of each query, in models retrained on each subset.

    Returns:
        A correlation in [-1, 1] for each query, in float64; NaN where the summed scores or the losses are constant.

    Raises:
        ValueError: If shapes disagree, there are fewer than 3 subsets, or a score or loss is not finite.

    Example:
        Scores that are minus what each example adds to the loss rank the subsets perfectly.

        >>> masks = torch.tensor([[True, True, False], [True, False, True], [False, True, True]])
        >>> added = torch.tensor([[0.1, 0.5, -0.3]])
        >>> linear_datamodeling_score(-added, masks, masks.float() @ added.T)
        tensor([1.], dtype=torch.float64)
    """
    predicted, measured = predicted_and_measured(scores, masks, losses)
    return rank_correlation(predicted, measured)


def predicted_and_measured(
    scores: Float[Tensor, "query train"] | Rows,
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset query"],
    *,
    at_once: int = QUERIES_AT_ONCE,
) -> tuple[Float[Tensor, "subset query"], Float[Tensor, "subset query"]]:
    """Sum the scores over each subset, and turn the losses round: in both, higher is better.

    Args:
        at_once: Queries whose scores are in memory at a time. Another number may change the last bit of a sum, since
            a matrix product of another shape may add in another order.

    Raises:
        ValueError: If shapes disagree, there are fewer than 3 subsets, or a score or loss is not finite.
    """
    expected = (len(masks), scores.shape[0])
    if losses.shape != expected or masks.shape[1] != scores.shape[1]:
        raise ValueError(
            "Scores (query, train), masks (subset, train) and losses (subset, query) disagree: "
            f"{tuple(scores.shape)}, {tuple(masks.shape)}, {tuple(losses.shape)}."
        )
    if len(masks) < 3:
        raise ValueError(f"The LDS needs at least 3 subsets, got {len(masks)}.")
    if not losses.isfinite().all():
        raise ValueError("The LDS needs finite losses; a retrained model diverged.")
    predicted = _sum_over_subsets(scores, masks, at_once)
    if not predicted.isfinite().all():
        raise ValueError("The LDS needs finite scores.")
    # Equal scores give equal sums up to rounding: such a query must count as constant.
    spread = predicted.amax(dim=0) - predicted.amin(dim=0)
    constant = spread <= 1e-12 * predicted.abs().amax(dim=0)
    return torch.where(constant, 0.0, predicted), -losses.double()


def _sum_over_subsets(
    scores: Float[Tensor, "query train"] | Rows, masks: Bool[Tensor, "subset train"], at_once: int
) -> Float[Tensor, "subset query"]:
    # Through one buffer: the scores in float64 never stand in memory as a whole.
    kept = masks.double().T
    buffer = torch.empty(min(at_once, scores.shape[0]), scores.shape[1], dtype=torch.float64)
    return torch.cat([buffer[: len(part)].copy_(part) @ kept for part in scores.split(at_once)]).T


def rank_correlation(
    first: Float[Tensor, "subset query"], second: Float[Tensor, "subset query"]
) -> Float[Tensor, " query"]:
    """Spearman's correlation over subsets, with average ranks; NaN where one side is constant."""
    centre = (len(first) + 1) / 2
    first, second = average_ranks(first) - centre, average_ranks(second) - centre
    return (first * second).sum(dim=0) / (first.square().sum(dim=0) * second.square().sum(dim=0)).sqrt()


def standard_ranks(values: Float[Tensor, "subset query"]) -> Float[Tensor, "subset query"]:
    """Rank over subsets, centred and of length 1: products of two sides sum to Spearman's correlation."""
    centred = average_ranks(values) - (len(values) + 1) / 2
    return centred / centred.norm(dim=0)


def average_ranks(values: Float[Tensor, "subset query"]) -> Float[Tensor, "subset query"]:
    """Rank over subsets from 1, ties sharing their mean rank."""
    order, first, after = tie_groups(values)
    ranks = (first + after + 1).double() / 2
    return torch.empty_like(ranks).scatter_(1, order, ranks).T


def tie_groups(
    values: Float[Tensor, "subset query"],
) -> tuple[Int[Tensor, "query subset"], Int[Tensor, "query subset"], Int[Tensor, "query subset"]]:
    """Sort each query's subsets; for every sorted place, find the group of places that hold the same value.

    Returns:
        The sorting order, each group's first place, and the place after its last, from 0; one row a query, so that
        sorting and sums run along memory.
    """
    ordered, order = values.T.contiguous().sort(dim=1)
    count = ordered.shape[1]
    place = torch.arange(count).expand_as(order)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    if starts.all():
        return order, place, place + 1
    first = torch.where(starts, place, 0).cummax(dim=1).values
    ends = torch.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    after = torch.where(ends, place + 1, count).flip(1).cummin(dim=1).values.flip(1)
    return order, first, after


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A bank that is ready to be compared with.

    Attributes:
        losses: Mean over a subset's retrains that converged.
        diverged: Retrained models left out.
        dropped: Subsets left out, since none of their models converged.
    """

    masks: Bool[Tensor, "subset train"]
    losses: Float[Tensor, "subset query"]
    diverged: int
    dropped: int


def average_retrains(masks: Bool[Tensor, "subset train"], losses: Float[Tensor, "subset retrain query"]) -> GroundTruth:
    """Average the losses over each subset's retrains; diverged models (NaN) are left out and counted.

    Raises:
        ValueError: If fewer than 3 subsets have a model that converged.
    """
    converged = losses.isfinite().all(dim=2)
    kept = converged.any(dim=1)
    if kept.sum() < 3:
        raise ValueError(
            f"{int((~converged).sum())} of {converged.numel()} retrained models diverged, which leaves "
            f"{int(kept.sum())} subsets and the LDS needs 3: lower training.learning_rate."
        )
    weights = converged.double()[..., None]
    means = (losses.double().nan_to_num() * weights).sum(dim=1) / weights.sum(dim=1)
    return GroundTruth(
        masks=masks[kept], losses=means[kept], diverged=int((~converged).sum()), dropped=int((~kept).sum())
    )
