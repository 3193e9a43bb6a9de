"""Figures: each a function of a tidy table. One colour a method, everywhere."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.tables import count_repeats
from tdabench.report.variants import find_base, shade

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.dpi": 160,
    "pdf.fonttype": 42,
    "svg.hashsalt": "tdabench",
}
# Okabe and Ito's colours, told apart by everyone; greys for the baselines.
COLOURS = {
    "bif": "#0072b2",
    "ekfac": "#d55e00",
    "kfac": "#e69f00",
    "diagonal": "#cc79a7",
    "gradsim": "#009e73",
    "trak": "#56b4e9",
    "random": "#b0b0b0",
    "query_independent": "#707070",
    "bif_laplace": "#332288",
}
LABELS = {
    "bif": "BIF",
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
    "diagonal": "diagonal Fisher",
    "gradsim": "GradSim",
    "trak": "TRAK",
    "bm25": "BM25",
    "random": "random",
    "query_independent": "query-independent",
    "bif_laplace": "BIF (Laplace)",
}
OTHERS = ("#000000", "#8c510a", "#5e3c99", "#b2182b", "#01665e", "#c51b7d")
MARKERS = "osD^vP*X<>"


def plot_lds(table: pd.DataFrame, null: pd.DataFrame | None = None) -> Figure:
    """LDS against the size of the attribution set, a line a method with its band (the paper's Fig. 4).

    The line is the mean over repeats and the band its standard error; with one repeat, the bootstrap's interval. With
    one size, a row a method.

    Args:
        null: The table of what chance reaches; its widest band at each size is drawn, the mean over repeats.
    """
    repeated = count_repeats(table) > 1
    shown = table[(table["repeat"] == "all") & table["lds"].notna()].astype({"lds": float})
    if repeated:
        shown = shown.assign(low=shown["lds"] - shown["standard_error"], high=shown["lds"] + shown["standard_error"])
    band = "mean ± standard error over repeats" if repeated else "with bootstrap interval over subsets and queries"
    draw = _draw_sizes if shown["train_size"].nunique() > 1 else _draw_one_size
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.9), layout="constrained")
        axes = figure.subplots()
        _draw_chance(axes, null, along_sizes=draw is _draw_sizes)
        draw(axes, shown, method_styles(table))
        axes.set_title(f"{table['experiment'].iloc[0]}: LDS, {band}", loc="left", fontsize=9)
        if draw is _draw_sizes:
            figure.legend(loc="outside right center")
    return figure


def _draw_chance(axes: Axes, null: pd.DataFrame | None, *, along_sizes: bool) -> None:
    """Shade where the LDS lies by chance: the permutation band of the method for which it is widest."""
    if null is None or null["null_low"].isna().all():
        return
    bands = null.groupby(["train_size", "method"])[["null_low", "null_high"]].mean().groupby("train_size")
    low, high = bands["null_low"].min(), bands["null_high"].max()
    look = {"color": "#b0b0b0", "alpha": 0.3, "linewidth": 0}
    if along_sizes:
        axes.fill_between(low.index, low, high, label="chance", **look)
    else:
        axes.axvspan(low.iloc[0], high.iloc[0], **look)
        axes.annotate("chance", (high.iloc[0], 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=8)


def _draw_sizes(axes: Axes, shown: pd.DataFrame, styles: dict[str, dict[str, str]]) -> None:
    for method, style in styles.items():
        rows = shown[shown["method"] == method].sort_values("train_size")
        axes.plot(rows["train_size"], rows["lds"], **style)
        axes.fill_between(rows["train_size"], rows["low"], rows["high"], color=style["color"], alpha=0.15, linewidth=0)
    ceiling = shown.groupby("train_size")["ceiling"].mean().dropna()
    if len(ceiling):
        axes.plot(ceiling.index, ceiling, color="#404040", linestyle=":", label="ceiling")
    axes.axhline(0, color="#404040", linewidth=0.8)
    axes.set_ylabel("LDS")
    _size_axis(axes, sorted(shown["train_size"].unique().tolist()))


def _draw_one_size(axes: Axes, shown: pd.DataFrame, styles: dict[str, dict[str, str]]) -> None:
    _draw_rows(axes, shown, shown.sort_values("lds")["method"].tolist(), styles)
    ceiling = shown["ceiling"].mean()
    if pd.notna(ceiling):
        axes.axvline(ceiling, color="#404040", linestyle=":")
        axes.annotate("ceiling", (ceiling, 0), rotation=90, ha="right", va="bottom", fontsize=8)


def _draw_rows(axes: Axes, shown: pd.DataFrame, methods: list[str], styles: dict[str, dict[str, str]]) -> None:
    """Draw the LDS at one size, a row a method, the first at the bottom."""
    for _, row in shown.iterrows():
        style = styles[row["method"]]
        reach = [[row["lds"] - row["low"]], [row["high"] - row["lds"]]]
        place = methods.index(row["method"])
        axes.errorbar(row["lds"], place, xerr=reach, color=style["color"], marker=style["marker"], capsize=3)
    axes.set_yticks(range(len(methods)), [styles[method]["label"] for method in methods])
    axes.axvline(0, color="#404040", linewidth=0.8)
    axes.set_xlabel(f"LDS at n = {shown['train_size'].iloc[0]:,}" if len(shown) else "LDS")


def plot_lds_by_repeat(table: pd.DataFrame) -> Figure:
    """LDS against size, a panel a repeat, with the bootstrap's interval (the paper's Fig. 7).

    With one size, a row a method, by their mean over repeats.
    """
    rows = table[(table["repeat"] != "all") & table["lds"].notna()].astype({"lds": float})
    repeats = sorted(table.loc[table["repeat"] != "all", "repeat"].unique(), key=int)
    styles, along_sizes = method_styles(table), rows["train_size"].nunique() > 1
    methods = rows.groupby("method")["lds"].mean().sort_values().index.tolist()
    columns = min(len(repeats), 3)
    lines = -(-len(repeats) // columns)
    height = 2.9 if along_sizes else max(2.9, 0.9 + 0.22 * len(methods))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 2.5 * columns, height * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, repeat in zip(panels, repeats, strict=False):
            part = rows[rows["repeat"] == repeat]
            if along_sizes:
                _draw_lines(axes, part, styles, sorted(rows["train_size"].unique().tolist()))
            else:
                _draw_rows(axes, part, methods, styles)
            axes.set_title(f"repeat {repeat}", loc="left")
        for axes in panels[len(repeats) :]:
            axes.set_visible(False)
        if along_sizes:
            panels[0].set_ylabel("LDS")
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center")
    return figure


def _draw_lines(axes: Axes, part: pd.DataFrame, styles: dict[str, dict[str, str]], sizes: list[int]) -> None:
    for method, style in styles.items():
        points = part[part["method"] == method].sort_values("train_size")
        if points.empty:
            continue
        error = [points["lds"] - points["low"], points["high"] - points["lds"]]
        axes.errorbar(points["train_size"], points["lds"], error, capsize=2, elinewidth=0.9, **style)
    _size_axis(axes, sizes)
    axes.axhline(0, color="#404040", linewidth=0.8)


def plot_cost(table: pd.DataFrame, methods: list[str]) -> Figure:
    """Seconds of each method by phase, a panel a size, mean over repeats (the paper's Fig. 6)."""
    rows = table[table["method"].isin(methods) & table["seconds"].notna()]
    sizes = sorted(rows["train_size"].unique())
    styles = method_styles(table[table["method"].isin(methods)])
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 2.6 * len(sizes), 0.8 + 0.32 * len(methods)), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            means = rows[rows["train_size"] == size].groupby(["method", "phase"])["seconds"].mean().unstack()
            means = means.reindex(methods[::-1]).reindex(columns=["fit", "score"]).fillna(0)
            colours = [styles[method]["color"] for method in means.index]
            names = [styles[method]["label"] for method in means.index]
            axes.barh(names, means["fit"], color=colours, alpha=0.45, hatch="///", edgecolor="white", linewidth=0)
            axes.barh(names, means["score"], left=means["fit"], color=colours)
            total = means.sum(axis=1)
            for place, seconds in enumerate(total):
                text = f" {seconds:.3g} s" if seconds else " not run"
                axes.text(seconds, place, text, va="center", fontsize=7.5)
            axes.set_xlim(0, max(total.max() * 1.3, 1e-3))
            axes.set_xlabel("wall-clock (s)")
            axes.set_title(f"n = {size}", loc="left")
            axes.grid(visible=False, axis="y")
        figure.suptitle("hatched: fit; solid: score; mean over repeats", fontsize=8, x=0.01, ha="left")
    return figure


def method_styles(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Assign every method its colour, label and marker.

    Variants of a built-in method, such as ``trak_3x128``, have shades of its colour, in their order; a plug-in's colour
    follows from its place among the plug-ins.
    """
    methods = list(dict.fromkeys(table["method"]))
    bases = {method: find_base(method, COLOURS) for method in methods}
    others = [method for method in methods if bases[method] is None]
    order = [*COLOURS, *others]
    styles = {}
    for method in methods:
        base = bases[method] or method
        variants = [one for one in methods if bases[one] == base and one != base]
        colour = COLOURS.get(base) or OTHERS[others.index(method) % len(OTHERS)]
        if method in variants:
            colour = shade(colour, variants.index(method), len(variants))
        rest = method.removeprefix(base).replace("_", " ")
        marker = MARKERS[order.index(base) % len(MARKERS)]
        styles[method] = {"color": colour, "label": f"{LABELS.get(base, base)}{rest}", "marker": marker}
    return styles


def _size_axis(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("attribution set size n (examples)")
