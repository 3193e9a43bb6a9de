"""One method of one cell: what every stage that runs it needs."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tdabench.attributors.base import Problem, Unsupported
from tdabench.examples import Examples
from tdabench.experiment.components import MethodComponent, instantiate
from tdabench.experiment.read import Experiment
from tdabench.runtime.blame import innermost_place, lacks_rule, one_line, plug_ins
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell
from tdabench.storage.files import check_place
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_json
from tdabench.training.losses import losses_of


class Trial:
    """One method of one cell: its settings, its stream of random numbers, and the problem that it is given."""

    def __init__(self, experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
        self.component = find_method(experiment, method)
        self.bench = Bench(experiment, cell, machine)
        self.cell, self.method = cell, method
        self.own = instantiate(self.component, f"methods.{method}")
        self.checkpoints = cell.checkpoints(experiment.checkpoints)
        # The same one for a method's calibration, its chains and its scores.
        self.stream: tuple[str | int, ...] = ("attribute", cell.repeat, cell.train_size, method)
        self.calibration = [cell.calibration(method)] if experiment.has_calibration(method) else []

    def settled(self) -> Any:
        """Return the method with what its calibration found, where it says ``auto``.

        Raises:
            Unsupported: If it could not be calibrated.
        """
        from tdabench.attributors.calibration.auto import apply_proposal, auto_settings

        if not self.calibration or not auto_settings(self.own):
            return self.own
        found = load_json(self.calibration[0])
        require_result(Outcome.of(found["record"]))
        return apply_proposal(self.own, found["proposed"])

    def problem(self, query: Examples, *, workspace: Path, first: int = 0) -> Problem:
        """Make the problem with the checkpoints in turn, beginning with the one that is attributed."""
        losses = losses_of(self.bench.train)
        paths = [*self.checkpoints[first:], *self.checkpoints[:first]]
        return Problem(
            models=tuple(self.bench.load_model(path) for path in paths),
            loss=losses.loss,
            token_loss=losses.token_loss,
            train=self.bench.train,
            query=query,
            reference=self.bench.reference,
            workspace=workspace,
        )

    @contextlib.contextmanager
    def lent_problem(self, query: Examples, *, folder: str, first: int = 0) -> Iterator[Problem]:
        """Make a problem whose workspace is gone afterwards, whatever happened."""
        problem = self.problem(query, workspace=make_workspace(self.cell, folder), first=first)
        try:
            yield problem
        finally:
            shutil.rmtree(problem.workspace)

    def generator(self, stream: tuple[str | int, ...] | None = None) -> torch.Generator:
        """Return the random numbers of a stream, the method's own if none is named."""
        return make_generator(self.bench.experiment.seed, *(self.stream if stream is None else stream))

    def record(self, cost: Any, outcome: Outcome | str, *inputs: Path, **details: Any) -> dict[str, Any]:
        """Describe a result of this method."""
        details = {"stream": self.stream, "method": self.component, "status": str(outcome), **details}
        return self.bench.record(cost, *self.checkpoints, *self.calibration, *inputs, **details)


def find_method(experiment: Experiment, method: str) -> MethodComponent:
    """Return the method of a name."""
    if method not in experiment.methods:
        raise ValueError(
            f"There is no method {method} in {experiment.name}; there are {', '.join(experiment.methods)}."
        )
    return experiment.methods[method]


def query_of(bench: Bench) -> Examples:
    """Return the queries; with planted labels, the training examples follow, for their self-influence."""
    if bench.planted is None:
        return bench.query
    return {name: torch.cat([values, bench.train[name]]) for name, values in bench.query.items()}


def make_workspace(cell: Cell, name: str) -> Path:
    """Make an empty folder for a method's scratch."""
    folder = cell.workspace(name)
    check_place(folder / "scores")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()


class NoResult(Unsupported):
    """An earlier job of the method had no result, and why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def outcome_of(error: Exception, attributor: Any) -> Outcome:
    """Return why a method has no result: it says so, an operator has no rule, or a model can't be copied.

    Raises:
        Exception: The error, if it is another: a bug is no result, and ends its job.
    """
    if isinstance(error, NoResult):
        return error.outcome
    if isinstance(error, Unsupported):
        return Outcome("unsupported", str(error))
    if not lacks_rule(error):
        raise error
    kind = type(attributor)
    place = innermost_place(error, plug_ins([kind.__module__]))
    return Outcome("failed", f"{kind.__name__}: {one_line(error)} ({place})")


def require_result(outcome: Outcome) -> None:
    """Refuse to go on from a job without a result.

    Raises:
        NoResult: If it has none.
    """
    if outcome.kind in ("unsupported", "failed"):
        raise NoResult(outcome)
