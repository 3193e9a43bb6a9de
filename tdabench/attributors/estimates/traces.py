"""The scores that losses over draws around a checkpoint give."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Diverged, Problem
from tdabench.attributors.estimates.blocks import estimate_losses
from tdabench.attributors.running.run import AttributionWarning
from tdabench.attributors.sampling.chains import DIVERGED
from tdabench.storage.records import load_tensors, save_tensors


def estimate_scores(
    settings: Any, chains: Iterable[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query train"]:
    """Keep the traces in the workspace, leave diverged chains out, and return ``settings.estimate`` of the losses.

    Args:
        settings: The attributor: its ``estimate`` is ``covariance`` or ``correlation``, and its ``memory_gib`` the
            most memory of the estimate.
        chains: What ``record_chain`` gives for each.
        remedy: What to do against divergence.
        markov: Whether a draw depends on the one before it; the record keeps it, for `tdabench diagnose`.

    Raises:
        Diverged: If every chain diverged (a ValueError).
    """
    chains = list(chains)
    keep_traces(settings, chains, problem, markov=markov)
    converged = [has_converged(chain) for chain in chains]
    report_diverged(converged, remedy=remedy)
    good = [chain for chain, is_good in zip(chains, converged, strict=True) if is_good]
    return estimate_losses(
        [chain["query"] for chain in good],
        [chain["train"] for chain in good],
        estimate=settings.estimate,
        memory_gib=settings.memory_gib,
        workspace=problem.workspace,
    )


def estimate_self(settings: Any, problem: Problem) -> Float[Tensor, " train"]:
    """Return the diagonal of ``settings.estimate`` of the training losses with themselves, from the kept traces.

    That is their variance, centred in each chain; of a correlation, 1 where a loss moved at all.
    """
    kept = load_tensors(problem.workspace / "traces.safetensors", ["query", "train"])
    chains = [{name: traces[chain] for name, traces in kept.items()} for chain in range(len(kept["train"]))]
    good = [chain["train"] for chain in chains if has_converged(chain)]
    variance = torch.stack([losses.double().var(dim=0) for losses in good]).mean(dim=0)
    return variance if settings.estimate == "covariance" else (variance > 0).double()


def has_converged(chain: dict[str, Tensor]) -> bool:
    """Say whether every loss of a chain can be used."""
    return all(bool((chain[name].abs() < DIVERGED).all()) for name in ("query", "train"))  # NaN is not


def report_diverged(converged: Sequence[bool], *, remedy: str) -> None:
    """Warn of the chains that diverged.

    Raises:
        Diverged: If every one did.
    """
    if not any(converged):
        raise Diverged(f"Every BIF chain diverged: {remedy}.")
    if not all(converged):
        lost = [chain for chain, is_good in enumerate(converged) if not is_good]
        message = f"BIF chains {lost} of {len(converged)} diverged and are left out: {remedy}."
        warnings.warn(AttributionWarning(message), stacklevel=3)


def keep_traces(settings: Any, chains: Sequence[dict[str, Tensor]], problem: Problem, *, markov: bool = True) -> None:
    """Write the chains' traces to the workspace; see ``estimate_scores``."""
    traces = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    checkpoint = {name: traces[name][0] for name in traces if name.endswith("_checkpoint")}  # all chains have the same
    record = {"settings": settings, "markov": markov}
    save_tensors(problem.workspace / "traces.safetensors", {**traces, **checkpoint}, record)
