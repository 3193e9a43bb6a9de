"""The figure of paired differences: how far each method is from the best one, and who is told apart."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.report.figures import STYLE, method_styles

Style = Mapping[str, str]


def plot_pairs(pairs: pd.DataFrame, ranking: pd.DataFrame, order: pd.DataFrame) -> Figure:
    """Difference of each method's LDS to the best one's, a panel a size, best on top; letters are the groups.

    The thick line is the bootstrap for these repeats, the thin one with caps Student's t over repeats (with one
    repeat they are the same, and only the thick one is drawn).

    Args:
        order: The LDS table: it gives the methods their colours, as in the other figures.
    """
    pairs, ranking = (table[table["repeat"] == "all"] for table in (pairs, ranking))
    ranking = ranking[ranking["lds"].notna()]
    sizes = sorted(ranking["train_size"].unique().tolist())
    styles = method_styles(order)
    count = max((len(ranking[ranking["train_size"] == size]) for size in sizes), default=1)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.6 * max(len(sizes), 1), 1.1 + 0.34 * count), layout="constrained")
        panels = figure.subplots(1, max(len(sizes), 1), sharex=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=False):
            ranked = ranking[ranking["train_size"] == size]
            _draw_panel(axes, pairs[pairs["train_size"] == size], ranked, styles)
            axes.set_title(f"n = {size:,}", loc="left")
        figure.suptitle(
            "LDS less that of the best method; thick: subsets and queries resampled, thin: Student's t over repeats.\n"
            "Methods that share a letter are not told apart (Holm).",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    return figure


def _draw_panel(axes: Axes, pairs: pd.DataFrame, ranked: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    methods = ranked["method"].tolist()
    places = range(len(methods) - 1, -1, -1)
    for place, method in zip(places, methods, strict=True):
        style = styles[method]
        look = {"color": style["color"], "marker": style["marker"]}
        if method == methods[0]:
            axes.plot(0, place, **look)
            continue
        row = _less_best(pairs, method, methods[0])
        axes.plot([row["bootstrap_low"], row["bootstrap_high"]], [place] * 2, color=style["color"], linewidth=4,
                  alpha=0.45, solid_capstyle="butt")  # fmt: skip
        if (row["low"], row["high"]) != (row["bootstrap_low"], row["bootstrap_high"]):
            axes.plot([row["low"], row["high"]], [place] * 2, color=style["color"], linewidth=1, marker="|")
        axes.plot(row["difference"], place, **look)
    for place, group in zip(places, ranked["group"], strict=True):
        axes.annotate(group, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(list(places), [styles[method]["label"] for method in methods])
    axes.axvline(0, color="#404040", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("difference of LDS")


def _less_best(pairs: pd.DataFrame, method: str, best: str) -> dict[str, float]:
    """Return the difference to the best method, turned round where the table has it the other way."""
    ends = (("low", "high"), ("bootstrap_low", "bootstrap_high"))
    found = pairs[(pairs["first"] == method) & (pairs["second"] == best)]
    if len(found):
        return found.iloc[0].to_dict()
    row = pairs[(pairs["first"] == best) & (pairs["second"] == method)].iloc[0]
    turned = {"difference": -row["difference"]}
    for low, high in ends:
        turned |= {low: -row[high], high: -row[low]}
    return turned
