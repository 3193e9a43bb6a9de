"""Figures of a sweep: heat maps of the LDS, and loss traces in the same arrangement (the paper's Figs. 9 to 13)."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from tdabench.drawing.columns import find_column
from tdabench.drawing.style import DARK, make_panels, styled, write_title

MAP = "cividis"  # even in lightness, and the same for colour-blind readers
MISSING = {"facecolor": "#f0f0f0", "edgecolor": "#b8b8b8", "hatch": "////", "linewidth": 0}
BEST = "#d55e00"
CUT = 1000.0  # nats: far above any classifier that has not left its neighbourhood


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each point of a grid stands.

    Attributes:
        panels: Settings of each panel: the sizes, if there are several, and every setting but the last two.
        rows: Name and values of the setting that goes upwards; no name for a grid of one setting.
        columns: Those of the setting that goes across.
        across: Panels side by side.
    """

    panels: tuple[dict[str, Any], ...]
    rows: tuple[str, tuple[Any, ...]]
    columns: tuple[str, tuple[Any, ...]]
    across: int

    @property
    def down(self) -> int:
        """Rows of panels."""
        return -(-len(self.panels) // self.across)

    def cell(self, table: pd.DataFrame, panel: dict[str, Any], row: Any, column: Any) -> pd.Series:
        """Find the row of a table at a place."""
        where = {**panel, self.columns[0]: column} | ({self.rows[0]: row} if self.rows[0] else {})
        for name, value in where.items():
            table = table[table[name].isna() if value is None else table[name] == value]
        return table.iloc[0]

    def title(self, panel: dict[str, Any]) -> str:
        """Say in words what a panel has."""
        return ", ".join(
            f"n = {value:,}" if name == "train_size" else f"{_words(name)} {_write(value)}"
            for name, value in panel.items()
        )


def lay_out(table: pd.DataFrame, keys: Sequence[str]) -> Layout:
    """Arrange a grid: the last setting across, the one before it upwards, panels for all others."""
    values = {key: tuple(table[key].astype(object).where(table[key].notna(), None).unique()) for key in keys}
    sizes = tuple(table["train_size"].unique().tolist())
    outer = ({"train_size": sizes} if len(sizes) > 1 else {}) | {key: values[key] for key in keys[:-2]}
    panels = tuple(dict(zip(outer, combination, strict=True)) for combination in itertools.product(*outer.values()))
    rows = (keys[-2], values[keys[-2]]) if len(keys) > 1 else ("", (None,))
    across = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
    return Layout(panels=panels, rows=rows, columns=(keys[-1], values[keys[-1]]), across=across)


@styled(**{"axes.grid": False})
def plot_sweep_lds(table: pd.DataFrame, keys: Sequence[str]) -> Figure:
    """Heat maps of the LDS on the tuning queries, mean over repeats, one colour scale; the best point is framed."""
    shown = table[table["repeat"] == "all"]
    layout = lay_out(shown, keys)
    known = shown["tuning_lds"].astype(float).dropna()
    scale = Normalize(min(known.min(), 0), max(known.max(), 0.01)) if len(known) else Normalize(0, 1)
    wide, high = 0.95 * len(layout.columns[1]) + 0.7, 0.5 * len(layout.rows[1]) + 0.75
    size = (max(layout.across * wide + 1, 5.5), layout.down * high + 0.6)
    figure, grid = make_panels(*size, across=layout.across, down=layout.down)
    panels = grid.flatten()
    for place, axes in enumerate(panels):
        if place >= len(layout.panels):
            axes.set_visible(False)
            continue
        _draw_map(axes, shown, layout, layout.panels[place], scale)
        _label(axes, layout, left=place % layout.across == 0, bottom=place + layout.across >= len(layout.panels))
    colours = ScalarMappable(norm=scale, cmap=colormaps[MAP])
    bar = figure.colorbar(colours, ax=panels.tolist(), fraction=0.03, pad=0.02)
    bar.set_label("tuning LDS")
    write_title(figure, f"{shown['experiment'].iloc[0]}: tuning LDS. Framed: best; dot: not told apart from it.", 8)
    return figure


@styled(**{"font.size": 7.5, "lines.linewidth": 1.0})
def plot_sweep_traces(table: pd.DataFrame, traces: pd.DataFrame, keys: Sequence[str]) -> Figure:
    """Mean training loss over the draws of every chain, a small panel a point; dashed: the checkpoint's loss.

    One scale of losses for all: it holds every chain that stayed finite, and cuts those that diverged, marked ``x``.
    """
    shown = table[table["repeat"] == "all"]
    layout = lay_out(shown, keys)
    limits = _loss_limits(shown, traces)
    wide, high = 1.05 * len(layout.columns[1]) + 0.75, 0.8 * len(layout.rows[1]) + 0.75
    figure = Figure(figsize=(max(layout.across * wide, 5.5), layout.down * high + 0.5), layout="constrained")
    title = (
        f"{shown['experiment'].iloc[0]}: mean training loss (upwards, nats) over the draws (across) of each chain; "
        "dashed: the checkpoint's.\nNumbers: change from it at the last draw. Diverged chains are cut at x."
    )
    write_title(figure, title, 8)
    parts = figure.subfigures(layout.down, layout.across, squeeze=False).flatten()
    for place, panel in enumerate(layout.panels):
        _draw_small_multiples(parts[place], shown, traces, layout, panel, limits)
    return figure


def _draw_map(axes: Axes, shown: pd.DataFrame, layout: Layout, panel: dict[str, Any], scale: Normalize) -> None:
    colours = colormaps[MAP]
    for (up, row), (right, column) in itertools.product(enumerate(layout.rows[1]), enumerate(layout.columns[1])):
        cell = layout.cell(shown, panel, row, column)
        corner, middle = (right - 0.5, up - 0.5), (right, up)
        if pd.isna(cell["tuning_lds"]):
            axes.add_patch(Rectangle(corner, 1, 1, **MISSING))
            axes.annotate(_reason(cell), middle, ha="center", va="center", fontsize=7.5,
                          bbox={"facecolor": "#f0f0f0", "edgecolor": "none", "pad": 1})  # fmt: skip
            continue
        face = colours(scale(cell["tuning_lds"]))
        dark = np.dot(face[:3], (0.299, 0.587, 0.114)) < 0.5
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="white", linewidth=1))
        text = f"{cell['tuning_lds']:.3f}".replace("-", "\N{MINUS SIGN}")
        is_best = cell["choice"] == "best"
        mark = " •" if cell["choice"] == "not told apart" else ""
        look = {"color": "white" if dark else "black", "weight": "bold" if is_best else "normal"}
        axes.annotate(text + mark, middle, ha="center", va="center", fontsize=8, **look)
        if is_best:
            frame = {"fill": False, "edgecolor": BEST, "linewidth": 2.5, "zorder": 3, "gid": "best"}
            axes.add_patch(Rectangle((right - 0.46, up - 0.46), 0.92, 0.92, **frame))
    axes.set_xlim(-0.5, len(layout.columns[1]) - 0.5)
    axes.set_ylim(-0.5, len(layout.rows[1]) - 0.5)
    axes.set_title(layout.title(panel), loc="left", fontsize=8.5)


