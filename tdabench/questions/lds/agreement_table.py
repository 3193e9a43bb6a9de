"""How much methods agree: table and figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tdabench.report.figures import STYLE, method_styles

AGREEMENT_COLUMNS = (
    "experiment", "repeat", "train_size", "first", "second", "rank_correlation", "rank_low", "rank_high", "overlap",
    "overlap_low", "overlap_high", "top", "queries", "harmful_overlap", "harmful_low", "harmful_high", "nan_queries",
)  # fmt: skip
# Each mean, and the prefix of its bounds.
MEASURES = {"rank_correlation": "rank", "overlap": "overlap", "harmful_overlap": "harmful"}


def make_agreement_table(rows: Iterable[Mapping[str, Any]], over_repeats: Callable[..., Any]) -> pd.DataFrame:
    """Make the agreement table: one row a repeat, size and pair of methods, then a row ``all`` over the repeats.

    In rows of one repeat, bounds are the bootstrap's over queries; in rows ``all`` Student's t over repeats (with a
    single repeat: that repeat's own). A measure that no query has is empty.

    Args:
        over_repeats: ``means of the repeats -> interval`` with ``mean``, ``low`` and ``high``.
    """
    table = pd.DataFrame(list(rows), columns=list(AGREEMENT_COLUMNS)).astype({"repeat": str})
    summary = []
    for _, same in table.groupby(["train_size", "first", "second"], sort=False):
        row = {**same.iloc[0].to_dict(), "repeat": "all"}
        if len(same) > 1:
            row |= {"queries": same["queries"].sum(), "nan_queries": same["nan_queries"].sum()}
            for name, short in MEASURES.items():
                found = same[name].dropna().astype(float).tolist()
                if found:
                    interval = over_repeats(found)
                    row |= {name: interval.mean, f"{short}_low": interval.low, f"{short}_high": interval.high}
        summary.append(row)
    total = pd.DataFrame(summary, columns=list(AGREEMENT_COLUMNS))
    return pd.concat([table.astype(object), total.astype(object)], ignore_index=True).infer_objects()


def plot_agreement(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Rank correlation and overlap of every two methods at the largest size, as matrices (means over repeats).

    Args:
        order: Methods, best first; those without scores may be among them.
    """
    rows = table[table["repeat"] == "all"]
    rows = rows[rows["train_size"] == rows["train_size"].max()]
    known = set(rows["first"]) | set(rows["second"])
    methods = [method for method in order if method in known]
    with rc_context({**STYLE, "axes.grid": False}):
        if not methods:
            figure = Figure(figsize=(4, 1))
            figure.text(0.5, 0.5, "fewer than two methods have scores", ha="center", va="center")
            return figure
        side = 0.9 + 0.52 * len(methods)
        figure = Figure(figsize=(2 * side + 0.9, side + 0.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        size, top = rows["train_size"].iloc[0], rows["top"].iloc[0]
        _draw_matrix(left, rows, methods, "rank_correlation", colormaps["RdBu"], Normalize(-1, 1))
        _draw_matrix(right, rows, methods, "overlap", colormaps["Blues"], Normalize(0, 1))
        left.set_title("rank correlation over train examples", loc="left")
        right.set_title(f"{top} most helpful examples: share in common", loc="left")
        right.set_xlabel(f"random rankings would share {top / size:.2g}", loc="left", fontsize=8, color="#606060")
        repeats = table.loc[table["repeat"] != "all", "repeat"].nunique()
        means = f"mean over queries and {repeats} repeats" if repeats > 1 else "mean over queries"
        figure.suptitle(
            f"{rows['experiment'].iloc[0]}: agreement between methods at n = {size:,}, {means}; best LDS first",
            fontsize=9, x=0.01, ha="left",
        )  # fmt: skip
    return figure


def _draw_matrix(axes: Axes, rows: pd.DataFrame, methods: list[str], name: str, colours: Any, scale: Normalize) -> None:
    """Draw a triangle: the other one would say the same again, and the diagonal is 1."""
    labels = {key: style["label"] for key, style in method_styles(pd.DataFrame({"method": methods})).items()}
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
