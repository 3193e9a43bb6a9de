"""Figure of the queries from which a method that is fitted first is the cheaper one."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.report.figures import STYLE, method_styles


def plot_break_even(table: pd.DataFrame, crossings: pd.DataFrame) -> Figure:
    """Seconds in all against the number of queries, a panel a size, with the predicted crossings.

    Args:
        table: Measured costs, as ``make_scaling_table`` gives them.
        crossings: As ``break_evens`` gives them; with draws that were not made, the other
            method's cost is drawn dashed, as predicted.
    """
    crossings = crossings[crossings["quantity"] == "seconds"]
    sizes = crossings.sort_values("parameters")["size"].unique()
    styles = method_styles(table)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 3.4 * len(sizes), 3.4), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            _draw_size(axes, table[(table["size"] == size) & table["seconds"].notna()], styles)
            _draw_crossings(axes, table[table["size"] == size], crossings[crossings["size"] == size], styles)
            axes.set(xscale="log", yscale="log", xlabel="queries")
            counts = sorted(table.loc[table["size"] == size, "queries"].unique())
            axes.set_xticks(counts, [f"{count:,}" for count in counts])
            axes.set_xticks([], minor=True)
            axes.set_title(str(size), loc="left")
        panels[0].set_ylabel("wall-clock, fit and score (s)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
    return figure


def _draw_size(axes: Axes, rows: pd.DataFrame, styles: dict[str, dict[str, str]]) -> None:
    for method, style in styles.items():
        means = _seconds(rows[rows["method"] == method])
        if len(means):
            draws = rows.loc[rows["method"] == method, "draws"].iloc[0]
            label = style["label"] if pd.isna(draws) else f"{style['label']}, {draws:,.0f} draws"
            axes.plot(means.index, means, **{**style, "label": label})


def _draw_crossings(axes: Axes, rows: pd.DataFrame, crossings: pd.DataFrame, styles: dict[str, dict[str, str]]) -> None:
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
