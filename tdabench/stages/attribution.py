"""The stages that run a method: calibrate it, sample a chain of it, score with it."""

import dataclasses
import itertools
import logging
import sys
import tempfile
from pathlib import Path

from tdabench.attributors.base import Calibrated, ChainAttributor, Unsupported
from tdabench.attributors.running.run import run_calibration, run_chain
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.stage import save_diagnosis
from tdabench.runtime.machine import Machine
from tdabench.runtime.progress import progress
from tdabench.stages.scoring import WHOLE, score
from tdabench.stages.trial import Trial, find_method, query_of
from tdabench.storage.cell import Cell, find_cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, save_json, save_tensors

logger = logging.getLogger(__name__)


def attribute(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself.

    Beside the scores it says how well the method drew, if it keeps traces.

    Args:
        method: its key in the experiment file.
    """
    trial = Trial(experiment, cell, method, machine)
    chains, attributor, scored = cell.chains(method, experiment.num_chains(method)), trial.own, None
    query = query_of(trial.bench)
    try:
        attributor = trial.settled()
        scored = score(trial, attributor, query, folder=method, stream=trial.stream, chains=chains)
    except Unsupported as reason:
        logger.warning("%s is not supported here: %s", method, reason)
        outcome = Outcome("unsupported", str(reason))
    else:
        outcome = Outcome.ok(scored.warnings)
        for path in trial.calibration:
            scored.cost.add_recorded(load_record(path).get("cost", {}))
    tensors, cost = ({}, None) if scored is None else (scored.tensors, scored.cost)
    save_tensors(cell.scores(method), tensors, trial.record(cost, outcome, *chains, attributor=attributor))
    save_diagnosis(cell, method)


def sample(experiment: Experiment, cell: Cell, method: str, chain: int, machine: Machine) -> None:
    """Sample one chain of a method; the file is empty, and says why, if the method does not sample chains apart.

    Args:
        method: its key in the experiment file.
        chain: which one, from 0.
    """
    trial = Trial(experiment, cell, method, machine)
    tensors, cost, outcome = {}, None, Outcome(WHOLE)
    if isinstance(trial.own, ChainAttributor):
        folder = f"{method}-{chain}"  # its own, since other chains may run at the same time
        try:
            attributor = trial.settled()
            with trial.lent_problem(query_of(trial.bench), folder=folder) as problem:
                tensors, cost = run_chain(attributor, problem, chain, generator=trial.generator())
            outcome = Outcome()
        except Unsupported as reason:
            outcome = Outcome("unsupported", str(reason))
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
    scores, costs, outcome = {}, {}, Outcome()
    grid = itertools.product(range(variance.checkpoints), range(variance.runs))
    for first, run in progress(list(grid)[1:], "vary"):
        try:
            attributor, stream = trial.settled(), (*base, first, run)
            scored = score(trial, attributor, trial.bench.query, folder=folder, stream=stream, first=first)
        except Unsupported as reason:
            outcome = Outcome("unsupported", str(reason))
            break
        scores[f"scores-{first}-{run}"] = scored.tensors["scores"]
        costs[f"{first}-{run}"] = scored.cost.phases
    record = trial.record(None, outcome, stream=base, variance=variance, costs=costs)
    save_tensors(cell.variations(method), scores, record)


def calibrate(
    experiment: Experiment,
    method: str,
    machine: Machine,
    repeat: int = 0,
    train_size: int | None = None,
    write: bool = False,
) -> None:
    """Find a method's settings that say ``auto``; or print what all that may say so could be, for a person.

    Of the queries only the number counts.

    Args:
        method: its key in the experiment file.
        repeat: which repetition (default: 0).
        train_size: size of the attribution set (default: the first).
        write: write the settings that say auto where the workflow reads them, instead of printing all.
    """
    from tdabench.attributors.calibration.auto import leave_to_calibration
    from tdabench.attributors.calibration.text import describe_calibration

    size = experiment.data.train_sizes[0] if train_size is None else train_size
    cell = find_cell(experiment, repeat, size)
    find_method(experiment, method)
    _require_files([cell.dataset, cell.split, *cell.checkpoints(experiment.checkpoints)])
    trial = Trial(experiment, cell, method, machine)
    trial.calibration = []  # it is what is made here
    attributor, report, cost, outcome = trial.own, {"proposed": {}}, None, Outcome("nothing to calibrate")
    if isinstance(attributor, Calibrated):
        attributor = attributor if write else leave_to_calibration(attributor)
        try:
            with tempfile.TemporaryDirectory() as folder:
                problem = trial.problem(query_of(trial.bench), workspace=Path(folder))
                report, cost = run_calibration(attributor, problem, generator=trial.generator())
            outcome = Outcome()
        except Unsupported as reason:
            outcome = Outcome("unsupported", str(reason))
    elif not write:
        raise ValueError(f"{method} ({trial.component.path}) has no calibration: it has no method calibrate.")
    if not write:
        settings = {field.name: getattr(trial.own, field.name) for field in dataclasses.fields(trial.own)}
        where = f"{method} of {experiment.name}, repeat {repeat}, {size:,} examples"
        sys.stdout.write(f"{where}\n\n{describe_calibration(report, settings)}")
        return
    for sentence in report.get("warnings", ()):
        logger.warning("%s: %s", method, sentence)
    record = trial.record(cost, outcome, attributor=attributor)
    save_json(cell.calibration(method), {"method": method, **report}, record)


def _require_files(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]}: `snakemake {' '.join(map(str, missing))}` makes what is missing."
        )
