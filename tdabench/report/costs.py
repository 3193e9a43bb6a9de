"""Rows of the cost table, from the records of result files."""

from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.tables import COST_COLUMNS
from tdabench.experiment.read import Experiment
from tdabench.planning.jobs import settle_bank
from tdabench.storage.records import load_record


def collect_costs(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Return a row a repeat, size, method and phase; the bank and the checkpoints are methods of their own."""
    methods = [
        row
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
        for method in experiment.methods
        for row in _method_costs(experiment, folder, repeat, size, method)
    ]
    return methods + _ground_truth_costs(experiment, folder)


def bank_files(experiment: Experiment, folder: Path, size: int) -> list[str]:
    """Name the files of one repeat and size's bank; none without a bank."""
    shards = settle_bank(experiment, folder, size).shards if experiment.bank else 0
    return [f"bank/{shard}.safetensors" for shard in range(shards)]


def removal_files(experiment: Experiment) -> list[str]:
    """Name the files of one repeat and size's removals; none if the experiment asks for none."""
    if experiment.removal is None:
        return []
    return ["keep/all.safetensors", *(f"remove/{method}.safetensors" for method in experiment.removal_methods)]


def scaling_files(experiment: Experiment) -> list[str]:
    """Name the files of the methods' costs at every size of the model; none if the experiment doesn't ask for them."""
    sizes = experiment.scaling.names if experiment.scaling else ()
    return [f"scale/{method}-{size}.json" for method in experiment.methods for size in sizes]


def _method_costs(experiment: Experiment, folder: Path, repeat: int, size: int, method: str) -> list[dict[str, Any]]:
    record = load_record(folder / str(repeat) / str(size) / "scores" / f"{method}.safetensors")
    return _cost_rows(experiment, record, repeat, size, method, record["status"])


def _ground_truth_costs(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Rows of all retraining, as methods ``bank``, ``checkpoints`` and ``removal``, summed over their files."""
    files = {
        "checkpoints": [f"checkpoints/{index}.safetensors" for index in range(experiment.checkpoints)],
        "removal": removal_files(experiment),
    }
    rows = []
    for repeat in range(experiment.repeats):
        for size in experiment.data.train_sizes:
            for name, paths in {"bank": bank_files(experiment, folder, size), **files}.items():
                for path in paths:
                    record = load_record(folder / str(repeat) / str(size) / path)
                    if "cost" not in record:  # removals of a method that can't run
                        continue
                    rows += [
                        {**row, "phase": "train"} for row in _cost_rows(experiment, record, repeat, size, name, "ok")
                    ]
    totals = pd.DataFrame(rows, columns=list(COST_COLUMNS))
    keys = ["experiment", "repeat", "train_size", "method", "phase", "device", "status"]
    how = {
        "seconds": "sum",
        "cpu_seconds": "sum",
        "peak_host_bytes": "max",
        "peak_device_bytes": "max",
        "disk_bytes": "sum",
    }
    return totals.groupby(keys, as_index=False, sort=False).agg(how).to_dict("records")


def _cost_rows(
    experiment: Experiment, record: dict[str, Any], repeat: int, size: int, method: str, status: str
) -> list[dict[str, Any]]:
    place = {"experiment": experiment.name, "repeat": repeat, "train_size": size, "method": method, "status": status}
    if "cost" not in record:
        return [{**place, "phase": "score"}]
    return [{**place, "phase": name, **part, "device": record["device"]} for name, part in record["cost"].items()]
