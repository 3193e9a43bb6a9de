"""What the detection of wrong labels shows: table, figure, sentences."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tdabench.drawing.columns import MISSING, score
from tdabench.drawing.files import write_figures, write_markdown
from tdabench.drawing.html import Cell, HtmlTable, cross, estimate_cell
from tdabench.drawing.section import Results, Shown, by_size
from tdabench.drawing.style import DARK, Styles, make_panels, method_styles, styled, write_title
from tdabench.drawing.table import PLACE, at_largest, count_repeats, declare, format_mean
from tdabench.drawing.words import write_interval, write_score
from tdabench.experiment.read import Experiment
from tdabench.storage.records import save_json

DETECTION = declare(
    "detection", PLACE, "method detector", score("auc", "AUC"), "low high standard_error", score("average_precision"),
    "mislabelled status",
    keys=("train_size", "method", "detector"), means={"auc": ""}, averaged=("average_precision",),
    added=("mislabelled",), whole=("mislabelled",),
)  # fmt: skip
DETECTORS = {"self_influence": "self-influence", "mean_helpfulness": "−mean helpfulness", "loss": "loss"}


def write_detection(
    experiment: Experiment, folder: Path, rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> str:
    """Write ``tables/detection*`` and ``figures/detection.png|pdf``; return the text for a terminal.

    Args:
        rows: One a repeat, size, method and detector.
    """
    table = make_detection_table(rows, experiment.evaluation.confidence)
    summary = write_markdown(folder, "detection", summarise_detection(table))
    save_json(folder / "tables" / "detection_record.json", {"experiment": experiment}, record)
    write_figures(folder, {"detection": plot_detection(table)})
    DETECTION.write(folder, table)
    return (
        f"\n{experiment.name}: wrong labels found, area under the ROC curve (0.5 is chance)\n\n{summary}\n\n"
        f"Table: {folder}/tables/detection.csv\n"
    )


def make_detection_table(rows: Sequence[Mapping[str, Any]], confidence: float) -> pd.DataFrame:
    """Make the table, with rows ``all`` over the repeats; a detector that ranks nothing says so in its status."""
    told = []
    for row in rows:
        # NaN is what evaluation gives for constant values; a method that could not run has no number at all.
        note = "; the same for every example: no ranking" if row.get("auc", 0.0) != row.get("auc", 0.0) else ""
        told.append({**row, "status": f"{row['status']}{note}"})
    return DETECTION.add_rows_over_repeats(told, confidence)


def summarise_detection(table: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method and detector at the largest size, best first."""
    ranked = at_largest(table).sort_values("auc", ascending=False, na_position="last")
    return pd.DataFrame(
        {
            "method": row["method"],
            "detector": DETECTORS[row["detector"]],
            "AUC": format_mean(row, "auc", repeats=count_repeats(table)),
            "average precision": MISSING if pd.isna(row["average_precision"]) else f"{row['average_precision']:.3f}",
            "status": row["status"],
        }
        for _, row in ranked.iterrows()
    )


@styled()
def plot_detection(table: pd.DataFrame) -> Figure:
    """Area under the ROC curve, a row a method and a panel a size: self-influence filled, mean helpfulness hollow."""
    repeats, last = count_repeats(table), table[table["repeat"] == "all"]
    sizes, styles = sorted(last["train_size"].unique()), method_styles(last["method"])
    best = last.groupby("method")["auc"].max().sort_values(na_position="first")
    what = f"mean over {repeats} repeats, Student's t interval" if repeats > 1 else "stratified bootstrap interval"
    width, height = 1.8 + 3.4 * len(sizes), 1.7 + 0.36 * len(best)
    figure, (panels,) = make_panels(width, height, across=len(sizes), sharex=True, sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        _draw_size(axes, last[last["train_size"] == size], list(best.index), styles)
        axes.set_title(f"n = {size:,}", loc="left")
    panels[0].set_yticks(range(len(best)), [styles[method]["label"] for method in best.index])
    looks = (
        {"marker": "o", "label": "self-influence"},
        {"marker": "o", "mfc": "white", "label": "−mean helpfulness"},
        {"marker": "D", "label": "the model's loss"},
    )
    markers = [Line2D([], [], color=DARK, linestyle="none", **look) for look in looks]
    figure.legend(handles=markers, loc="outside lower center", ncols=3)
    write_title(figure, f"{table['experiment'].iloc[0]}: wrong labels found,\n{what}")
    return figure


def _draw_size(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: Styles) -> None:
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
    axes.axvline(0.5, color=DARK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("area under the ROC curve")
    axes.grid(visible=False, axis="y")


def _cross_detectors(results: Results, size: int, caption: str) -> HtmlTable:
    """Cross methods with detectors: the area under the ROC curve with its interval, highest first; the loss is noted.

    The models' loss is no method's, so that a column of it would hold one number.
    """
    rows = results.at("detection", train_size=size)
    alone, methods = rows[rows["detector"] == "loss"], rows[rows["detector"] != "loss"]
    best = methods.groupby("method", sort=False)["auc"].max()
    order = best.sort_values(ascending=False, na_position="last", kind="stable").index
    known = set(methods["detector"])
    headers = {key: f"{label[:1].upper()}{label[1:]}" for key, label in DETECTORS.items() if key in known}
    notes = [f"By the models' loss alone, without attribution: {_area(row).text}." for row in alone.to_dict("records")]
    table = cross(methods, "detector", headers, _area, order, results.styles, caption)
    return dataclasses.replace(table, note=" ".join(notes))


def _area(row: Mapping[str, Any]) -> Cell:
    return estimate_cell(row["auc"], row["low"], row["high"])


def lead_detection(results: Results) -> list[str]:
    """Say which method finds the planted wrong labels best, at the largest size, beside the models' own loss."""
    rows = at_largest(results.tables["detection"])
    rows = rows[rows["auc"].notna()].sort_values("auc", ascending=False, kind="stable")
    alone, methods = (rows[found] for found in (rows["detector"] == "loss", rows["detector"] != "loss"))
    loss = f"; the loss alone has {write_score(alone['auc'].iloc[0])}" if len(alone) else ""
    if methods.empty:
        return [f"No method ranks the planted wrong labels{loss}."]
    best = methods.iloc[0]
    return [
        f"Of all methods, {results.label(best['method'])} finds the planted wrong labels best, by its "
        f"{DETECTORS[best['detector']]}, with an area under the ROC curve of {write_score(best['auc'])} "
        f"({write_interval(best, results.confidence)}; n = {best['train_size']:,}){loss}."
    ]


SHOWN = Shown(
    package=__package__,
    tables=(DETECTION,),
    lead=lead_detection,
    parts={"detection": by_size(_cross_detectors)},
)
