"""Tables and figures of cost against model size."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tdabench.drawing.tables import write_csv
from tdabench.experiment.read import Experiment
from tdabench.questions.scaling.break_even import plot_break_even
from tdabench.report.figures import STYLE, method_styles
from tdabench.report.files import write_figures, write_markdown
from tdabench.storage.records import save_json

SCALING_COLUMNS = (
    "experiment", "size", "parameters", "tracked_parameters", "method", "queries", "repeat", "phase", "seconds",
    "cpu_seconds", "peak_host_bytes", "base_host_bytes", "peak_device_bytes", "disk_bytes", "passes", "draws",
    "draw_seconds", "draw_cpu_seconds", "device", "status",
)  # fmt: skip
TABLES = ("scaling", "scaling_fits", "scaling_predictions", "break_even")
NUMBERS = SCALING_COLUMNS[8:18]
GIB = 2.0**30
# Share of a method's seconds from which its fit is shown apart.
NOTABLE = 0.01
# What a panel shows: quantity, label of its axis, and by what a number is divided.
PANELS = (
    ("seconds", "wall-clock (s)", 1.0),
    ("host_bytes", "memory of the model and method (GiB)", GIB),
    ("peak_device_bytes", "memory of the GPU (GiB)", GIB),
    ("disk_bytes", "disk (GiB)", GIB),
)
Styles = Mapping[str, Mapping[str, str]]


def make_scaling_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of what was measured: one row a run and phase; a run that there is no cost of has a status."""
    table = pd.DataFrame(list(rows), columns=list(SCALING_COLUMNS))
    return table.assign(**{name: pd.to_numeric(table[name]).astype(float) for name in NUMBERS})


def write_scaling(
    experiment: Experiment, folder: Path, tables: Mapping[str, pd.DataFrame], record: Mapping[str, Any]
) -> str:
    """Write the tables ``scaling``, ``scaling_fits``, ``scaling_predictions`` and ``break_even``, and the figures.

    Returns:
        The text for a terminal.
    """
    summary = write_markdown(folder, "scaling", summarise_scaling(tables["scaling"], tables["scaling_fits"]))
    save_json(folder / "tables" / "scaling_record.json", {"experiment": experiment}, record)
    costs, fits, predictions, crossings = (tables[name] for name in TABLES)
    figures = {"scaling": plot_scaling(costs, fits, predictions, experiment.data.queries)}
    if len(crossings):
        figures["break_even"] = plot_break_even(costs, crossings)
    write_figures(folder, figures)
    for name in reversed(TABLES):
        write_csv(folder / "tables" / f"{name}.csv", tables[name], digits="%.10g")
    return f"\n{experiment.name}: cost against model size\n\n{summary}\n\nTable: {folder}/tables/scaling.csv\n"


