"""Figures of the LDS: against size, by repeat, and how far each method is from the best one."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.style import DARK, Styles, add_legend, make_panels, method_styles, styled, write_title
from tdabench.drawing.table import count_repeats


@styled()
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
    figure, ((axes,),) = make_panels(6.4, 3.9)
    _draw_chance(axes, null, along_sizes=draw is _draw_sizes)
    draw(axes, shown, method_styles(table["method"]))
    write_title(figure, f"{table['experiment'].iloc[0]}: LDS, {band}")
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


def _draw_sizes(axes: Axes, shown: pd.DataFrame, styles: Styles) -> None:
    for method, style in styles.items():
        rows = shown[shown["method"] == method].sort_values("train_size")
        axes.plot(rows["train_size"], rows["lds"], **style)
        axes.fill_between(rows["train_size"], rows["low"], rows["high"], color=style["color"], alpha=0.15, linewidth=0)
    ceiling = shown.groupby("train_size")["ceiling"].mean().dropna()
    if len(ceiling):
        axes.plot(ceiling.index, ceiling, color=DARK, linestyle=":", label="ceiling")
    axes.axhline(0, color=DARK, linewidth=0.8)
    axes.set_ylabel("LDS")
    _size_axis(axes, sorted(shown["train_size"].unique().tolist()))


def _draw_one_size(axes: Axes, shown: pd.DataFrame, styles: Styles) -> None:
    _draw_rows(axes, shown, shown.sort_values("lds")["method"].tolist(), styles)
    ceiling = shown["ceiling"].mean()
    if pd.notna(ceiling):
        axes.axvline(ceiling, color=DARK, linestyle=":")
        axes.annotate("ceiling", (ceiling, 0), rotation=90, ha="right", va="bottom", fontsize=8)


def _draw_rows(axes: Axes, shown: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    """Draw the LDS at one size, a row a method, the first at the bottom."""
    for _, row in shown.iterrows():
        style = styles[row["method"]]
        reach = [[row["lds"] - row["low"]], [row["high"] - row["lds"]]]
        place = methods.index(row["method"])
        axes.errorbar(row["lds"], place, xerr=reach, color=style["color"], marker=style["marker"], capsize=3)
    axes.set_yticks(range(len(methods)), [styles[method]["label"] for method in methods])
    axes.axvline(0, color=DARK, linewidth=0.8)
    axes.set_xlabel(f"LDS at n = {shown['train_size'].iloc[0]:,}" if len(shown) else "LDS")


@styled()
def plot_lds_by_repeat(table: pd.DataFrame) -> Figure:
    """LDS against size, a panel a repeat, with the bootstrap's interval (the paper's Fig. 7).

    With one size, a row a method, by their mean over repeats.
    """
    rows = table[(table["repeat"] != "all") & table["lds"].notna()].astype({"lds": float})
    repeats = sorted(table.loc[table["repeat"] != "all", "repeat"].unique(), key=int)
    styles, along_sizes = method_styles(table["method"]), rows["train_size"].nunique() > 1
    methods = rows.groupby("method")["lds"].mean().sort_values().index.tolist()
    columns = min(len(repeats), 3)
    lines = -(-len(repeats) // columns)
    height = 2.9 if along_sizes else max(2.9, 0.9 + 0.22 * len(methods))
    figure, grid = make_panels(
        1.4 + 2.5 * columns, height * lines, across=columns, down=lines, sharex=True, sharey=True
    )
    panels = grid.flatten()
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
        add_legend(figure, panels[0])
    return figure


def _draw_lines(axes: Axes, part: pd.DataFrame, styles: Styles, sizes: list[int]) -> None:
    for method, style in styles.items():
        points = part[part["method"] == method].sort_values("train_size")
        if points.empty:
            continue
        error = [points["lds"] - points["low"], points["high"] - points["lds"]]
        axes.errorbar(points["train_size"], points["lds"], error, capsize=2, elinewidth=0.9, **style)
    _size_axis(axes, sizes)
    axes.axhline(0, color=DARK, linewidth=0.8)


def _size_axis(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("attribution set size n (examples)")


@styled()
def plot_pairs(pairs: pd.DataFrame, ranking: pd.DataFrame, order: pd.DataFrame) -> Figure:
    """Difference of each method's LDS to the best one's, a panel a size, best on top; letters are the groups.

    The thick line is the bootstrap for these repeats, the thin one with caps Student's t over repeats (with one
    repeat they are the same, and only the thick one is drawn).

    Args:
        order: The LDS table: it gives the methods their colours, as in the other figures.
    """
    repeated = count_repeats(pairs) > 1
    pairs, ranking = (table[table["repeat"] == "all"] for table in (pairs, ranking))
    ranking = ranking[ranking["lds"].notna()]
    sizes = sorted(ranking["train_size"].unique().tolist())
    styles = method_styles(order["method"])
    count = max((len(ranking[ranking["train_size"] == size]) for size in sizes), default=1)
    across = max(len(sizes), 1)
    figure, (panels,) = make_panels(1.2 + 3.6 * across, 1.1 + 0.34 * count, across=across, sharex=True)
    for axes, size in zip(panels, sizes, strict=False):
        ranked = ranking[ranking["train_size"] == size]
        _draw_pairs(axes, pairs[pairs["train_size"] == size], ranked, styles)
        axes.set_title(f"n = {size:,}", loc="left")
    lines = "thick: subsets and queries resampled, thin: Student's t over repeats" if repeated else "bootstrap interval"
    title = f"LDS less that of the best method; {lines}.\nMethods that share a letter are not told apart (Holm)."
    write_title(figure, title, 8)
    return figure


def _draw_pairs(axes: Axes, pairs: pd.DataFrame, ranked: pd.DataFrame, styles: Styles) -> None:
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
    axes.axvline(0, color=DARK, linewidth=0.8)
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
