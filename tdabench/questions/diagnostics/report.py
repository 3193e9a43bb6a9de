"""How well the methods that draw have drawn: a table, a figure, and a few words for the table of the LDS."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.figure import SERIES, LossTraces, plot_loss_traces
from tdabench.report.files import write_figures, write_table
from tdabench.storage.records import load_json, load_tensors

DIAGNOSTICS_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "chains", "draws", "diverged_chains", "effective_draws",
    "rhat_median", "rhat_high", "drift", "loss_standard_deviation", "warning", "distance", "distance_growth",
    "learning_coefficient", "learning_coefficient_error", "singular_fluctuation", "score_error_share",
)  # fmt: skip


# By this a status says where the numbers are: the page, which has both, lists the diagnostics' own sentences alone.
SEE = "(see diagnostics)"


def write_diagnostics(experiment: Experiment, folder: Path) -> None:
    """Write the table ``diagnostics`` and the figure of its name, if there is a method that kept its traces."""
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
        write_figures(folder, {"diagnostics": plot_loss_traces(_load_series(folder, [place for place, _ in found]))})


def add_warning(status: str, diagnosis: Path) -> str:
    """Add to a status in a few words what is wrong with a method's draws; the table of diagnostics has the numbers."""
    warning = load_json(diagnosis).get("short_warning") if diagnosis.is_file() else None
    faults = (warning or "").split(", ")
    if "diverged" in status:  # said by the method itself, with what to do about it
        faults = [fault for fault in faults if "diverged" not in fault]
    return f"{status}; warning: {', '.join(faults)} {SEE}" if any(faults) else status


def drop_warning(status: str) -> str:
    """Return a status without what the table of diagnostics says at length."""
    return "; ".join(part for part in status.split("; ") if not part.endswith(SEE))


def _load_series(folder: Path, places: list[dict[str, Any]]) -> list[LossTraces]:
    """Load what is drawn of the first repeat."""
    first = [place for place in places if place["repeat"] == places[0]["repeat"]]
    found = []
    for place in first:
        path = folder / f"{place['repeat']}/{place['train_size']}/diagnose/{place['method']}.safetensors"
        tensors = load_tensors(path)
        series = {name: tensors[name].numpy() for name in SERIES if name in tensors}
        found.append(LossTraces(method=place["method"], train_size=place["train_size"], **series))
    return found


def _make_row(place: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    # A diagnosis of an older version has not every number.
    rhat, drift, distance, coefficient, fluctuation = (
        result.get(name) or {} for name in ("rhat", "drift", "distance", "learning_coefficient", "fluctuation")
    )
    covariance = result.get("covariance") or {}
    return {
        **place,
        **{name: result[name] for name in ("chains", "draws", "diverged_chains", "warning")},
        "effective_draws": (result["effective_draws"] or {}).get("median"),
        "rhat_median": rhat.get("median"),
        "rhat_high": rhat.get("high"),
        "drift": drift.get("of_mean_loss"),
        "loss_standard_deviation": (result["loss_standard_deviation"] or {}).get("median"),
        "distance": distance.get("last"),
        "distance_growth": distance.get("growth"),
        "learning_coefficient": coefficient.get("mean"),
        "learning_coefficient_error": coefficient.get("error"),
        "singular_fluctuation": fluctuation["mean"] / 2 if fluctuation else None,
        "score_error_share": covariance["error"] / covariance["size"] if covariance.get("size") else None,
    }
