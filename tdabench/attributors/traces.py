"""The scores that losses over draws around a checkpoint give."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Problem
from tdabench.attributors.chains import DIVERGED
from tdabench.attributors.run import AttributionWarning
from tdabench.records import save_tensors


def estimate_scores(
    settings: Any, chains: Sequence[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query train"]:
    """Keep the traces in the workspace, leave diverged chains out, and give ``settings.estimate`` of the losses.

    Args:
        settings: The attributor: its ``estimate`` is ``covariance`` or ``correlation``.
        chains: What ``record_chain`` gives for each.
        remedy: What to do against divergence.
        markov: Whether a draw depends on the one before it; the record keeps it, for `tdabench diagnose`.

    Raises:
        ValueError: If every chain diverged.
    """
    traces = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    checkpoint = {name: traces[name][0] for name in traces if name.endswith("_checkpoint")}  # all chains have the same
    record = {"settings": settings, "markov": markov}
    save_tensors(problem.workspace / "traces.safetensors", {**traces, **checkpoint}, record)
    train, query = traces["train"], traces["query"]
    converged = (torch.cat([train, query], dim=2).abs() < DIVERGED).all(dim=(1, 2))  # NaN is not
    if not converged.any():
        raise ValueError(f"Every BIF chain diverged: {remedy}.")
    if not converged.all():
        lost = (~converged).nonzero().flatten().tolist()
        message = f"BIF chains {lost} of {len(chains)} diverged and are left out: {remedy}."
        warnings.warn(AttributionWarning(message), stacklevel=2)
    estimate = loss_covariance if settings.estimate == "covariance" else loss_correlation
    return estimate(query[converged], train[converged])


def require_estimate(estimate: str) -> None:
    """Check the name of an estimate."""
    if estimate not in ("covariance", "correlation"):
        raise ValueError(f"estimate must be covariance or correlation, got {estimate!r}.")


def loss_covariance(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"]
) -> Float[Tensor, "query train"]:
    """Covariance of losses over draws, centred in each chain and averaged over chains (unbiased).

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    chains, draws = query.shape[:2]
    if draws < 2:
        raise ValueError(f"A covariance needs at least 2 draws a chain, got {draws}.")
    centred_query, centred_train = _centre(query), _centre(train)
    return centred_query.T @ centred_train / (chains * (draws - 1))


def loss_correlation(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"]
) -> Float[Tensor, "query train"]:
    """Pearson correlation of losses over draws, centred in each chain; 0 where a loss never moved.

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    if query.shape[1] < 2:
        raise ValueError(f"A correlation needs at least 2 draws a chain, got {query.shape[1]}.")
    centred_query, centred_train = (nn.functional.normalize(_centre(losses), dim=0) for losses in (query, train))
    return centred_query.T @ centred_train


def _centre(losses: Float[Tensor, "chain draw example"]) -> Float[Tensor, "sample example"]:
    # float64: losses vary little around means of order one.
    losses = losses.double()
    return (losses - losses.mean(dim=1, keepdim=True)).flatten(0, 1)
