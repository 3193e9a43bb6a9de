"""The stage that finds the settings that a method leaves to its calibration."""

import dataclasses
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from tdabench.attributors.base import Calibrated
from tdabench.attributors.calibration.auto import leave_to_calibration
from tdabench.attributors.calibration.text import describe_calibration
from tdabench.attributors.running.run import run_calibration
from tdabench.experiment.read import Experiment
from tdabench.runtime.machine import Machine
from tdabench.stages.trial import Trial, find_method, outcome_of, query_of
from tdabench.storage.cell import find_cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import save_json

logger = logging.getLogger(__name__)


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
    size = experiment.data.train_sizes[0] if train_size is None else train_size
    cell = find_cell(experiment, repeat, size)
    find_method(experiment, method)
    _require_files([cell.dataset, cell.split, *cell.checkpoints(experiment.checkpoints)])
    trial = Trial(experiment, cell, method, machine)
    trial.calibration = []  # it is what is made here
    if not (write or isinstance(trial.own, Calibrated)):
        raise ValueError(f"{method} ({trial.component.path}) has no calibration: it has no method calibrate.")
    attributor = trial.own if write or not isinstance(trial.own, Calibrated) else leave_to_calibration(trial.own)
    report, cost, outcome = _calibrate(trial, attributor)
    if not write:
        settings = {field.name: getattr(trial.own, field.name) for field in dataclasses.fields(trial.own)}
        where = f"{method} of {experiment.name}, repeat {repeat}, {size:,} examples"
        sys.stdout.write(f"{where}\n\n{describe_calibration(report, settings)}")
        return
    for sentence in report.get("warnings", ()):
        logger.warning("%s: %s", method, sentence)
    record = trial.record(cost, outcome, attributor=attributor)
    save_json(cell.calibration(method), {"method": method, **report}, record)


def _calibrate(trial: Trial, attributor: Any) -> tuple[dict[str, Any], Any, Outcome]:
    if not isinstance(attributor, Calibrated):
        return {"proposed": {}}, None, Outcome("nothing to calibrate")
    try:
        with tempfile.TemporaryDirectory() as folder:
            problem = trial.problem(query_of(trial.bench), workspace=Path(folder))
            return *run_calibration(attributor, problem, generator=trial.generator()), Outcome()
    except Exception as error:
        return {"proposed": {}}, None, outcome_of(error, attributor)


def _require_files(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]}: `snakemake {' '.join(map(str, missing))}` makes what is missing."
        )
