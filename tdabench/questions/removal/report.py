"""What the removals show: tables, figure, sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.columns import Column, score
from tdabench.drawing.files import write_figures, write_markdown
from tdabench.drawing.html import HtmlTable, cross, estimate_cell
from tdabench.drawing.section import Results, Shown, by_size
from tdabench.drawing.style import DARK, Styles, add_legend, make_panels, method_styles, styled, write_title
from tdabench.drawing.table import PLACE, at_largest, count_repeats, declare, format_mean
from tdabench.drawing.words import judge_difference, write_interval, write_score
from tdabench.experiment.read import Experiment
from tdabench.storage.records import save_json

REMOVAL = declare(
    "removal", PLACE, "method", Column("count", "k"), score("effect", "Effect (nats)"), "low high standard_error",
    score("effect_random", "Random removal (nats)"), "queries retrains status", score("overlap", "Overlap"),
    keys=("train_size", "method", "count"), means={"effect": ""}, averaged=("effect_random", "overlap"),
    added=("queries",), whole=("queries",),
)  # fmt: skip
DIFFERENCES = declare(
    "removal_differences", PLACE, Column("count", "k"), "method other difference low high standard_error queries",
    keys=("train_size", "count", "method", "other"), means={"difference": ""}, added=("queries",), whole=("queries",),
)  # fmt: skip


def write_removal(
    experiment: Experiment,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> str:
    """Write ``tables/removal*`` and ``figures/removal.png|pdf``; return the text for a terminal.

    Args:
        rows: One a repeat, size, method and count; ``diverged`` counts what is left out.
        pairs: One a repeat, size, count and pair of methods.
    """
    confidence = experiment.evaluation.confidence
    table = make_removal_table(rows, confidence)
    summary = write_markdown(folder, "removal", summarise_removal(table))
    DIFFERENCES.write(folder, DIFFERENCES.add_rows_over_repeats(pairs, confidence))
    save_json(folder / "tables" / "removal_record.json", {"experiment": experiment}, record)
    write_figures(folder, {"removal": plot_removal(table)})
    REMOVAL.write(folder, table)
    return (
        f"\n{experiment.name}: rise of a query's loss (nats) without the k examples that a method calls most helpful "
        f"for it, against k random ones of the same classes\n\n{summary}\n\nTable: {folder}/tables/removal.csv\n"
    )


def make_removal_table(rows: Sequence[Mapping[str, Any]], confidence: float) -> pd.DataFrame:
    """Make the table, with rows ``all`` over the repeats; what weakens a number is said in its status."""
    told = [{**row, "status": "; ".join([row["status"], *_notes(row)])} for row in rows]
    return REMOVAL.add_rows_over_repeats(told, confidence)


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
    last, rows = at_largest(table), []
    for method in _order(last):
        same = last[last["method"] == method].sort_values("count")
        cells = {
            f"k = {row['count']}": format_mean(row, "effect", repeats=count_repeats(table))
            for _, row in same.iterrows()
        }
        rows.append({"method": method, **cells, "status": " | ".join(dict.fromkeys(same["status"]))})
    return pd.DataFrame(rows)


def _order(rows: pd.DataFrame) -> pd.Series:
    """Return the methods by their effect at the largest count."""
    most = rows[rows["count"] == rows["count"].max()]
    return most.sort_values("effect", ascending=False, na_position="last", kind="stable")["method"]


@styled()
def plot_removal(table: pd.DataFrame) -> Figure:
    """Effect against the number of removed examples, a panel a size, one colour a method."""
    repeats, last = count_repeats(table), table[table["repeat"] == "all"]
    sizes, styles = sorted(last["train_size"].unique()), method_styles(last["method"])
    what = f"mean over {repeats} repeats, Student's t interval" if repeats > 1 else "bootstrap interval over queries"
    figure, (panels,) = make_panels(2.6 + 3.8 * len(sizes), 3.9, across=len(sizes), sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        _draw_size(axes, last[last["train_size"] == size], styles)
        axes.set_title(f"n = {size:,}", loc="left")
    panels[0].set_ylabel("loss without the top k − loss without\nk random ones of the same classes (nats)")
    add_legend(figure, panels[0])
    write_title(figure, f"{table['experiment'].iloc[0]}: effect of removal, {what}")
    return figure


def _draw_size(axes: Axes, rows: pd.DataFrame, styles: Styles) -> None:
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
    axes.axhline(0, color=DARK, linewidth=0.8)
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_xlabel("removed examples k")
    axes.grid(visible=False, axis="x")


def _cross_counts(results: Results, size: int, caption: str) -> HtmlTable:
    """Cross methods with counts: the effect with its interval, largest at the largest count first."""
    rows = results.at("removal", train_size=size)
    headers = {count: f"k = {count:,}" for count in sorted(rows["count"].unique())}

    def effect(row: Mapping[str, Any]) -> Any:
        return estimate_cell(row["effect"], row["low"], row["high"])

    return cross(rows, "count", headers, effect, _order(rows), results.styles, caption)


def lead_removal(results: Results) -> list[str]:
    """Say whose most helpful examples are missed most, at the largest size and count, and whether that is real."""
    rows, confidence = at_largest(results.tables["removal"]), results.confidence
    rows = rows[(rows["count"] == rows["count"].max()) & rows["effect"].notna()]
    rows = rows.sort_values("effect", ascending=False, kind="stable")
    if rows.empty:
        return ["No method has removals."]
    best, count, size = rows.iloc[0], int(rows["count"].iloc[0]), int(rows["train_size"].iloc[0])
    examples = "the example" if count == 1 else f"the {count:,} examples"
    sentence = (
        f"Without {examples} that {results.label(best['method'])} calls most helpful for it, a query's loss is "
        f"{write_score(best['effect'])} nats higher than without as many random ones of the same classes "
        f"({write_interval(best, confidence)}; n = {size:,})"
    )
    if len(rows) == 1:
        return [f"{sentence}."]
    second = rows.iloc[1]
    pairs = results.at("removal_differences", train_size=size, count=count)
    pairs = pairs.assign(first=pairs["method"], second=pairs["other"]) if len(pairs) else pairs
    gap = write_score(best["effect"] - second["effect"])
    verdict = judge_difference(pairs, size, best["method"], second["method"], confidence)
    return [f"{sentence}: {gap} more than {results.label(second['method'])}{verdict.replace(': ', ', ', 1)}."]


SHOWN = Shown(
    package=__package__,
    tables=(REMOVAL, DIFFERENCES),
    lead=lead_removal,
    parts={"removal": by_size(_cross_counts)},
)
