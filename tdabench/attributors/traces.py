"""Losses over draws around a checkpoint, and the scores that they give."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, batches, num_examples
from tdabench.attributors.run import AttributionWarning
from tdabench.records import save_tensors
from tdabench.seeds import fork_generator

# Nats: a chain that ever has such a loss has left the model's neighbourhood for good.
DIVERGED = 1e6


def join_examples(problem: Problem) -> Examples:
    """Give the training examples and, after them, the queries: what is measured at every draw."""
    return {name: torch.cat([problem.train[name], problem.query[name]]) for name in problem.train}


def sample_chains(
    problem: Problem, sample: Callable[..., Tensor], *, chains: int, generator: torch.Generator
) -> Float[Tensor, "chain draw example"]:
    """Sample every chain on a stream of its own.

    Args:
        sample: ``(problem, examples, generator, description) -> (draw, example)``.
    """
    examples = join_examples(problem)
    device = next(iter(examples.values())).device
    traces = []
    for index in range(chains):
        stream = fork_generator(generator, device)
        traces.append(sample(problem, examples, stream, f"BIF chain {index + 1}/{chains}"))
    return torch.stack(traces)


@torch.no_grad()
def measure_losses(
    model: nn.Module, problem: Problem, examples: Examples, batch_size: int
) -> Float[Tensor, " example"]:
    """Measure every example's loss at a draw."""
    return torch.cat([problem.loss(model, batch) for batch in batches(examples, batch_size)])


def estimate_scores(
    settings: Any, traces: Float[Tensor, "chain draw example"], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query train"]:
    """Keep the traces in the workspace, leave diverged chains out, and give ``settings.estimate`` of the losses.

    Args:
        settings: The attributor: its ``estimate`` is ``covariance`` or ``correlation``.
        traces: Losses of the training examples and, after them, the queries.
        remedy: What to do against divergence.
        markov: Whether a draw depends on the one before it; the record keeps it, for `tdabench diagnose`.

    Raises:
        ValueError: If every chain diverged.
    """
    num_train = num_examples(problem.train)
    train, query = traces[..., :num_train], traces[..., num_train:]
    record = {"settings": settings, "markov": markov}
    save_tensors(problem.workspace / "traces.safetensors", {"train": train, "query": query}, record)
    converged = (traces.abs() < DIVERGED).all(dim=(1, 2))  # NaN is not
    if not converged.any():
        raise ValueError(f"Every BIF chain diverged: {remedy}.")
    if not converged.all():
        lost = (~converged).nonzero().flatten().tolist()
        message = f"BIF chains {lost} of {len(traces)} diverged and are left out: {remedy}."
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
