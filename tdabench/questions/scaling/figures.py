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
from tdabench.questions.scaling.costs import TOTAL, total_costs

GIB = 2.0**30
# What tells one law of a method from another.
LAW = ["method", "phase", "quantity", "draws"]
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
    costs = total_costs(table)
    costs = costs[costs["queries"] == queries]
    fitted = _fitted_methods(costs)
    fits = fits[(fits["phase"] == TOTAL) | (fits["phase"] == "fit") & fits["method"].isin(fitted)]
    styles = method_styles(table["method"])
    panels = [panel for panel in PANELS if (costs[panel[0]] > 0).any()] or PANELS[:1]
    figure, (grid,) = make_panels(1.6 + 3.4 * len(panels), 4.2, across=len(panels))
    for axes, (quantity, label, unit) in zip(grid, panels, strict=True):
        _draw_measured(axes, costs, quantity, unit, styles, fitted)
        laws = fits[fits["quantity"] == quantity][[*LAW, "coefficient", "exponent"]].merge(predictions, "left", on=LAW)
        _draw_predicted(axes, laws, unit, styles, costs["parameters"])
        axes.set(xscale="log", yscale="log", xlabel="parameters of the model", ylabel=label)
        _limit(axes)
    figure.legend(handles=_legend(fitted, predictions, styles), loc="outside lower center", ncols=4)
    write_title(figure, f"{table['experiment'].iloc[0]}: cost against model size")
    return figure


def _fitted_methods(costs: pd.DataFrame) -> list[str]:
    """Return the methods whose fit is a hundredth of their seconds at some size; for others it is nothing to show."""
    seconds = costs.pivot_table(index=["method", "parameters"], columns="phase", values="seconds", aggfunc="sum")
    share = seconds["fit"] / seconds[TOTAL] if "fit" in seconds else pd.Series(dtype=float)
    return sorted({method for method, _ in share[share >= NOTABLE].index})


def _limit(axes: Axes) -> None:
    """Make a panel as high as its lines and marks, whatever the intervals."""
    values = [value for line in axes.get_lines() for value in np.ravel(line.get_ydata()) if 0 < value < np.inf]
    if values:
        axes.set_ylim(min(values) / 3, max(values) * 3)


def _draw_measured(
    axes: Axes, costs: pd.DataFrame, quantity: str, unit: float, styles: Styles, fitted: Sequence[str]
) -> None:
    """Draw each method's cost in all, filled, and beside it the seconds of its fit, smaller."""
    is_fit = (costs["phase"] == "fit") & costs["method"].isin(fitted) & (quantity == "seconds")
    shown = costs[(costs[quantity] > 0) & (is_fit | (costs["phase"] == TOTAL))]
    for (method, phase), rows in shown.groupby(["method", "phase"], sort=False):
        look = _look(styles[method]) | ({"markersize": 3, "alpha": 0.6} if phase == "fit" else {})
        axes.plot(rows["parameters"], rows[quantity] / unit, linestyle="none", **look)


def _draw_predicted(axes: Axes, laws: pd.DataFrame, unit: float, styles: Styles, measured: pd.Series) -> None:
    """Draw the power laws, dashed where nothing was measured, and the predictions, hollow with their intervals."""
    made = laws.groupby("method")["draws"].min()
    for (method, phase, _, draws), points in laws.groupby(LAW, sort=False, dropna=False):
        ends = [measured.min(), measured.max(), max(measured.max(), points["parameters"].fillna(0).max())]
        coefficient, exponent = points.iloc[0][["coefficient", "exponent"]]
        for (start, stop), dash in zip(itertools.pairwise(ends), ("-", "--"), strict=True):
            across = np.geomspace(start, stop, 2)
            dash = "-." if draws > made[method] else ":" if phase == "fit" else dash
            look = {"color": styles[method]["color"], "linewidth": 1.0, "linestyle": dash}
            axes.plot(across, coefficient * across**exponent / unit, **look)
        points = points.dropna(subset="predicted")
        if phase == TOTAL and len(points):
            value = points["predicted"] / unit
            low, high = (points[f"predicted_{end}"].replace(np.inf, np.nan) / unit for end in ("low", "high"))
            look = {**_look(styles[method]), "linestyle": "none", "elinewidth": 0.6, "markerfacecolor": "white"}
            axes.errorbar(points["parameters"], value, [value - low, high - value], **look)


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
    """Draw the mean over repeats of each method's seconds in all."""
    for method, own in rows.groupby("method"):
        means = own.groupby(["queries", "repeat"])["seconds"].sum().groupby("queries").mean()
        style, draws = styles[method], own["draws"].iloc[0]
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
