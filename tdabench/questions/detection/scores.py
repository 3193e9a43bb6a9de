"""Whether scores find the examples whose label was made wrong on purpose."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_counts
from tdabench.evaluation.lds import tie_groups
from tdabench.experiment.sections import EvaluationSettings

DETECTORS = ("self_influence", "mean_helpfulness")


def detection_values(
    scores: Float[Tensor, "query train"], self_influence: Float[Tensor, " train"], *, num_scored: int
) -> dict[str, Float[Tensor, " train"]]:
    r"""Turn scores into suspicion: higher means more likely mislabelled.

    ``self_influence``: the score of an example for itself, as it is. Scores are positive where an example lowers a
    loss; to first order its own is :math:`g_i^\top H^{-1} g_i`, which grows with the size of its gradient. A wrong
    label has to be learnt by heart: no other example lowers its loss, only itself, and it does so a lot.

    ``mean_helpfulness``: *minus* the mean score over the scored queries. Their labels are right: an example with a
    wrong one raises their losses, and its mean score is low.

    Args:
        num_scored: The first so many queries are scored; tuning queries don't count.
    """
    return {"self_influence": self_influence, "mean_helpfulness": -scores[:num_scored].double().mean(dim=0)}


def evaluate_detection(
    values: Float[Tensor, " train"],
    planted: Bool[Tensor, " train"],
    settings: EvaluationSettings,
    *,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Measure how well a suspicion ranks the planted wrong labels above the right ones.

    Args:
        values: Higher means more suspicious.
        generator: The stream of the bootstrap; the same one for every method makes the resamples paired.

    Returns:
        Numbers by name: ``auc`` (area under the ROC curve, 0.5 is chance), ``low``, ``high``, ``standard_error``,
        ``average_precision`` (chance is the share of wrong labels). All NaN if the values are constant up to rounding,
        which ranks nothing.

    Raises:
        ValueError: If there are no planted or no right labels, or a value is not finite.
    """
    from sklearn.metrics import average_precision_score

    if not values.isfinite().all():
        raise ValueError("Detection needs finite scores.")
    if not planted.any() or planted.all():
        raise ValueError(f"Detection needs wrong and right labels, got {int(planted.sum())} wrong of {len(planted)}.")
    # Scores are kept in float32.
    if values.max() - values.min() <= 1e-6 * values.abs().max():
        return dict.fromkeys(("auc", "low", "high", "standard_error", "average_precision"), math.nan)
    areas = _bootstrap_areas(values, planted, settings.resamples, generator)
    tail = (1 - settings.confidence) / 2
    low, high = areas.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return {
        "auc": area_under_roc(values, planted),
        "low": low,
        "high": high,
        "standard_error": areas.std().item(),
        "average_precision": float(average_precision_score(planted.numpy(), values.double().numpy())),
    }


def area_under_roc(values: Float[Tensor, " train"], planted: Bool[Tensor, " train"]) -> float:
    """Return the probability that a planted example has a higher value than a right one, ties counting half."""
    return _areas(values, planted, torch.ones(1, len(values), dtype=torch.float64)).item()


def _bootstrap_areas(
    values: Float[Tensor, " train"], planted: Bool[Tensor, " train"], resamples: int, generator: torch.Generator
) -> Float[Tensor, " resample"]:
    """Resample wrong and right labels apart (stratified): how many there are of each is not chance."""
    areas = []
    for block in torch.arange(resamples).split(64):  # one sort a block, and little memory
        counts = torch.zeros(len(block), len(values), dtype=torch.float64)
        for group in (planted, ~planted):
            counts[:, group] = draw_counts(int(group.sum()), len(block), generator).double()
        areas.append(_areas(values, planted, counts))
    return torch.cat(areas)


def _areas(
    values: Float[Tensor, " train"], planted: Bool[Tensor, " train"], counts: Float[Tensor, "resample train"]
) -> Float[Tensor, " resample"]:
    """Rank formula of the area, with example i counted ``counts[i]`` times."""
    order, first, after = (places.squeeze(0) for places in tie_groups(values[:, None]))
    wrong = planted[order]
    rights = torch.nn.functional.pad((counts[:, order] * ~wrong).cumsum(dim=1), (1, 0))
    # Right ones below, and half of those with the same value.
    beaten = (rights[:, first] + rights[:, after]) / 2
    wrongs = counts[:, order] * wrong
    return (wrongs * beaten).sum(dim=1) / (wrongs.sum(dim=1) * rights[:, -1])
