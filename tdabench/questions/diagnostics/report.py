"""How well the methods that draw have drawn: a table, a figure, and a few words for the table of the LDS."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import Column, score
from tdabench.drawing.files import write_figures
from tdabench.drawing.section import Shown
from tdabench.drawing.table import PLACE, declare
from tdabench.drawing.words import SEE
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.figure import SERIES, LossTraces, plot_loss_traces
from tdabench.storage.cell import cells_of
from tdabench.storage.records import load_json, load_tensors

DIAGNOSTICS = declare(
    "diagnostics", PLACE, "method chains draws diverged_chains effective_draws",
    score("rhat_median", "R-hat, median"), "rhat_high drift", score("loss_standard_deviation", "Loss SD (nats)"),
    "warning", Column("distance", "Distance, last draw"), Column("distance_growth", "Its exponent"),
    "learning_coefficient", Column("learning_coefficient_error", "Its error"), "singular_fluctuation",
    Column("score_error_share", "Error of a score"),
)  # fmt: skip


def write(experiment: Experiment, folder: Path, cost: pd.DataFrame) -> str:
    """Write the table ``diagnostics`` and the figure of its name, if there is a method that kept its traces."""
    found = [
        ({"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size, "method": method}, path)
        for cell in cells_of(experiment, folder)
        for method in experiment.methods
        if load_json(path := cell.diagnosis(method))["traces"]
    ]
    if found:
        DIAGNOSTICS.write(folder, DIAGNOSTICS.frame(_make_row(place, load_json(path)) for place, path in found))
        drawn = [_load_series(place, path) for place, path in found if place["repeat"] == found[0][0]["repeat"]]
        write_figures(folder, {"diagnostics": plot_loss_traces(drawn)})
    return ""


def add_warning(status: str, diagnosis: Path) -> str:
    """Add to a status in a few words what is wrong with a method's draws; the table of diagnostics has the numbers."""
    warning = load_json(diagnosis).get("short_warning") if diagnosis.is_file() else None
    faults = (warning or "").split(", ")
    if "diverged" in status:  # said by the method itself, with what to do about it
        faults = [fault for fault in faults if "diverged" not in fault]
    return f"{status}; warning: {', '.join(faults)} {SEE}" if any(faults) else status


def _load_series(place: Mapping[str, Any], path: Path) -> LossTraces:
    tensors = load_tensors(path.with_suffix(".safetensors"))
    series = {name: tensors[name].numpy() for name in SERIES if name in tensors}
    return LossTraces(method=place["method"], train_size=place["train_size"], **series)


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


SHOWN = Shown(package=__package__, tables=(DIAGNOSTICS,), write=write)
