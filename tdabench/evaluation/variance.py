"""Where the uncertainty of a mean LDS comes from: queries, subsets, retraining, the checkpoint, the sampler."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.lds import standard_ranks

# Noise is added to losses that have it already: at half its size it makes their ranks a little less, not much less,
# predictable, and the variance is four times what is found.
PART = 0.5


def vary_retrains(
    predicted: Float[Tensor, "method subset query"],
    losses: Float[Tensor, "subset retrain query"],
    *,
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "draw method"]:
    r"""Draw mean LDS as other retrains of the same subsets would move them, around their mean.

    Of a subset's k models, k are drawn with replacement; the mean loss moves by :math:`\sqrt{k / (k - 1)}` times what
    that changes, since k models show only :math:`(k - 1) / k` of their variance. All queries see the same models.
    Subsets with one model that converged don't move.

    Args:
        losses: NaN for models that diverged; every subset has one that converged.

    Returns:
        Deviations whose variance is that of the mean LDS over retrains.
    """
    converged = losses.isfinite().all(dim=2)
    count = converged.sum(dim=1, keepdim=True).double()
    filled = losses.double().nan_to_num() * converged[..., None]
    mean = filled.sum(dim=1) / count
    ranks = torch.stack([standard_ranks(one) for one in predicted])
    rows = []
    for _ in range(draws):
        # A draw with replacement among the converged, as multinomial weights.
        chosen = torch.multinomial(converged.double(), losses.shape[1], replacement=True, generator=generator)
        used = torch.arange(losses.shape[1])[None] < count  # as many draws as models
        weights = torch.zeros_like(filled[..., 0]).scatter_add_(1, chosen, used.double())
        moved = (weights[..., None] * filled).sum(dim=1) / count - mean
        grown = moved * (count / (count - 1).clamp(min=1)).sqrt()
        rows.append(torch.einsum("msq,sq->mq", ranks, standard_ranks(-(mean + PART * grown))).nanmean(dim=1))
    found = torch.stack(rows)
    return (found - found.mean(dim=0)) / PART


def nested_variances(lds: Sequence[Sequence[float]]) -> tuple[float | None, float]:
    """Divide the variance of a method's mean LDS into that of the checkpoint's seed and that of the method's draws.

    One-way analysis of variance, runs within checkpoints: the draws' is the mean variance within; the checkpoint's is
    the variance of the checkpoints' means less the draws' part in it, and 0 where that is negative.

    Args:
        lds: One row a checkpoint, one column a run with other random numbers; at least 2 runs.

    Returns:
        The checkpoint's variance (None with a single checkpoint), and the draws'.

    Raises:
        ValueError: If there are fewer than two runs.
    """
    table = torch.tensor(lds, dtype=torch.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"Runs and checkpoints can't be told apart with fewer than 2 runs, got {list(table.shape)}.")
    draws = table.var(dim=1).mean().item()
    if len(table) < 2:
        return None, draws
    return max(0.0, table.mean(dim=1).var().item() - draws / table.shape[1]), draws