def _draw_small_multiples(
    part: SubFigure,
    shown: pd.DataFrame,
    traces: pd.DataFrame,
    layout: Layout,
    panel: dict[str, Any],
    limits: tuple[float, float],
) -> None:
    part.suptitle(layout.title(panel), fontsize=8.5)
    grid = part.subplots(len(layout.rows[1]), len(layout.columns[1]), sharex=True, sharey=True, squeeze=False)
    for (up, row), (right, column) in itertools.product(enumerate(layout.rows[1]), enumerate(layout.columns[1])):
        axes = grid[len(layout.rows[1]) - 1 - up, right]
        cell = layout.cell(shown, panel, row, column)
        same = (traces["point"] == cell["point"]) & (traces["train_size"] == cell["train_size"])
        _draw_traces(axes, cell, traces[same], limits)
        if up == 0:
            axes.set_xlabel(_write(column), fontsize=8.5)
        if right == 0 and layout.rows[0]:
            axes.set_ylabel(_write(row), fontsize=8.5)
    part.supxlabel(_words(layout.columns[0]), fontsize=8.5)
    part.supylabel(_words(layout.rows[0]), fontsize=8.5)


def _draw_traces(axes: Axes, cell: pd.Series, traces: pd.DataFrame, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    if 0 < 20 * limits[0] < limits[1]:
        axes.set_yscale("log")
    if pd.isna(cell["tuning_lds"]):
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=0, **MISSING))
    for place, (_, chain) in enumerate(traces.groupby(["repeat", "chain"], sort=False)):
        colour = ("#0072b2", "#56b4e9", "#332288", "#009e73")[place % 4]
        inside = chain["loss"] <= limits[1]
        cut = len(chain) if inside.all() else int((~inside).to_numpy().argmax())
        axes.plot(
            chain["draw"][: cut + 1], chain["loss"][: cut + 1].fillna(limits[1]).clip(upper=limits[1]), color=colour
        )
        if cut < len(chain):
            axes.plot(chain["draw"].iloc[cut], limits[1], color=colour, marker="x", clip_on=False)
        axes.axhline(chain["loss"].iloc[0], color=DARK, linestyle="--", linewidth=0.8)
    change = cell["loss_change"]
    text = f"{change:+.3f}".replace("-", "\N{MINUS SIGN}") if pd.notna(change) else _reason(cell)
    axes.annotate(text, (0.96, 0.94), xycoords="axes fraction", ha="right", va="top", fontsize=7.5)


def _loss_limits(shown: pd.DataFrame, traces: pd.DataFrame) -> tuple[float, float]:
    """Return a range that holds the checkpoint and every chain that stayed finite, of the points that have an LDS."""
    highest = traces.groupby(["repeat", "train_size", "point", "chain"])["loss"].transform(
        lambda x: x.max(skipna=False)
    )
    without = shown[shown["tuning_lds"].isna()]["point"]
    whole = traces[(highest < CUT) & ~traces["point"].isin(without)]
    checkpoint = traces[traces["draw"] == 0]["loss"]
    values = pd.concat([whole["loss"], checkpoint]).dropna()
    if values.empty:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return low / 1.15, max(high, 1.2 * low) * 1.15


def _label(axes: Axes, layout: Layout, *, left: bool, bottom: bool) -> None:
    across, upwards = layout.columns, layout.rows
    axes.set_xticks(range(len(across[1])), [_write(value) for value in across[1]])
    axes.set_yticks(range(len(upwards[1])), [_write(value) for value in upwards[1]] if upwards[0] else [""])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if bottom:
        axes.set_xlabel(_words(across[0]))
    if left and upwards[0]:
        axes.set_ylabel(_words(upwards[0]))


def _reason(cell: pd.Series) -> str:
    """Say in a word why a point has no LDS."""
    word = cell["status"].split(":")[0].split(";")[0]
    return word if word in ("diverged", "unsupported", "failed") else "no LDS"


def _words(name: str) -> str:
    return find_column(name).words.lower()


def _write(value: Any) -> str:
    if value is None or isinstance(value, bool | np.bool_):
        return {None: "null", True: "true", False: "false"}[value if value is None else bool(value)]
    if not isinstance(value, int | float | np.number):
        return str(value)
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")
