"""The figure of how much methods agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tdabench.drawing.style import make_panels, method_styles, styled, write_title
from tdabench.drawing.table import count_repeats


@styled(**{"axes.grid": False})
def plot_agreement(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Rank correlation and overlap of every two methods at the largest size, as matrices (means over repeats).

    Args:
        order: Methods, best first; those without scores may be among them.
    """
    rows = table[table["repeat"] == "all"]
    rows = rows[rows["train_size"] == rows["train_size"].max()]
    known = set(rows["first"]) | set(rows["second"])
    methods = [method for method in order if method in known]
    if not methods:
        figure = Figure(figsize=(4, 1))
        figure.text(0.5, 0.5, "fewer than two methods have scores", ha="center", va="center")
        return figure
    side = 0.9 + 0.52 * len(methods)
    figure, ((left, right),) = make_panels(2 * side + 0.9, side + 0.9, across=2)
    size, top, repeats = rows["train_size"].iloc[0], rows["top"].iloc[0], count_repeats(table)
    _draw_matrix(left, rows, methods, "rank_correlation", colormaps["RdBu"], Normalize(-1, 1))
    _draw_matrix(right, rows, methods, "overlap", colormaps["Blues"], Normalize(0, 1))
    left.set_title("rank correlation over train examples", loc="left")
    right.set_title(f"{top} most helpful examples: share in common", loc="left")
    right.set_xlabel(f"random rankings would share {top / size:.2g}", loc="left", fontsize=8, color="#606060")
    means = f"mean over queries and {repeats} repeats" if repeats > 1 else "mean over queries"
    name = rows["experiment"].iloc[0]
    write_title(figure, f"{name}: agreement between methods at n = {size:,}, {means}; best LDS first")
    return figure


def _draw_matrix(axes: Axes, rows: pd.DataFrame, methods: list[str], name: str, colours: Any, scale: Normalize) -> None:
    """Draw a triangle: the other one would say the same again, and the diagonal is 1."""
    labels = {key: style["label"] for key, style in method_styles(methods).items()}
    place = {method: index for index, method in enumerate(methods)}
    values = np.full((len(methods), len(methods)), np.nan)
    for first, second, value in rows[["first", "second", name]].itertuples(index=False):
        high, low = sorted((place[first], place[second]))
        values[low, high] = value
    shown = values[1:, :-1]
    axes.imshow(shown, cmap=colours, norm=scale)
    for line, column in zip(*np.tril_indices(len(shown)), strict=True):
        value = shown[line, column]
        dark = np.dot(colours(scale(value))[:3], (0.299, 0.587, 0.114)) < 0.5 and np.isfinite(value)
        text = f"{round(value, 2) + 0:.2f}".replace("-", "−") if np.isfinite(value) else "—"  # + 0: no -0.00
        axes.text(column, line, text, ha="center", va="center", fontsize=8, color="white" if dark else "#202020")
    axes.set_yticks(range(len(shown)), [labels[method] for method in methods[1:]])
    axes.set_xticks(
        range(len(shown)), [labels[method] for method in methods[:-1]], rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
