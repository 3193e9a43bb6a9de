"""The stage that fits what methods cost against size, and predicts what was not run."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tdabench.experiment.derived import model_at
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.questions.scaling.costs import break_evens, fit_costs, predict_costs
from tdabench.questions.scaling.stage import count_parameters, require_scaling
from tdabench.stages.bench import load_data
from tdabench.storage.records import load_json, make_record

Sizes = dict[tuple[str, str], tuple[int, int]]


def project(arguments: argparse.Namespace) -> None:
    """Fit cost against size, predict the sizes that were not run, and find the break-even queries."""
    from tdabench.questions.scaling.report import make_scaling_table, write_scaling

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    scaling, confidence = require_scaling(experiment), experiment.evaluation.confidence
    sizes = _count_all(experiment, arguments.dataset)
    files = {
        (method, size): arguments.output / "scale" / f"{method}-{size}.json"
        for method, size in itertools.product(experiment.methods, scaling.names)
    }
    rows = [row for (method, size), path in files.items() for row in _rows(experiment, method, size, sizes, path)]
    table = make_scaling_table(rows)
    unseen = [
        {"method": method, "size": size, **_columns(sizes[method, size])}
        for method, size in sizes
        if size not in scaling.names
    ]
    settings = {"queries": experiment.data.queries, "draws": scaling.draws, "confidence": confidence}
    tables = {
        "scaling": table,
        "scaling_fits": fit_costs(table, **settings),
        "scaling_predictions": predict_costs(table, pd.DataFrame(unseen), **settings),
        "break_even": break_evens(table, draws=scaling.draws),
    }
    record = make_record({"scaling": scaling, "data": experiment.data}, inputs=[arguments.dataset, *files.values()])
    sys.stdout.write(write_scaling(experiment, arguments.output, tables, record))


def _count_all(experiment: Experiment, dataset: Path) -> Sizes:
    """Count the parameters at every size, run or predicted: all, and those that each method looks at."""
    examples = load_data(dataset).examples("train", torch.arange(2))
    scaling = experiment.scaling
    return {
        (method, size): count_parameters(experiment, model_at(experiment, size), method, examples)
        for method, size in itertools.product(experiment.methods, (*scaling.names, *map(str, scaling.predict)))
    }


def _columns(counts: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("parameters", "tracked_parameters"), counts, strict=True))


def _rows(experiment: Experiment, method: str, size: str, sizes: Sizes, path: Path) -> Iterator[dict[str, Any]]:
    """Return a row a run and phase; one row for a run that there is no cost of."""
    for run in load_json(path)["runs"]:
        place = {"experiment": experiment.name, "method": method, "size": size, **_columns(sizes[method, size])}
        run = {**run, **place}
        for name, part in run.pop("phases", {"score": {}}).items():
            yield {**run, "phase": name, **part}
