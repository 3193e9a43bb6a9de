"""What everything cost: the table, its figure, and its section of the page."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.columns import Column, find_column
from tdabench.drawing.files import write_figures
from tdabench.drawing.html import GROUND_TRUTH, HtmlTable, method_cell, number_cell, text_cell
from tdabench.drawing.section import Part, Results, Shown, Topic, by_size
from tdabench.drawing.style import Styles, make_panels, method_styles, styled, write_title
from tdabench.drawing.table import PLACE, declare
from tdabench.experiment.derived import settle_bank
from tdabench.experiment.read import Experiment
from tdabench.storage.cell import Cell, cells_of
from tdabench.storage.records import load_record

COST = declare(
    "cost", PLACE, "method phase seconds cpu_seconds peak_host_bytes peak_device_bytes disk_bytes device status passes",
    digits="%.4f",
)  # fmt: skip
HOW = {"seconds": "sum", "cpu_seconds": "sum", "passes": "sum", "peak_host_bytes": "max", "peak_device_bytes": "max",
       "disk_bytes": "sum"}  # fmt: skip
SHORTEST = 1e-4  # seconds that a logarithmic axis shows
NOTABLE = 0.01  # share of the seconds from which a fit is shown apart


def write_costs(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Write ``tables/cost.csv`` and ``figures/cost.png|pdf``; return the table."""
    cost = make_cost_table(collect_costs(experiment, folder))
    COST.write(folder, cost)
    write_figures(folder, {"cost": plot_cost(cost, list(experiment.methods))})
    return cost


def make_cost_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the cost table: one row a repeat, size, method and phase; also the bank's and the checkpoints' cost.

    ``passes`` is empty where their number is not known, as in results from before they were counted.
    """
    table = COST.frame(rows)
    return table.assign(passes=pd.to_numeric(table["passes"]).round().astype("Int64"))


def collect_costs(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Return a row a repeat, size, method and phase; the bank and the checkpoints are methods of their own."""
    cells = list(cells_of(experiment, folder))
    methods = [
        row
        for cell in cells
        for method in experiment.methods
        for row in _cost_rows(experiment, cell, method, load_record(cell.scores(method)))
    ]
    retrained = [row for cell in cells for row in _ground_truth_rows(experiment, cell)]
    totals = COST.frame(retrained).drop(columns="passes")
    keys = ["experiment", "repeat", "train_size", "method", "phase", "device", "status"]
    how = {name: how for name, how in HOW.items() if name in totals}
    return methods + totals.groupby(keys, as_index=False, sort=False).agg(how).to_dict("records")


def ground_truth_files(experiment: Experiment, cell: Cell) -> dict[str, list[Path]]:
    """Name the files of a cell's retrained models: of the bank, of the checkpoints, and of the removals."""
    shards = settle_bank(experiment, cell.root, cell.train_size).shards if experiment.bank else 0
    removals = [] if experiment.removal is None else [cell.kept, *map(cell.removal, experiment.removal_methods)]
    return {"bank": cell.bank(shards), "checkpoints": cell.checkpoints(experiment.checkpoints), "removal": removals}


def _ground_truth_rows(experiment: Experiment, cell: Cell) -> Iterator[dict[str, Any]]:
    for name, paths in ground_truth_files(experiment, cell).items():
        for path in paths:
            record = load_record(path)
            if "cost" in record:  # removals of a method that can't run have none
                for row in _cost_rows(experiment, cell, name, record | {"status": "ok"}):
                    yield {**row, "phase": "train"}


def _cost_rows(experiment: Experiment, cell: Cell, method: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size, "method": method}
    place["status"] = record["status"]
    if "cost" not in record:
        return [{**place, "phase": "score"}]
    return [{**place, "phase": name, **part, "device": record["device"]} for name, part in record["cost"].items()]


