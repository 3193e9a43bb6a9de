"""Figures of cost against model size, and of the queries from which fitting first is the cheaper way."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tdabench.drawing.style import DARK, Styles, add_legend, make_panels, method_styles, styled, write_title

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


@styled()
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
    styles = method_styles(table["method"])
    panels = [panel for panel in PANELS if (known[panel[0]] > 0).any()] or PANELS[:1]
    figure, (grid,) = make_panels(1.6 + 3.4 * len(panels), 4.2, across=len(panels))
    for axes, (quantity, label, unit) in zip(grid, panels, strict=True):
        _draw_measured(axes, known, quantity, unit, styles, fitted)
        _draw_predicted(axes, fits, predictions, quantity, unit, styles, known["parameters"])
        axes.set(xscale="log", yscale="log", xlabel="parameters of the model", ylabel=label)
        _limit(axes)
    figure.legend(handles=_legend(fitted, predictions, styles), loc="outside lower center", ncols=4)
    write_title(figure, f"{table['experiment'].iloc[0]}: cost against model size")
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
    axes: Axes, fits: pd.DataFrame, predictions: pd.DataFrame, quantity: str, unit: float, styles: Styles,
    measured: pd.Series,
) -> None:  # fmt: skip
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
    grey = {"color": DARK, "linewidth": 1.0}
    lines = [Line2D([], [], linestyle="-", label=style["label"], **_look(style)) for style in styles.values()]
    if fitted:
        lines.append(Line2D([], [], linestyle=":", marker="o", markersize=3, label="its fit alone", **grey))
    if len(predictions):
        lines.append(Line2D([], [], linestyle="--", marker="o", markerfacecolor="white", label="predicted", **grey))
    for draws in sorted(predictions["draws"].dropna().unique())[1:]:
        lines.append(Line2D([], [], linestyle="-.", label=f"predicted for {draws:,.0f} draws", **grey))
    return lines


@styled()
def plot_break_even(table: pd.DataFrame, crossings: pd.DataFrame) -> Figure:
    """Seconds in all against the number of queries, a panel a size, with the predicted crossings.

    Args:
        table: Measured costs, as ``make_scaling_table`` gives them.
        crossings: As ``break_evens`` gives them; with draws that were not made, the other
            method's cost is drawn dashed, as predicted.
    """
    crossings = crossings[crossings["quantity"] == "seconds"]
    sizes = crossings.sort_values("parameters")["size"].unique()
    styles = method_styles(table["method"])
    figure, (panels,) = make_panels(2.6 + 3.4 * len(sizes), 3.4, across=len(sizes), sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        rows = table[table["size"] == size]
        _draw_queries(axes, rows[rows["seconds"].notna()], styles)
        _draw_crossings(axes, rows, crossings[crossings["size"] == size], styles)
        axes.set(xscale="log", yscale="log", xlabel="queries")
        counts = sorted(rows["queries"].unique())
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.set_title(str(size), loc="left")
    panels[0].set_ylabel("wall-clock, fit and score (s)")
    add_legend(figure, panels[0])
    return figure


def _draw_queries(axes: Axes, rows: pd.DataFrame, styles: Styles) -> None:
    for method, style in styles.items():
        means = _seconds(rows[rows["method"] == method])
        if len(means):
            draws = rows.loc[rows["method"] == method, "draws"].iloc[0]
            label = style["label"] if pd.isna(draws) else f"{style['label']}, {draws:,.0f} draws"
            axes.plot(means.index, means, **{**style, "label": label})


def _draw_crossings(axes: Axes, rows: pd.DataFrame, crossings: pd.DataFrame, styles: Styles) -> None:
    """Mark where the lines cross, and draw what other draws than were made would cost."""
    drawn = set()  # a method may cross several others
    for crossing in crossings.to_dict("records"):
        style = styles[crossing["other"]]
        other = rows[rows["method"] == crossing["other"]]
        is_predicted = pd.notna(crossing["draws"]) and crossing["draws"] != other["draws"].iloc[0]
        look = {"color": style["color"], "linestyle": "--" if is_predicted else ":", "linewidth": 1.0}
        if is_predicted and (crossing["other"], crossing["draws"]) not in drawn:
            drawn.add((crossing["other"], crossing["draws"]))
            more = (crossing["draws"] - other["draws"]) * other["draw_seconds"]
            means = (other["seconds"] + more).groupby(other["queries"]).mean()
            label = f"{style['label']}, {crossing['draws']:,.0f} draws (predicted)"
            axes.plot(means.index, means, marker=style["marker"], markerfacecolor="white", label=label, **look)
        if pd.notna(crossing["predicted"]) and crossing["predicted"] >= 1:
            axes.axvline(
                crossing["predicted"], label=f"{styles[crossing['method']]['label']} cheaper from here on", **look
            )


def _seconds(rows: pd.DataFrame) -> pd.Series:
    """Return the mean over repeats of the seconds in all, by number of queries."""
    return rows.groupby(["queries", "repeat"])["seconds"].sum().groupby("queries").mean()
