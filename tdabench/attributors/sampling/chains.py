"""Chains: losses of every example at draws around a checkpoint, each chain a piece of work of its own."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, batches, num_examples
from tdabench.attributors.sampling.walker import Step
from tdabench.examples import batch_size_of
from tdabench.runtime.progress import progress

# Nats: a chain that ever has such a loss has left the model's neighbourhood for good.
DIVERGED = 1e6

Measure = Callable[[nn.Module, int | None], Float[Tensor, " example"]]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a chain draws: after ``burn_in`` steps, and then every ``steps_between_draws``."""

    draws: int
    burn_in: int = 0
    steps_between_draws: int = 1

    @property
    def steps(self) -> int:
        """Count the steps of a chain."""
        return self.burn_in + self.draws * self.steps_between_draws

    def draw_after(self, steps: int) -> int | None:
        """Return the number of the draw after so many steps, from 0; None if there is none."""
        draw, rest = divmod(steps - self.burn_in, self.steps_between_draws)
        return None if rest or draw < 1 else draw - 1


def record_chain(
    problem: Problem,
    steps: Iterator[Step],
    schedule: Schedule,
    *,
    loss_batch_size: int | None,
    description: str,
    measure: Measure | None = None,
) -> dict[str, Tensor]:
    """Walk a chain and measure every example's loss at its draws; a chain that diverges is left where it did.

    Args:
        steps: Lazily, as many as the schedule has.
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
    measure = measure or _measure_by_loss(problem, loss_batch_size)
    start, num_train = time.process_time(), num_examples(problem.train)
    checkpoint = measure(problem.models[0], None)
    _require_losses(checkpoint, num_train)
    checkpoint = checkpoint.to(torch.promote_types(checkpoint.dtype, torch.float32))
    losses = checkpoint.new_full((schedule.draws, len(checkpoint)), torch.nan)
    followed = _follow(progress(steps, description, total=schedule.steps), schedule, measure, losses, start)
    parts = {"": losses, "_checkpoint": checkpoint}
    by_part = [
        {f"train{name}": values[..., :num_train], f"query{name}": values[..., num_train:]}
        for name, values in parts.items()
    ]
    return {**by_part[0], **by_part[1], **followed}


def _measure_by_loss(problem: Problem, loss_batch_size: int | None) -> Measure:
    parts = measured_parts(problem)
    return lambda model, _: torch.cat([measure_losses(model, problem, part, loss_batch_size) for part in parts])


def _follow(
    steps: Iterable[Step],
    schedule: Schedule,
    measure: Measure,
    losses: Float[Tensor, "draw example"],
    start: float,
) -> dict[str, Tensor]:
    """Walk a chain, write the losses of its draws, and return what else is recorded of them."""
    distance, cpu_seconds = (torch.full((schedule.draws,), torch.nan) for _ in range(2))
    step_losses = []
    for count, step in enumerate(steps, start=1):
        step_losses.append(step.loss)
        draw = schedule.draw_after(count)
        if draw is None:
            continue
        losses[draw] = measure(step.model, draw)
        distance[draw], cpu_seconds[draw] = step.distance(), time.process_time() - start
        if not (losses[draw].abs() < DIVERGED).all():  # NaN is not
            break
    taken, missing = torch.stack(step_losses).float().cpu(), schedule.steps - len(step_losses)
    return {
        "distance": distance,
        "step_loss": torch.cat([taken, torch.full((missing,), torch.nan)]),
        "cpu_seconds": cpu_seconds,
        "draw_step": schedule.burn_in + schedule.steps_between_draws * torch.arange(1, schedule.draws + 1),
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