@styled()
def plot_cost(table: pd.DataFrame, methods: list[str]) -> Figure:
    """Seconds of each method by phase, a panel a size, mean over repeats (the paper's Fig. 6)."""
    own = table[table["method"].isin(methods)]
    rows, styles = own[own["seconds"].notna()], method_styles(own["method"])
    sizes = sorted(rows["train_size"].unique())
    figure, (panels,) = make_panels(1.6 + 2.6 * len(sizes), 0.8 + 0.32 * len(methods), across=len(sizes), sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        _draw_costs(axes, rows[rows["train_size"] == size], methods[::-1], styles)
        axes.set_title(f"n = {size}", loc="left")
    write_title(figure, "filled: fit and score together; hollow: fit alone; mean over repeats", 8)
    return figure


def _draw_costs(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    means = rows.groupby(["method", "phase"])["seconds"].mean().unstack().reindex(methods)
    total = means.sum(axis=1, min_count=1)
    for place, (method, seconds) in enumerate(total.items()):
        if pd.isna(seconds):
            axes.text(0.02, place, "not run", va="center", fontsize=7.5, transform=axes.get_yaxis_transform())
            continue
        look = {"color": styles[method]["color"], "linestyle": "none", "marker": "o"}
        axes.plot(max(seconds, SHORTEST), place, **look)
        fit = means.loc[method].get("fit", 0.0)
        if fit > NOTABLE * seconds:
            axes.plot(max(fit, SHORTEST), place, **look, markerfacecolor="white")
        axes.annotate(f"{seconds:.3g} s", (max(seconds, SHORTEST), place), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=7.5)  # fmt: skip
    axes.set_yticks(range(len(methods)), [styles[method]["label"] for method in methods])
    known = total.dropna().clip(lower=SHORTEST)
    axes.set_xscale("log")
    axes.set_xlim(known.min() / 2 if len(known) else SHORTEST, known.max() * 8 if len(known) else 1)
    axes.set_xlabel("wall-clock (s)")
    axes.grid(visible=False, axis="y")


def cost_table(results: Results, size: int, caption: str = "") -> HtmlTable:
    """Make the table of one size, best method first: LDS if there is one, seconds by phase, memory, disk."""
    cost, ranked = results.tables["cost"], results.at("lds", train_size=size)
    rows = cost[(cost["train_size"] == size) & ~cost["method"].isin(list(GROUND_TRUTH))]
    scores = dict(zip(ranked["method"], ranked["lds"], strict=True)) if len(ranked) else {}
    phases = sorted(rows["phase"].dropna().unique(), key=lambda phase: (phase not in ("fit", "score"), phase))
    columns, lines = _measured(rows), []
    for method in sorted(rows["method"].unique(), key=lambda method: _descending(scores.get(method))):
        own = rows[rows["method"] == method]
        seconds = [*(_mean(own[own["phase"] == phase], "seconds") for phase in phases), _mean(own, "seconds")]
        line = [method_cell(method, results.styles)]
        line += [number_cell(scores.get(method), "score")] if scores else []
        line += [number_cell(value, "seconds") for value in seconds]
        lines.append((*line, *(number_cell(_mean(own, column.key), column) for column in columns)))
    headers = ["Method", *(["LDS"] if scores else []), *(f"{find_column(phase).words} (s)" for phase in phases)]
    headers += ["Total (s)", *(column.words for column in columns)]
    return HtmlTable(caption=f"Cost at n = {size:,}", headers=tuple(headers), rows=tuple(lines))


def _ground_truth_table(cost: pd.DataFrame) -> HtmlTable | None:
    """Make the table of what retraining cost, if it is there: bank and checkpoints, a row each and size."""
    rows = cost[cost["method"].isin(list(GROUND_TRUTH))]
    if rows.empty:
        return None
    columns = [find_column("seconds"), *_measured(rows)]
    lines = [
        (text_cell(GROUND_TRUTH[method]), number_cell(size), *(number_cell(_mean(own, at.key), at) for at in columns))
        for (method, size), own in rows.groupby(["method", "train_size"], sort=True)
    ]
    headers = ("What", "n", "Train (s)", *(column.words for column in columns[1:]))
    return HtmlTable(caption="Cost of the ground truth", headers=headers, rows=tuple(lines))


def _show(results: Results, topic: Topic, columns: Mapping[str, Column]) -> Iterator[Part]:
    cost = results.tables["cost"]
    if len(cost):
        yield from by_size(cost_table)(results, topic, columns)
    ground_truth = _ground_truth_table(cost)
    if ground_truth is not None:
        yield Part(title="The ground truth", table=ground_truth)


def _measured(rows: pd.DataFrame) -> list[Column]:
    """Return the columns of cost beside seconds; the device's memory only where there is any, passes where counted."""
    optional = ("passes", "peak_device_bytes")  # tables of older results have no passes
    return [
        find_column(name)
        for name in HOW
        if name != "seconds"
        and (name not in optional or (name in rows and rows[name].astype(float).fillna(0).gt(0).any()))
    ]


def _mean(parts: pd.DataFrame, column: str) -> float | None:
    """Return the mean over repeats: of sums over phases, of a peak the highest; nothing if nothing was measured."""
    known = parts[parts[column].notna()]
    if column == "passes" and len(known) < len(parts):  # of one phase, they are not the whole
        return None
    return float(known.groupby("repeat")[column].agg(HOW[column]).mean()) if len(known) else None


def _descending(score: float | None) -> float:
    return -score if score is not None and pd.notna(score) else float("inf")


SHOWN = Shown(package=__package__, tables=(COST,), parts={"cost": _show})
