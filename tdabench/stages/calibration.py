"""The stage that finds the settings that a method leaves to its calibration."""

import argparse
import dataclasses
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.seeds import make_generator
from tdabench.stages.attribution import find_method, make_problem, query_of, stream_of
from tdabench.stages.bench import Bench
from tdabench.storage.records import save_json

logger = logging.getLogger(__name__)


def calibrate(arguments: argparse.Namespace) -> None:
    """Find a method's settings that say ``auto``; without an output, all that may say so, to be read by a person.

    Of the queries only the number counts.
    """
    from tdabench.attributors.base import Calibrated, Unsupported
    from tdabench.attributors.calibration.auto import leave_to_calibration
    from tdabench.attributors.calibration.text import describe_calibration

    experiment = load_experiment(arguments.experiment)
    _fill_in(arguments, experiment)
    bench = Bench(arguments)
    component = find_method(bench, arguments)
    attributor = own = instantiate(component, f"methods.{arguments.method}")
    report, cost, status = {"proposed": {}}, None, "nothing to calibrate"
    if isinstance(attributor, Calibrated):
        if arguments.output is None:
            attributor = leave_to_calibration(attributor)
        try:
            report, cost = _calibrate(bench, arguments, attributor)
            status = "ok"
        except Unsupported as reason:
            status = f"unsupported: {reason}"
    elif arguments.output is None:
        raise ValueError(f"{arguments.method} ({component.path}) has no calibration: it has no method calibrate.")
    if arguments.output is None:
        where = f"{arguments.method} of {arguments.experiment}, repeat {arguments.repeat}, {bench.size:,} examples"
        sys.stdout.write(f"{where}\n\n{describe_calibration(report, _settings(own))}")
        return
    for sentence in report.get("warnings", ()):
        logger.warning("%s: %s", arguments.method, sentence)
    details = {"stream": stream_of(arguments), "method": component, "attributor": attributor, "status": status}
    save_json(arguments.output, {"method": arguments.method, **report}, bench.record(arguments, cost, **details))


def _calibrate(bench: Bench, arguments: argparse.Namespace, attributor: Any) -> tuple[dict[str, Any], Any]:
    from tdabench.attributors.running.run import run_calibration

    with tempfile.TemporaryDirectory() as folder:
        problem = make_problem(bench, arguments, query_of(bench), workspace=Path(folder))
        generator = make_generator(bench.experiment.seed, *stream_of(arguments))
        return run_calibration(attributor, problem, generator=generator)


def _fill_in(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Put the workflow's files where none is named; each must be there."""
    if arguments.train_size is None:
        arguments.train_size = experiment.data.train_sizes[0]
    root = Path("results") / experiment.name
    cell = root / str(arguments.repeat) / str(arguments.train_size)
    checkpoints = [cell / "checkpoints" / f"{index}.safetensors" for index in range(experiment.checkpoints)]
    arguments.dataset = arguments.dataset or root / "dataset.safetensors"
    arguments.split = arguments.split or cell.parent / "split.safetensors"
    arguments.checkpoints = arguments.checkpoints or checkpoints
    missing = [path for path in (arguments.dataset, arguments.split, *arguments.checkpoints) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]}: `snakemake {' '.join(map(str, missing))}` makes what is missing, or name "
            "--dataset, --split and --checkpoints."
        )


def _settings(attributor: Any) -> dict[str, Any]:
    return {field.name: getattr(attributor, field.name) for field in dataclasses.fields(attributor)}
