"""The figure of quality against cost: LDS against CPU seconds and against forward passes, for every method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tdabench.drawing.labels import Label, place_labels
from tdabench.drawing.style import DARK, Styles, make_panels, method_styles, styled, write_title
from tdabench.drawing.table import count_repeats

MEASURES = {
    "cpu_seconds": "CPU time, fit and score (s)",
    "passes": "forward passes of one example (a gradient is 3)",
}


@styled()
def plot_frontier(
    lds: pd.DataFrame, cost: pd.DataFrame, growth: pd.DataFrame | None, null: pd.DataFrame | None,
    methods: Mapping[str, Any],
) -> Figure:  # fmt: skip
    """LDS of every method against what it cost, a row of panels a size: CPU seconds, and forward passes if counted.

    A point is a method's mean over repeats with its standard error (of one repeat, the bootstrap's interval). Grey
    steps are the best at each price. A method without any pass is a dashed line above chance, and left out otherwise.

    Args:
        null: The table of what chance reaches.
        methods: What each method is, for the lines.
    """
    table = make_frontier_table(lds, cost)
    sizes = sorted(table["train_size"].unique().tolist()) or [0]
    free = table["passes"] == 0
    table, free = table[~free], table[free]
    grown = pd.DataFrame() if growth is None else growth[growth["repeat"] == "all"].dropna(subset=["lds"])
    measures = [name for name in MEASURES if table[name].notna().any()] or ["cpu_seconds"]
    styles, lines = method_styles(lds["method"]), find_lines(methods)
    width, height = 0.6 + 5.2 * len(measures), 0.7 + 4.1 * len(sizes)
    figure, panels = make_panels(width, height, across=len(measures), down=len(sizes), sharey="row", sharex="col")
    labels = {}
    for row, size in zip(panels, sizes, strict=True):
        part, own = table[table["train_size"] == size], grown[grown["train_size"] == size] if len(grown) else grown
        for axes, measure in zip(row, measures, strict=True):
            _draw_bounds(axes, part, null, size)
            best = _draw_free(axes, free[free["train_size"] == size], null, styles)
            labels[axes] = _draw_panel(axes, part, own, measure, styles, lines, best)
        row[0].set_ylabel("LDS")
        row[0].set_title(f"n = {size:,}", loc="left")
    for axes, measure in zip(panels[-1], measures, strict=True):
        _label_cost(axes, measure)
    kind = "standard error over repeats" if count_repeats(lds) > 1 else "bootstrap interval"
    write_title(figure, f"{lds['experiment'].iloc[0]}: LDS with its {kind}, against cost")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, (names, curves) in labels.items():
        place_labels(axes, names, curves)
    return figure


def _label_cost(axes: Axes, measure: str) -> None:
    axes.set_xlabel(MEASURES[measure])
    if measure == "cpu_seconds":  # they may span less than a decade
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def make_frontier_table(lds: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Put each method's LDS beside its whole cost, a row a size and method that has an LDS."""
    rows = lds[(lds["repeat"] == "all") & lds["lds"].notna()].astype({"lds": float})
    if count_repeats(lds) > 1:
        rows = rows.assign(low=rows["lds"] - rows["standard_error"], high=rows["lds"] + rows["standard_error"])
    numbers = cost.assign(**{name: cost[name].to_numpy(dtype=float, na_value=np.nan) for name in MEASURES})
    # Of what one phase doesn't know, the whole is not known.
    keys = ["train_size", "method", "repeat"]
    sums = numbers.groupby(keys)[list(MEASURES)].agg(lambda parts: parts.sum(skipna=False))
    means = sums.groupby(["train_size", "method"]).mean().reset_index()
    return rows.merge(means, on=["train_size", "method"], how="left")


