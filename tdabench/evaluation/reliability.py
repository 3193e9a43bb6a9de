"""How well any method could do: agreement between retrained models, and the ceiling it sets."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.lds import rank_correlation


def retrain_agreement(losses: Float[Tensor, "subset retrain query"]) -> float:
    """Mean Spearman correlation, over subsets, between two retrains of the same subsets (all pairs, all queries).

    Subsets with a diverged model are left out. NaN with a single retrain or fewer than 3 subsets.
    """
    losses = losses[losses.isfinite().all(dim=2).all(dim=1)].double()
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
