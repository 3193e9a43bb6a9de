"""The scores of a method as its line in the file wants them: of one checkpoint or several, divided or not."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tdabench.attributors.base import Diverged, Problem
from tdabench.attributors.running.like import (
    MeanScores,
    divide_by_self_influence,
    knows_self_influence,
    measure_self_influence,
)
from tdabench.attributors.running.run import run_attributor, score_chains
from tdabench.cost import Cost
from tdabench.examples import Examples, num_examples
from tdabench.stages.trial import Trial, make_workspace, outcome_of, require_result
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_tensors

WHOLE = "whole"  # of a chain: its method is run as a whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a method is judged by, and what it cost.

    Attributes:
        tensors: ``scores`` (query, train); where the training examples were queries too, ``self_influence`` (train), as
            the method gave it.
        warnings: Of the method, each once.
    """

    tensors: dict[str, torch.Tensor]
    cost: Cost
    warnings: tuple[str, ...]


def score(
    trial: Trial,
    attributor: Any,
    query: Examples,
    *,
    folder: str,
    stream: tuple[str | int, ...],
    first: int = 0,
    chains: Sequence[Path] = (),
) -> Scored:
    """Score with a method, for so many checkpoints and divided or not as its line in the file says.

    Args:
        query: The queries; the training examples may follow.
        folder: Of the first checkpoint's workspace, which stays; those of the others go.
        stream: Random numbers of the first checkpoint; others have streams of their own.
        first: The first checkpoint; the others follow it, in turn.
        chains: Files of the first checkpoint's chains, where they are jobs of their own.

    Raises:
        Unsupported: If the method says so, or can't be divided by its self-influence.
    """
    mean, cost, warnings = MeanScores(), None, {}
    for place in range(trial.component.average):
        checkpoint = (first + place) % len(trial.checkpoints)
        if place == 0:
            problem = trial.problem(query, workspace=make_workspace(trial.cell, folder), first=checkpoint)
            part = score_checkpoint(trial, attributor, problem, stream, chains)
        else:
            with trial.lent_problem(query, folder=f"{folder}-at-{checkpoint}", first=checkpoint) as problem:
                part = score_checkpoint(trial, attributor, problem, (*stream, "checkpoint", checkpoint))
        mean.add(part.tensors)
        cost = part.cost if cost is None else cost
        if place > 0:
            cost.add_phases(part.cost)
        warnings |= dict.fromkeys(part.warnings)
    return Scored(tensors=mean.mean(), cost=cost, warnings=tuple(warnings))


def score_checkpoint(
    trial: Trial, attributor: Any, problem: Problem, stream: tuple[str | int, ...], chains: Sequence[Path] = ()
) -> Scored:
    """Score with a method for the first of the problem's checkpoints, divided or not; see ``score``."""
    attribution = _attribute(trial, attributor, problem, stream, chains)
    num_queries = min(num_examples(trial.bench.query), num_examples(problem.query))
    tensors, warnings = {"scores": attribution.scores[:num_queries]}, attribution.warnings
    if num_examples(problem.query) > num_queries:
        tensors["self_influence"] = attribution.scores[num_queries:].diagonal()
    if trial.component.normalize == "self":
        own = tensors.get("self_influence")
        if own is None or knows_self_influence(attributor):
            # From the same random numbers: a sampler's draws are the same then.
            found = measure_self_influence(attributor, problem, generator=trial.generator(stream))
            attribution.cost.add_phases(found.cost)
            own, warnings = found.scores, (*warnings, *found.warnings)
        tensors["scores"] = divide_by_self_influence(tensors["scores"], own)
    return Scored(tensors=tensors, cost=attribution.cost, warnings=tuple(dict.fromkeys(warnings)))


def try_to_score(
    trial: Trial, attributor: Any, problem: Problem, stream: tuple[str | int, ...]
) -> tuple[Scored | None, Outcome]:
    """Score with a method that may have no result: None then, and why."""
    try:
        scored = score_checkpoint(trial, attributor, problem, stream)
    except Diverged as reason:
        return None, Outcome("diverged", str(reason))
    except Exception as error:
        return None, outcome_of(error, attributor)
    return scored, Outcome.ok(scored.warnings)


def _attribute(
    trial: Trial, attributor: Any, problem: Problem, stream: tuple[str | int, ...], chains: Sequence[Path]
) -> Any:
    """Make scores of a method's chains where they were sampled apart, or run it whole."""
    records = [load_record(path) for path in chains]
    outcomes = [Outcome.of(record) for record in records]
    for outcome in outcomes:
        require_result(outcome)
    if not records or any(outcome.kind == WHOLE for outcome in outcomes):
        return run_attributor(attributor, problem, generator=trial.generator(stream))
    attribution = score_chains(attributor, problem, [load_tensors(path) for path in chains])
    for record in records:
        attribution.cost.add_recorded(record["cost"])
    return attribution
