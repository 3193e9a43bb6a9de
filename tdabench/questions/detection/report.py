"""Table, figure and text of the detection of wrong labels."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tdabench.drawing.tables import count_repeats
from tdabench.experiment.read import Experiment
from tdabench.report.figures import STYLE, method_styles
from tdabench.report.files import write_figures, write_markdown, write_table
from tdabench.report.repeats import add_rows_over_repeats, format_mean
from tdabench.storage.records import save_json

DETECTION_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "detector", "auc", "low", "high", "standard_error",
    "average_precision", "mislabelled", "status",
)  # fmt: skip
DETECTORS = {"self_influence": "self-influence", "mean_helpfulness": "−mean helpfulness", "loss": "loss"}


def write_detection(
    experiment: Experiment,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    over_repeats: Any,
) -> str:
    """Write ``tables/detection*`` and ``figures/detection.png|pdf``; return the text for a terminal.

    Args:
        rows: One a repeat, size, method and detector.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
    """
    combine = functools.partial(over_repeats, confidence=experiment.evaluation.confidence)
    table = make_detection_table(rows, combine)
    summary = write_markdown(folder, "detection", summarise_detection(table))
    save_json(folder / "tables" / "detection_record.json", {"experiment": experiment}, record)
    write_figures(folder, {"detection": plot_detection(table)})
    write_table(folder, "detection", table)
    return (
        f"\n{experiment.name}: wrong labels found, area under the ROC curve (0.5 is chance)\n\n{summary}\n\n"
        f"Table: {folder}/tables/detection.csv\n"
    )


def make_detection_table(rows: Sequence[Mapping[str, Any]], over_repeats: Any) -> pd.DataFrame:
    """Make the table, with rows ``all`` over the repeats; a detector that ranks nothing says so in its status."""
    told = []
    for row in rows:
        # NaN is what evaluation gives for constant values; a method that could not run has no number at all.
        note = "; the same for every example: no ranking" if row.get("auc", 0.0) != row.get("auc", 0.0) else ""
        told.append({**row, "status": f"{row['status']}{note}"})
    return add_rows_over_repeats(
        told,
        DETECTION_COLUMNS,
        keys=("train_size", "method", "detector"),
        value="auc",
        averaged=("average_precision",),
        added=("mislabelled",),
        over_repeats=over_repeats,
    )


def summarise_detection(table: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method and detector at the largest size, best first."""
    repeats, last = count_repeats(table), table[table["repeat"] == "all"]
    last = last[last["train_size"] == last["train_size"].max()]
    rows = []
    for _, row in last.sort_values("auc", ascending=False, na_position="last").iterrows():
        precision = row["average_precision"]
        rows.append(
            {
                "method": row["method"],
                "detector": DETECTORS[row["detector"]],
                "AUC": format_mean(row, "auc", repeats=repeats),
                "average precision": "—" if pd.isna(precision) else f"{precision:.3f}",
                "status": row["status"],
            }
        )
    return pd.DataFrame(rows)


def plot_detection(table: pd.DataFrame) -> Figure:
    """Area under the ROC curve, a row a method and a panel a size: self-influence filled, mean helpfulness hollow."""
    repeats, last = count_repeats(table), table[table["repeat"] == "all"]
    sizes, styles = sorted(last["train_size"].unique()), method_styles(last)
    best = last.groupby("method")["auc"].max().sort_values(na_position="first")
    what = f"mean over {repeats} repeats, Student's t interval" if repeats > 1 else "stratified bootstrap interval"
    with rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 3.4 * len(sizes), 1.7 + 0.36 * len(best)), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            _draw_size(axes, last[last["train_size"] == size], list(best.index), styles)
            axes.set_title(f"n = {size:,}", loc="left")
        panels[0].set_yticks(range(len(best)), [styles[method]["label"] for method in best.index])
        markers = [
            Line2D([], [], color="#404040", linestyle="none", marker="o", label="self-influence"),
            Line2D([], [], color="#404040", linestyle="none", marker="o", mfc="white", label="−mean helpfulness"),
            Line2D([], [], color="#404040", linestyle="none", marker="D", label="the model's loss"),
        ]
        figure.legend(handles=markers, loc="outside lower center", ncols=3)
        title = f"{table['experiment'].iloc[0]}: wrong labels found,\n{what}"
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def _draw_size(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: dict[str, dict[str, str]]) -> None:
    shifts = {"self_influence": 0.15, "mean_helpfulness": -0.15, "loss": 0.0}
    for _, row in rows[rows["auc"].notna()].iterrows():
        colour, detector = styles[row["method"]]["color"], row["detector"]
        axes.errorbar(
            [row["auc"]],
            [methods.index(row["method"]) + shifts[detector]],
            xerr=[[row["auc"] - row["low"]], [row["high"] - row["auc"]]],
            color=colour,
            capsize=2,
            elinewidth=1.1,
            marker="D" if detector == "loss" else "o",
            markerfacecolor="white" if detector == "mean_helpfulness" else colour,
        )
    axes.axvline(0.5, color="#404040", linewidth=0.8, linestyle=":")
    axes.set_xlabel("area under the ROC curve")
    axes.grid(visible=False, axis="y")
