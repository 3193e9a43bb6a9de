"""The scores that losses over draws around a checkpoint give."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Diverged, Problem
from tdabench.attributors.blocks import estimate_losses
from tdabench.attributors.chains import DIVERGED
from tdabench.attributors.run import AttributionWarning
from tdabench.records import save_tensors


def estimate_scores(
    settings: Any, chains: Sequence[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query train"]:
    """Keep the traces in the workspace, leave diverged chains out, and give ``settings.estimate`` of the losses.

    Args:
        settings: The attributor: its ``estimate`` is ``covariance`` or ``correlation``, and its ``memory_gib`` the
            most memory of the estimate.
        chains: What ``record_chain`` gives for each.
        remedy: What to do against divergence.
        markov: Whether a draw depends on the one before it; the record keeps it, for `tdabench diagnose`.

    Raises:
        Diverged: If every chain diverged (a ValueError).
    """
    _keep_traces(chains, problem.workspace / "traces.safetensors", {"settings": settings, "markov": markov})
    losses = [(chain["query"], chain["train"]) for chain in chains]
    converged = [all((part.abs() < DIVERGED).all() for part in pair) for pair in losses]  # NaN is not
    if not any(converged):
        raise Diverged(f"Every BIF chain diverged: {remedy}.")
    if not all(converged):
        lost = [chain for chain, is_good in enumerate(converged) if not is_good]
        message = f"BIF chains {lost} of {len(chains)} diverged and are left out: {remedy}."
        warnings.warn(AttributionWarning(message), stacklevel=2)
    query, train = zip(*(pair for pair, is_good in zip(losses, converged, strict=True) if is_good), strict=True)
    return estimate_losses(
        query,
        train,
        estimate=settings.estimate,
        memory_gib=settings.memory_gib,
        workspace=problem.workspace,
    )


def _keep_traces(chains: Sequence[dict[str, Tensor]], path: Path, record: dict[str, Any]) -> None:
    traces = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    checkpoint = {name: traces[name][0] for name in traces if name.endswith("_checkpoint")}  # all chains have the same
    save_tensors(path, {**traces, **checkpoint}, record)