def summarise_scaling(table: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method and phase, seconds at each size, and the exponent with its interval."""
    sizes = table.sort_values("parameters")["size"].unique()
    first = table.groupby("method")["queries"].transform("first")  # the experiment's own number is run first
    rows = []
    for (method, phase), part in table[table["queries"] == first].groupby(["method", "phase"], sort=False):
        row = {"method": method, "phase": phase}
        for size in sizes:
            found = part[part["size"] == size]
            known = found["seconds"].dropna()
            lost = "" if found.empty else found["status"].iloc[0].partition(":")[0]
            row[f"{size} (s)"] = f"{known.mean():,.3g}" if len(known) else lost
        rows.append({**row, "exponent": _exponent(fits, method, phase)})
    return pd.DataFrame(rows)


def _exponent(fits: pd.DataFrame, method: str, phase: str) -> str:
    rows = fits[(fits["method"] == method) & (fits["quantity"] == "seconds") & (fits["against"] == "parameters")]
    # A method with a single phase is fitted in all.
    rows = rows[rows["phase"].isin([phase] if phase in set(rows["phase"]) else ["total"])]
    if rows.empty:
        return "—"
    row = rows.iloc[0]
    interval = "no interval" if pd.isna(row["low"]) else f"{row['low']:.2f} to {row['high']:.2f}"
    return f"{row['exponent']:.2f} ({interval})"


def plot_scaling(table: pd.DataFrame, fits: pd.DataFrame, predictions: pd.DataFrame, queries: int) -> Figure:
    """Time, memory and disk against the parameters in log-log, with power laws (the paper's Fig. 5).

    Args:
        table: Measured costs; those with that many queries are shown.
        fits: As ``tdabench.questions.scaling.costs.fit_costs`` gives them.
        predictions: Of sizes that were not run: hollow marks. Their intervals may leave the panel, which is as large as
            what is measured and predicted.
    """
    fits, predictions = (frame[frame["against"] == "parameters"] for frame in (fits, predictions))
    known = table[(table["queries"] == queries) & table["seconds"].notna()]
    fitted = _fitted_methods(known)
    fits = fits[(fits["phase"] != "fit") | fits["method"].isin(fitted)]
    known = known.assign(host_bytes=known["peak_host_bytes"] - known["base_host_bytes"])
    styles = method_styles(table)
    panels = [panel for panel in PANELS if (known[panel[0]] > 0).any()] or PANELS[:1]
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 3.4 * len(panels), 4.2), layout="constrained")
        for axes, (quantity, label, unit) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw_measured(axes, known, quantity, unit, styles, fitted)
            _draw_predicted(axes, fits, predictions, quantity, unit, styles, known["parameters"])
            axes.set(xscale="log", yscale="log", xlabel="parameters of the model", ylabel=label)
            _limit(axes)
        figure.legend(handles=_legend(fitted, predictions, styles), loc="outside lower center", ncols=4)
        figure.suptitle(f"{table['experiment'].iloc[0]}: cost against model size", fontsize=9, x=0.01, ha="left")
    return figure


def _fitted_methods(known: pd.DataFrame) -> list[str]:
    """Return the methods whose fit is a hundredth of their seconds at some size; for others it is nothing to show."""
    seconds = known.pivot_table(index=["method", "parameters"], columns="phase", values="seconds", aggfunc="sum")
    share = seconds.get("fit", pd.Series(0.0, seconds.index)) / seconds.sum(axis=1)
    return sorted(set(share[share >= NOTABLE].index.get_level_values("method")))


def _limit(axes: Axes) -> None:
    """Make a panel as high as its lines and marks, whatever the intervals."""
    values = [value for line in axes.get_lines() for value in np.ravel(line.get_ydata()) if 0 < value < np.inf]
    if values:
        axes.set_ylim(min(values) / 3, max(values) * 3)


def _draw_measured(
    axes: Axes, known: pd.DataFrame, quantity: str, unit: float, styles: Styles, fitted: Sequence[str]
) -> None:
    """Draw each method's cost in all, filled, and beside it the seconds of its fit, smaller."""
    run = ["method", "parameters", "repeat"]
    how = "sum" if quantity in ("seconds", "disk_bytes") else "max"
    total = known.groupby(run, as_index=False)[quantity].agg(how)
    for method, rows in total[total[quantity] > 0].groupby("method", sort=False):
        axes.plot(rows["parameters"], rows[quantity] / unit, linestyle="none", **_look(styles[method]))
    fit = known[(known["phase"] == "fit") & known["method"].isin(fitted)]
    if quantity == "seconds":
        for method, rows in fit.groupby("method", sort=False):
            look = _look(styles[method]) | {"markersize": 3, "alpha": 0.6}
            axes.plot(rows["parameters"], rows["seconds"], linestyle="none", **look)


def _draw_predicted(
    axes: Axes,
    fits: pd.DataFrame,
    predictions: pd.DataFrame,
    quantity: str,
    unit: float,
    styles: Styles,
    measured: pd.Series,
) -> None:
    """Draw the power laws, dashed where nothing was measured, and the predictions, hollow with their intervals."""
    made = _draws_made(fits)
    for law in fits[fits["quantity"] == quantity].to_dict("records"):
        colour = styles[law["method"]]["color"]
        points = predictions[_same(predictions, law)]
        more = law["method"] in made and law["draws"] > made[law["method"]]
        fit = law["phase"] == "fit"
        if law["phase"] not in ("fit", "total"):
            continue
        ends = [measured.min(), measured.max(), max([measured.max(), *points["parameters"]])]
        for (start, stop), dash in zip(itertools.pairwise(ends), ("-", "--"), strict=True):
            across = np.geomspace(start, stop, 2)
            look = {"color": colour, "linewidth": 1.0, "linestyle": "-." if more else ":" if fit else dash}
            axes.plot(across, law["coefficient"] * across ** law["exponent"] / unit, **look)
        if not fit and len(points):
            _draw_hollow(axes, points, unit, styles[law["method"]])


def _draw_hollow(axes: Axes, points: pd.DataFrame, unit: float, style: Mapping[str, str]) -> None:
    value = points["predicted"] / unit
    low, high = (points[f"predicted_{end}"].replace(np.inf, np.nan) / unit for end in ("low", "high"))
    look = _look(style) | {"markerfacecolor": "white"}
    axes.errorbar(points["parameters"], value, [value - low, high - value], linestyle="none", elinewidth=0.6, **look)


def _draws_made(fits: pd.DataFrame) -> dict[str, float]:
    """Return how many draws each method that samples made."""
    return fits.dropna(subset="draws").groupby("method")["draws"].min().to_dict()


def _same(predictions: pd.DataFrame, law: Mapping[str, Any]) -> pd.Series:
    draws = predictions["draws"].isna() if pd.isna(law["draws"]) else predictions["draws"] == law["draws"]
    keys = ("method", "phase", "quantity")
    return draws & np.logical_and.reduce([predictions[key] == law[key] for key in keys])


def _look(style: Mapping[str, str]) -> dict[str, Any]:
    return {"color": style["color"], "marker": style["marker"]}


def _legend(fitted: Sequence[str], predictions: pd.DataFrame, styles: Styles) -> list[Line2D]:
    grey = {"color": "#404040", "linewidth": 1.0}
    lines = [Line2D([], [], linestyle="-", label=style["label"], **_look(style)) for style in styles.values()]
    if fitted:
        lines.append(Line2D([], [], linestyle=":", marker="o", markersize=3, label="its fit alone", **grey))
    if len(predictions):
        lines.append(Line2D([], [], linestyle="--", marker="o", markerfacecolor="white", label="predicted", **grey))
    for draws in sorted(predictions["draws"].dropna().unique())[1:]:
        lines.append(Line2D([], [], linestyle="-.", label=f"predicted for {draws:,.0f} draws", **grey))
    return lines
