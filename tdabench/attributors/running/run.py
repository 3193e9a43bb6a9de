"""Run a method as the benchmark does: measured, and its result checked."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import (
    Attributor,
    Batched,
    Calibrated,
    ChainAttributor,
    Problem,
    TokenAttributor,
    TrainTokenAttributor,
    Unsupported,
    num_examples,
)
from tdabench.attributors.running.passes import counted_problem
from tdabench.cost import Cost, measure_cost, phase

# Scores that are checked at a time: all of them may lie on disk, and be more than fit in memory.
AT_A_TIME = 2**20
PARTS = ("train", "query", "reference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """Scores (query, train), or those of tokens, what they cost, and what the method warned of."""

    scores: Float[Tensor, "query ..."]
    cost: Cost
    warnings: tuple[str, ...]


def run_attributor(attributor: Attributor, problem: Problem, *, generator: torch.Generator) -> Attribution:
    """Run a method on a problem, measure it, and check what it returns.

    Raises:
        Unsupported: If the method says so.
        TypeError: If it returns no tensor of floating-point scores.
        ValueError: If the scores have the wrong shape or are not finite, or the method changed a model.
    """
    return _attribute(attributor, lambda counted: attributor.attribute(counted, generator=generator), problem)


def run_chain(
    attributor: ChainAttributor, problem: Problem, chain: int, *, generator: torch.Generator
) -> tuple[dict[str, Tensor], Cost]:
    """Sample one chain of a method, and measure it.

    Raises:
        Unsupported: If the method says so.
        ValueError: If the method changed a model.
    """
    with _models_untouched(attributor, problem), _measured(problem) as (counted, cost):
        tensors = attributor.sample_chain(counted, chain, generator=generator)
    return tensors, cost


def run_calibration(
    attributor: Calibrated, problem: Problem, *, generator: torch.Generator
) -> tuple[dict[str, Any], Cost]:
    """Calibrate a method, and measure it as phase ``fit``.

    Raises:
        Unsupported: If the method says so.
        ValueError: If the method changed a model.
    """
    with _models_untouched(attributor, problem), _measured(problem) as (counted, cost), phase("fit"):
        report = attributor.calibrate(counted, generator=generator)
    return report, cost


def batches_of(attributor: Attributor, problem: Problem) -> dict[str, int] | None:
    """Return the most examples of each part that a method works on at once; None if it doesn't say.

    Raises:
        ValueError: If it says something else than examples by part.
    """
    is_told = isinstance(attributor, Batched) and callable(attributor.batch_sizes)  # else a setting of that name
    told = attributor.batch_sizes(problem) if is_told else None
    if told is None:
        return None
    by_part = isinstance(told, dict) and told.keys() <= set(PARTS)
    if not by_part or any(type(most) is not int or most < 0 for most in told.values()):
        raise ValueError(
            f"batch_sizes() of {type(attributor).__name__} must give whole numbers, at least 0, by "
            f"{', '.join(PARTS)}, or None; got {told!r}."
        )
    return told


def score_chains(attributor: ChainAttributor, problem: Problem, chains: Sequence[dict[str, Tensor]]) -> Attribution:
    """Make scores of a method's chains, as ``run_attributor`` does of a method; their sampling is not in the cost."""
    return _attribute(attributor, lambda counted: attributor.score_chains(chains, counted), problem)


def run_token_attributor(attributor: Attributor, problem: Problem, *, generator: torch.Generator) -> Attribution:
    """Score tokens as finely as the method can, measure it, and check what it returns.

    Returns:
        Scores (query, qpos, train, tpos) of a ``TokenAttributor``, or (query, train, tpos) of a
        ``TrainTokenAttributor``.

    Raises:
        Unsupported: If the method scores no tokens, or says that it can't here.
        ValueError: If the scores have the wrong shape or are not finite, or the method changed a model.
    """
    if isinstance(attributor, TokenAttributor):
        attribute = attributor.attribute_tokens
    elif isinstance(attributor, TrainTokenAttributor):
        attribute = attributor.attribute_train_tokens
    else:
        raise Unsupported("it scores whole examples, not their tokens")
    if problem.token_loss is None:
        raise Unsupported("scores of tokens need rows of tokens: this data has none")
    (queries, qpos), (train, tpos) = (part["input_ids"].shape for part in (problem.query, problem.train))
    pairs = isinstance(attributor, TokenAttributor)
    expected = (queries, qpos, train, tpos) if pairs else (queries, train, tpos)

    def check(scores: Tensor) -> None:
        if scores.shape != expected:
            raise ValueError(f"{attribute.__name__}() must return scores {expected}, got {tuple(scores.shape)}.")
        _require_finite(scores)

    return measure_scores(attributor, lambda counted: attribute(counted, generator=generator), problem, check)


