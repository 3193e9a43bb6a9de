"""The stages that run a method: calibrate it, sample a chain of it, score with it."""

import contextlib
import importlib
import itertools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tdabench.attributors.base import ChainAttributor, Diverged, Problem, Unsupported
from tdabench.attributors.running.run import Attribution, run_attributor, run_chain, score_chains
from tdabench.examples import Examples, num_examples
from tdabench.experiment.components import Component, instantiate
from tdabench.experiment.read import Experiment
from tdabench.runtime.blame import innermost_place, lacks_rule, one_line, plug_ins
from tdabench.runtime.machine import Machine
from tdabench.runtime.progress import progress
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell
from tdabench.storage.files import check_place
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_json, load_record, load_tensors, save_tensors
from tdabench.training.losses import losses_of

logger = logging.getLogger(__name__)
WHOLE = "whole"  # of a chain: its method is run as a whole


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

    def run(
        self, attributor: Any, query: Examples, *, folder: str, stream: tuple[str | int, ...], first: int = 0
    ) -> Any:
        """Score with the method as a whole.

        Args:
            first: The checkpoint that is attributed.
        """
        problem = self.problem(query, workspace=make_workspace(self.cell, folder), first=first)
        return run_attributor(attributor, problem, generator=self.generator(stream))

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
    def lent_problem(self, query: Examples, *, folder: str) -> Iterator[Problem]:
        """Make a problem whose workspace is gone afterwards, whatever happened."""
        problem = self.problem(query, workspace=make_workspace(self.cell, folder))
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


def attribute(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself.

    Beside the scores it says how well the method drew, if it keeps traces.

    Args:
        method: its key in the experiment file.
    """
    trial = Trial(experiment, cell, method, machine)
    chains, attributor, attribution = cell.chains(method, experiment.num_chains(method)), trial.own, None
    try:
        attributor = trial.settled()
        attribution = _attribute(trial, attributor, chains)
    except Exception as error:
        outcome = outcome_of(error, attributor)
        logger.warning("%s: %s", method, outcome)
    else:
        outcome = Outcome.ok(attribution.warnings)
        for path in trial.calibration:
            attribution.cost.add_recorded(load_record(path).get("cost", {}))
    cost = attribution and attribution.cost
    tensors = {} if attribution is None else _tensors(trial.bench, attribution)
    save_tensors(cell.scores(method), tensors, trial.record(cost, outcome, *chains, attributor=attributor))
    # By name: of the draws another question is asked.
    importlib.import_module("tdabench.questions.diagnostics.stage").save_diagnosis(cell, method)


def sample(experiment: Experiment, cell: Cell, method: str, chain: int, machine: Machine) -> None:
    """Sample one chain of a method; the file is empty, and says why, if the method does not sample chains apart.

    Args:
        method: its key in the experiment file.
        chain: which one, from 0.
    """
    trial = Trial(experiment, cell, method, machine)
    tensors, cost, outcome, attributor = {}, None, Outcome(WHOLE), trial.own
    if isinstance(attributor, ChainAttributor):
        folder = f"{method}-{chain}"  # its own, since other chains may run at the same time
        try:
            attributor = trial.settled()
            with trial.lent_problem(query_of(trial.bench), folder=folder) as problem:
                tensors, cost = run_chain(attributor, problem, chain, generator=trial.generator())
            outcome = Outcome()
        except Exception as error:
            outcome = outcome_of(error, attributor)
    path = cell.chains(method, chain + 1)[chain]
    save_tensors(path, tensors, trial.record(cost, outcome, chain=chain))


def vary(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score once more with one method, for other checkpoints and with other random numbers.

    The file has ``scores-C-R`` for checkpoint C and run R; those of checkpoint 0 and run 0 are ``attribute``'s.

    Args:
        method: its key in the experiment file.
    """
    if method in experiment.methods and method not in experiment.varied_methods:
        raise ValueError(
            f"{experiment.name} does not vary {method}: it has no section variance, or the section's methods leave it "
            "out."
        )
    trial = Trial(experiment, cell, method, machine)
    variance, base = experiment.variance, ("vary", cell.repeat, cell.train_size, method)
    folder = f"vary-{method}"  # its own, since `attribute` may run at the same time
    scores, costs, outcome, attributor = {}, {}, Outcome(), trial.own
    grid = itertools.product(range(variance.checkpoints), range(variance.runs))
    for first, run in progress(list(grid)[1:], "vary"):
        try:
            attributor, stream = trial.settled(), (*base, first, run)
            attribution = trial.run(attributor, trial.bench.query, folder=folder, stream=stream, first=first)
        except Exception as error:
            outcome = outcome_of(error, attributor)
            break
        scores[f"scores-{first}-{run}"] = attribution.scores
        costs[f"{first}-{run}"] = attribution.cost.phases
    record = trial.record(None, outcome, stream=base, variance=variance, costs=costs)
    save_tensors(cell.variations(method), scores, record)


def find_method(experiment: Experiment, method: str) -> Component:
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


def try_method(trial: Trial, attributor: Any, problem: Problem, generator: torch.Generator) -> tuple[Any, Outcome]:
    """Run a method that may have no result: None then, and why."""
    try:
        attribution = run_attributor(attributor, problem, generator=generator)
    except Diverged as reason:
        return None, Outcome("diverged", str(reason))
    except Exception as error:
        return None, outcome_of(error, attributor)
    return attribution, Outcome.ok(attribution.warnings)


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


def make_workspace(cell: Cell, name: str) -> Path:
    """Make an empty folder for a method's scratch."""
    folder = cell.workspace(name)
    check_place(folder / "scores")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()


def _attribute(trial: Trial, attributor: Any, chains: list[Path]) -> Attribution:
    """Make scores of a method's chains where they were sampled apart, or run it whole."""
    records = [load_record(path) for path in chains]
    outcomes = [Outcome.of(record) for record in records]
    for outcome in outcomes:
        require_result(outcome)
    query = query_of(trial.bench)
    if not records or any(outcome.kind == WHOLE for outcome in outcomes):
        return trial.run(attributor, query, folder=trial.method, stream=trial.stream)
    problem = trial.problem(query, workspace=make_workspace(trial.cell, trial.method))
    attribution = score_chains(attributor, problem, [load_tensors(path) for path in chains])
    for record in records:
        attribution.cost.add_recorded(record["cost"])
    return attribution


def _tensors(bench: Bench, attribution: Attribution) -> dict[str, torch.Tensor]:
    num_queries = num_examples(bench.query)
    tensors = {"scores": attribution.scores[:num_queries]}
    if bench.planted is not None:
        tensors["self_influence"] = attribution.scores[num_queries:].diagonal()
    return tensors


def require_result(outcome: Outcome) -> None:
    """Refuse to go on from a job without a result.

    Raises:
        NoResult: If it has none.
    """
    if outcome.kind in ("unsupported", "failed"):
        raise NoResult(outcome)
