"""Chains: losses of every example at draws around a checkpoint, each chain a piece of work of its own."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, batches, num_examples
from tdabench.attributors.sampling.sgld import Step
from tdabench.examples import batch_size_of
from tdabench.runtime.progress import progress
from tdabench.seeds import fork_generator

# Nats: a chain that ever has such a loss has left the model's neighbourhood for good.
DIVERGED = 1e6

Measure = Callable[[nn.Module, int | None], Float[Tensor, " example"]]


def chain_generator(problem: Problem, chain: int, generator: torch.Generator) -> torch.Generator:
    """Return the stream of a chain, on the examples' device; the method's generator is left where it is.

    Chains can so be sampled in any order, in any number of processes.

    Args:
        chain: Which one, from 0.
        generator: The method's, as ``attribute`` gets it.
    """
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    device = next(iter(problem.train.values())).device
    return [fork_generator(copy, device) for _ in range(chain + 1)][-1]


def join_examples(problem: Problem) -> Examples:
    """Return the training examples and, after them, the queries: what is measured at every draw."""
    return {name: torch.cat([problem.train[name], problem.query[name]]) for name in problem.train}


def measured_parts(problem: Problem) -> list[Examples]:
    """Return what is measured at every draw, in as few parts as possible: queries may be longer than the others."""
    same = all(values.shape[1:] == problem.query[name].shape[1:] for name, values in problem.train.items())
    return [join_examples(problem)] if same else [problem.train, problem.query]


@torch.no_grad()
def measure_losses(
    model: nn.Module, problem: Problem, examples: Examples, batch_size: int | None
) -> Float[Tensor, " example"]:
    """Measure every example's loss at a draw, so many at a time; None for as many as fit in a little memory."""
    return torch.cat([problem.loss(model, batch) for batch in batches(examples, batch_size or batch_size_of(examples))])


def chain_batches(settings: Any, problem: Problem) -> dict[str, int]:
    """Return the most examples at once of a method whose chains ``record_chain`` records, by its settings."""
    losses = settings.loss_batch_size or batch_size_of(problem.train)
    return {"train": losses, "query": losses, "reference": settings.microbatch or settings.batch_size}


def record_chain(
    problem: Problem,
    steps: Iterator[Step],
    *,
    draws: int,
    burn_in: int = 0,
    steps_between_draws: int = 1,
    loss_batch_size: int | None,
    description: str,
    measure: Measure | None = None,
) -> dict[str, Tensor]:
    """Walk a chain and measure every example's loss at its draws; a chain that diverges is left where it did.

    Args:
        steps: Lazily, ``burn_in + draws * steps_between_draws`` of them.
        description: For the progress bar.
        measure: What gives the losses, those of the training examples before those of the queries: called with the
            checkpoint and None, and with the model and number of each draw. None for ``problem.loss`` of each.

    Returns:
        ``train`` (draw, train) and ``query`` (draw, query): losses in nats, NaN after a divergence;
        ``train_checkpoint`` (train) and ``query_checkpoint`` (query): those of the checkpoint; ``distance`` (draw):
        from the checkpoint, Euclidean; ``step_loss`` (step): the minibatches'; ``cpu_seconds`` (draw): CPU time of the
        process since the chain's start; ``draw_step`` (draw): after how many steps it was.

    Raises:
        ValueError: If the checkpoint has a loss where no chain can begin.
    """
    parts = measured_parts(problem)
    if measure is None:
        measure = lambda model, _: torch.cat([measure_losses(model, problem, part, loss_batch_size) for part in parts])  # noqa: E731
    start = time.process_time()
    checkpoint = measure(problem.models[0], None)
    _require_losses(checkpoint, num_examples(problem.train))
    checkpoint = checkpoint.to(torch.promote_types(checkpoint.dtype, torch.float32))
    losses = checkpoint.new_full((draws, len(checkpoint)), torch.nan)
    distance, cpu_seconds = (torch.full((draws,), torch.nan) for _ in range(2))
    step_losses = []
    total = burn_in + draws * steps_between_draws
    for count, step in enumerate(progress(steps, description, total=total), start=1 - burn_in):
        step_losses.append(step.loss)
        if count <= 0 or count % steps_between_draws:
            continue
        draw = count // steps_between_draws - 1
        losses[draw] = measure(step.model, draw)
        distance[draw], cpu_seconds[draw] = step.distance(), time.process_time() - start
        if not (losses[draw].abs() < DIVERGED).all():  # NaN is not
            break
    num_train, missing = num_examples(problem.train), total - len(step_losses)
    return {
        "train": losses[:, :num_train],
        "query": losses[:, num_train:],
        "train_checkpoint": checkpoint[:num_train],
        "query_checkpoint": checkpoint[num_train:],
        "distance": distance,
        "step_loss": torch.cat([torch.stack(step_losses).float().cpu(), torch.full((missing,), torch.nan)]),
        "cpu_seconds": cpu_seconds,
        "draw_step": burn_in + steps_between_draws * torch.arange(1, draws + 1),
    }


def _require_losses(checkpoint: Float[Tensor, " example"], num_train: int) -> None:
    wrong = ~(checkpoint.abs() < DIVERGED)  # NaN too
    if wrong.any():
        train, query = int(wrong[:num_train].sum()), int(wrong[num_train:].sum())
        raise ValueError(
            f"The checkpoint's loss is NaN or beyond {DIVERGED:,.0f} nats on {train} of {num_train} training examples "
            f"and {query} of {len(wrong) - num_train} queries, so that no chain can start from it: train it with a "
            "lower learning rate, or mend those examples."
        )