def _attribute(attributor: Attributor, give_scores: Callable[[Problem], Tensor], problem: Problem) -> Attribution:
    def check(scores: Tensor) -> None:
        check_scores(scores, num_queries=num_examples(problem.query), num_train=num_examples(problem.train))

    return measure_scores(attributor, give_scores, problem, check)


def measure_scores(
    attributor: Attributor,
    give_scores: Callable[[Problem], Tensor],
    problem: Problem,
    check: Callable[[Tensor], None],
) -> Attribution:
    """Measure what gives scores, and check them; the models must be as they were before."""
    with _models_untouched(attributor, problem), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with _measured(problem) as (counted, cost):
            scores = give_scores(counted)
    check(scores)
    messages = tuple(str(entry.message) for entry in caught if entry.category is AttributionWarning)
    return Attribution(scores=scores.detach().float().cpu(), cost=cost, warnings=messages)


@contextlib.contextmanager
def _measured(problem: Problem) -> Iterator[tuple[Problem, Cost]]:
    """Return the problem whose passes are counted, and what the body costs."""
    device = next(iter(problem.train.values())).device
    with (
        counted_problem(problem) as counted,
        measure_cost(device, workspace=problem.workspace, passes=True) as cost,
    ):
        yield counted, cost


@contextlib.contextmanager
def _models_untouched(attributor: Attributor, problem: Problem) -> Iterator[None]:
    before = [_fingerprint(model) for model in problem.models]
    yield
    for index, model in enumerate(problem.models):
        if _fingerprint(model) != before[index]:
            raise ValueError(
                f"{type(attributor).__name__} changed models[{index}]: its parameters, buffers, mode or requires_grad; "
                "work on a copy (tdabench.attributors.base.copy_model)."
            )


class AttributionWarning(UserWarning):
    """A warning about the scores themselves, which the table shows."""


def check_scores(scores: Tensor, *, num_queries: int, num_train: int) -> None:
    """Check what a method returned.

    Raises:
        TypeError: If it is no floating-point tensor.
        ValueError: If its shape is not (query, train) or a value is not finite.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"attribute() must return a floating-point tensor, got {kind}.")
    if scores.shape == (num_train, num_queries) != (num_queries, num_train):
        raise ValueError(
            f"The scores have the shape (train, query) = {tuple(scores.shape)}; return them transposed, as "
            f"(query, train) = {(num_queries, num_train)}."
        )
    if scores.shape != (num_queries, num_train):
        raise ValueError(
            f"The scores must have the shape (query, train) = {(num_queries, num_train)}, got {tuple(scores.shape)}."
        )
    _require_finite(scores)


def _require_finite(scores: Tensor) -> None:
    wrong = sum(int((~part.isfinite()).sum()) for part in scores.split(max(1, AT_A_TIME // scores[0].numel())))
    if wrong:
        raise ValueError(f"{wrong} of {scores.numel()} scores are NaN or infinite.")


def _fingerprint(model: nn.Module) -> list[tuple[object, ...]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    described: list[tuple[object, ...]] = [
        (name, tuple(tensor.shape), tensor.requires_grad, _hash_bytes(tensor)) for name, tensor in tensors
    ]
    return [*described, *((name, type(module), module.training) for name, module in model.named_modules())]


def _hash_bytes(tensor: Tensor) -> int:
    # As bytes: numpy knows no bfloat16.
    return hash(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
