"""Table of how well the methods that draw have drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.config import Experiment
from tdabench.records import load_json
from tdabench.report.files import write_table

DIAGNOSTICS_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "chains", "draws", "diverged_chains", "effective_draws",
    "rhat_median", "rhat_high", "drift", "loss_standard_deviation", "warning",
)  # fmt: skip


def write_diagnostics(experiment: Experiment, folder: Path) -> None:
    """Write ``tables/diagnostics.csv``, if there is a method that kept its traces."""
    found = [
        ({"experiment": experiment.name, "repeat": repeat, "train_size": size, "method": method}, result)
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
        for method in experiment.methods
        if (result := load_json(folder / str(repeat) / str(size) / "diagnose" / f"{method}.json"))["traces"]
    ]
    if found:
        table = pd.DataFrame([_make_row(place, result) for place, result in found], columns=list(DIAGNOSTICS_COLUMNS))
        write_table(folder, "diagnostics", table)


def _make_row(place: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    rhat, drift = result["rhat"] or {}, result["drift"] or {}
    return {
        **place,
        **{name: result[name] for name in ("chains", "draws", "diverged_chains", "warning")},
        "effective_draws": (result["effective_draws"] or {}).get("median"),
        "rhat_median": rhat.get("median"),
        "rhat_high": rhat.get("high"),
        "drift": drift.get("of_mean_loss"),
        "loss_standard_deviation": (result["loss_standard_deviation"] or {}).get("median"),
    }