def _draw_bounds(axes: Axes, part: pd.DataFrame, null: pd.DataFrame | None, size: int) -> None:
    """Draw the ceiling, and the band of chance of the method for which it is widest, as in the figure of the LDS."""
    axes.set_xscale("log")
    axes.axhline(0, color=DARK, linewidth=0.8)
    ceiling = part["ceiling"].astype(float).mean()
    if pd.notna(ceiling):
        axes.axhline(ceiling, color=DARK, linestyle=":")
        axes.annotate("ceiling", (0.01, ceiling), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    bands = pd.DataFrame() if null is None else null[(null["train_size"] == size) & null["null_low"].notna()]
    if len(bands):
        means = bands.groupby("method")[["null_low", "null_high"]].mean()
        low, high = means["null_low"].min(), means["null_high"].max()
        axes.axhspan(low, high, color="#b0b0b0", alpha=0.3, linewidth=0)
        axes.annotate("chance", (0.01, high), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)


def _draw_free(axes: Axes, free: pd.DataFrame, null: pd.DataFrame | None, styles: Styles) -> float:
    """Draw a line at the LDS of each method that costs nothing and is above chance; return the best, at least zero."""
    best = 0.0
    for method, row in free.set_index("method").iterrows():
        chance = 0.0
        if null is not None:
            of_method = (null["method"] == method) & (null["train_size"] == row["train_size"])
            chance = np.nanmax([0.0, null.loc[of_method, "null_high"].astype(float).mean()])
        if min(row["low"], row["lds"]) <= chance:
            continue
        style, best = styles[method], max(best, row["lds"])
        axes.axhline(row["lds"], color=style["color"], linestyle=(0, (5, 2)), linewidth=1)
        axes.annotate(f"{style['label']}, no pass", (0.01, row["lds"]), xycoords=("axes fraction", "data"), va="bottom",
                      fontsize=7, color=style["color"])  # fmt: skip
    return best


def _draw_steps(axes: Axes, points: pd.DataFrame, measure: str, best: float) -> None:
    steps = points.astype(float).dropna().sort_values(measure)
    best_so_far = steps["lds"].cummax().clip(lower=best)
    axes.step(steps[measure], best_so_far, where="post", color="#dedede", linewidth=3.5, zorder=1.1)


def _draw_panel(
    axes: Axes, part: pd.DataFrame, grown: pd.DataFrame, measure: str, styles: Styles,
    lines: Sequence[Sequence[str]], best: float,
) -> tuple[list[Label], list[np.ndarray]]:  # fmt: skip
    """Draw one panel; return the names that its points need, and its lines.

    Args:
        best: LDS that costs nothing.
    """
    shown = part[part[measure] > 0].set_index("method")
    texts = {method: styles[method]["label"] for method in shown.index}
    curves = _draw_variants(axes, shown, measure, styles, lines, texts)
    points = pd.concat([shown[[measure, "lds"]], *([grown[[measure, "lds"]]] if len(grown) else [])])
    _draw_steps(axes, points, measure, best)
    labels: list[Label] = []
    for method, rows in grown.groupby("method", sort=False) if len(grown) else ():
        rows = rows.astype({measure: float}).sort_values("draws")
        rows = rows[rows[measure] > 0]
        if len(rows) > 1 and method in shown.index:
            curve = rows[[measure, "lds"]].to_numpy(dtype=float)
            curves.append(curve)
            axes.plot(*curve.T, color=styles[method]["color"], linewidth=1.8, marker=".", markersize=4, zorder=1.8)
            first = f"{rows['draws'].iloc[0]:.0f} draws"
            if first not in [label.text for label in labels]:  # curves that begin alike are told once
                labels.append(Label(text=first, x=curve[0, 0], y=curve[0, 1], colour="#606060"))
            texts[method] += f", {rows['draws'].iloc[-1]:.0f} draws"
    for method, row in shown.iterrows():
        style, reach = styles[method], [[row["lds"] - row["low"]], [row["high"] - row["lds"]]]
        axes.errorbar(row[measure], row["lds"], yerr=reach, color=style["color"], marker=style["marker"], capsize=2,
                      elinewidth=0.9)  # fmt: skip
        labels.append(Label(text=texts[method], x=row[measure], y=row["lds"], colour=style["color"]))
        curves.append(np.array([[row[measure], row["low"]], [row[measure], row["high"]]], dtype=float))
    return labels[::-1], curves


def _draw_variants(
    axes: Axes, shown: pd.DataFrame, measure: str, styles: Styles, lines: Sequence[Sequence[str]], texts: dict[str, str]
) -> list[np.ndarray]:
    """Join methods that differ in a number, and shorten their names; return the lines."""
    curves = []
    for line in lines:
        joined = shown.loc[[method for method in line if method in shown.index]]
        if len(joined) < 2:
            continue
        curves.append(joined[[measure, "lds"]].to_numpy(dtype=float))
        axes.plot(*curves[-1].T, color=styles[joined.index[-1]]["color"], linewidth=0.9, alpha=0.7, zorder=1.5)
        # The best one has the whole name; of the others, what differs is enough.
        short = zip(joined.index, short_labels([styles[one]["label"] for one in joined.index]), strict=True)
        best = joined["lds"].idxmax()
        texts |= {one: text for one, text in short if one != best and len(text) < len(texts[one])}
    return curves


def find_lines(methods: Mapping[str, Any]) -> list[list[str]]:
    """Join methods that differ in one number alone, in its order: the same method at growing prices.

    A setting that is a word makes another method, not another price.

    Args:
        methods: The experiment's: each has a ``path`` and ``settings``.
    """
    lines = []
    for setting in dict.fromkeys(name for component in methods.values() for name in component.settings):
        groups: dict[str, list[str]] = {}
        for method, component in methods.items():
            if _is_number(component.settings.get(setting)):
                others = {name: value for name, value in component.settings.items() if name != setting}
                others |= getattr(component, "likeness", {})  # what is divided is another method too
                groups.setdefault(f"{component.path} {sorted(others.items(), key=str)}", []).append(method)
        for group in groups.values():
            if len(group) > 1:
                lines.append(sorted(group, key=lambda method, name=setting: methods[method].settings[name]))
    return lines


def short_labels(labels: Sequence[str]) -> list[str]:
    """Return what tells the labels of one line apart: their last word, if all words before it are the same."""
    heads = {label.rpartition(" ")[0] for label in labels}
    return [label.rpartition(" ")[2] for label in labels] if len(heads) == 1 and heads != {""} else list(labels)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
