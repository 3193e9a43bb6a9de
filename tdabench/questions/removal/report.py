"""Table, figure and text of the removals."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.tables import count_repeats
from tdabench.experiment.read import Experiment
from tdabench.report.figures import STYLE, method_styles
from tdabench.report.files import write_figures, write_markdown, write_table
from tdabench.report.repeats import add_rows_over_repeats, format_mean
from tdabench.storage.records import save_json

REMOVAL_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "count", "effect", "low", "high", "standard_error",
    "effect_random", "queries", "retrains", "status", "overlap",
)  # fmt: skip
DIFFERENCE_COLUMNS = (
    "experiment", "repeat", "train_size", "count", "method", "other", "difference", "low", "high", "standard_error",
    "queries",
)  # fmt: skip


def write_removal(
    experiment: Experiment,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    over_repeats: Any,
) -> str:
    """Write ``tables/removal*`` and ``figures/removal.png|pdf``; return the text for a terminal.

    Args:
        rows: One a repeat, size, method and count; ``diverged`` counts what is left out.
        pairs: One a repeat, size, count and pair of methods.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
    """
    combine = functools.partial(over_repeats, confidence=experiment.evaluation.confidence)
    table = make_removal_table(rows, combine)
    differences = make_difference_table(pairs, combine)
    summary = write_markdown(folder, "removal", summarise_removal(table))
    write_table(folder, "removal_differences", differences)
    save_json(folder / "tables" / "removal_record.json", {"experiment": experiment}, record)
    write_figures(folder, {"removal": plot_removal(table)})
    write_table(folder, "removal", table)
    return (
        f"\n{experiment.name}: rise of a query's loss (nats) without the k examples that a method calls most helpful "
        f"for it, against k random ones of the same classes\n\n{summary}\n\nTable: {folder}/tables/removal.csv\n"
    )


def make_removal_table(rows: Sequence[Mapping[str, Any]], over_repeats: Any) -> pd.DataFrame:
    """Make the table, with rows ``all`` over the repeats; what weakens a number is said in its status."""
    told = [{**row, "status": "; ".join([row["status"], *_notes(row)])} for row in rows]
    return add_rows_over_repeats(
        told,
        REMOVAL_COLUMNS,
        keys=("train_size", "method", "count"),
        value="effect",
        averaged=("effect_random", "overlap"),
        added=("queries",),
        over_repeats=over_repeats,
    )


def make_difference_table(pairs: Sequence[Mapping[str, Any]], over_repeats: Any) -> pd.DataFrame:
    """Make the table of paired differences between methods, with rows ``all`` over the repeats."""
    return add_rows_over_repeats(
        pairs,
        DIFFERENCE_COLUMNS,
        keys=("train_size", "count", "method", "other"),
        value="difference",
        added=("queries",),
        over_repeats=over_repeats,
    )


def _notes(row: Mapping[str, Any]) -> list[str]:
    notes = []
    if row.get("diverged"):
        notes.append(f"{row['diverged']} retrains of a query diverged and are left out")
    if row.get("overlap", 0) > 0.5:
        share = f"{100 * row['overlap']:.0f}%"
        notes.append(
            f"k = {row['count']} nearly empties the classes: {share} of the random examples are the removed ones"
        )
    return notes


def summarise_removal(table: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method, a column a count, at the largest size, largest effect first."""
    repeats, last = count_repeats(table), table[table["repeat"] == "all"]
    last = last[last["train_size"] == last["train_size"].max()]
    most = last[last["count"] == last["count"].max()]
    rows = []
    for method in most.sort_values("effect", ascending=False, na_position="last")["method"]:
        same = last[last["method"] == method].sort_values("count")
        cells = {f"k = {row['count']}": format_mean(row, "effect", repeats=repeats) for _, row in same.iterrows()}
        rows.append({"method": method, **cells, "status": " | ".join(dict.fromkeys(same["status"]))})
    return pd.DataFrame(rows)


def plot_removal(table: pd.DataFrame) -> Figure:
    """Effect against the number of removed examples, a panel a size, one colour a method."""
    repeats, last = count_repeats(table), table[(table["repeat"] == "all")]
    sizes, styles = sorted(last["train_size"].unique()), method_styles(last)
    what = f"mean over {repeats} repeats, Student's t interval" if repeats > 1 else "bootstrap interval over queries"
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 3.8 * len(sizes), 3.9), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            _draw_size(axes, last[last["train_size"] == size], styles)
            axes.set_title(f"n = {size:,}", loc="left")
        panels[0].set_ylabel("loss without the top k − loss without\nk random ones of the same classes (nats)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        figure.suptitle(f"{table['experiment'].iloc[0]}: effect of removal, {what}", fontsize=9, x=0.01, ha="left")
    return figure


def _draw_size(axes: Axes, rows: pd.DataFrame, styles: dict[str, dict[str, str]]) -> None:
    """Draw each method's points side by side at every count, the counts at equal distances."""
    counts = sorted(rows["count"].unique())
    for place, (method, style) in enumerate(styles.items()):
        points = rows[(rows["method"] == method) & rows["effect"].notna()].sort_values("count")
        if points.empty:
            continue
        shift = 0.7 * ((place + 0.5) / len(styles) - 0.5)
        across = [counts.index(count) + shift for count in points["count"]]
        error = [points["effect"] - points["low"], points["high"] - points["effect"]]
        axes.errorbar(across, points["effect"], error, linestyle="none", capsize=2, elinewidth=1.1, **style)
    axes.axhline(0, color="#404040", linewidth=0.8)
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_xlabel("removed examples k")
    axes.grid(visible=False, axis="x")
