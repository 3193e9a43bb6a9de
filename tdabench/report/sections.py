"""Sections of the page: which tables and figures stand together, under which heading, and how they are read."""

import base64
import dataclasses
import struct
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from tdabench.drawing.html import Styles, Table, at, make_table, over_repeats
from tdabench.questions.lds.page_tables import cost_table, ground_truth_table, rank_table
from tdabench.report.crossed import detection_table, null_table, properties_table, removal_table, variance_table
from tdabench.report.summary import sizes_of
from tdabench.report.texts import COST, FIGURES, FRONTIER, TEXTS, describe, describe_ranking

Tables = Mapping[str, pd.DataFrame]

# What stands in another section; what answers the experiment's question stands before its cost.
RANKING_TABLES = ("lds", "ranking")
RANKING_FIGURES = ("lds", "lds_by_repeat")
COST_FIGURES = ("frontier", "cost")
ALONGSIDE = {
    "removal": ("removal_differences", "Paired differences"),
    "extrapolation": ("growth", "Growth with the draws"),
    "scaling": ("scaling_fits", "Fitted exponents"),
}
FIRST = ("pairs", "removal", "detection")
# Figures of a section with several, or of another name; and columns that repeat others.
SEVERAL = {"sweep": ("sweep_lds", "sweep_traces")}
LEFT_OUT = {"sweep": ["point"]}
# Tables that are easier to read with a column for each of what a method was asked, by size.
CROSSED: Mapping[str, Callable[[pd.DataFrame, Styles, str], Table]] = {
    "removal": removal_table,
    "detection": detection_table,
    "null": null_table,
    "variance": variance_table,
}
SHORT = 12  # rows of a table that is not folded by size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure inside the page, as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A table under a heading of its own; it can be folded away."""

    title: str
    table: Table
    is_open: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading, a sentence on how to read it, figures and tables."""

    name: str
    heading: str
    how_to_read: str
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()
    figure_first: bool = False

    @property
    def short(self) -> str:
        """The name in one or two words, for the list of sections."""
        return self.name.replace("_", " ").capitalize()


def make_sections(tables: Tables, figures: Mapping[str, bytes], styles: Styles, confidence: float) -> list[Section]:
    """Make a section of everything there is: known tables in their order, then what is not known."""
    placed = {*COST_FIGURES, *RANKING_TABLES, *RANKING_FIGURES, *TEXTS, *(name for name, _ in ALONGSIDE.values())}
    placed |= {figure for several in SEVERAL.values() for figure in several}
    order = [*FIRST, "cost", *(name for name in TEXTS if name not in FIRST)]
    order += sorted((tables.keys() | figures.keys()) - placed)
    sections = [_ranking(tables, figures, styles, confidence)] if "lds" in tables else []
    for name in order:
        if name == "cost" and name in tables:
            sections.append(_cost(tables, figures, styles))
        elif name in tables or name in figures:
            sections.append(_section(name, tables, figures, styles, confidence))
    return sections


def make_picture(content: bytes, name: str, heading: str) -> Picture:
    """Make a picture of a PNG file.

    Raises:
        ValueError: If it is no PNG file.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise ValueError(f"The figure {name}.png is damaged: delete it and run the workflow again.")
    width, height = struct.unpack(">II", content[16:24])
    description = FIGURES.get(name, f"Figure: {heading}")
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Picture(source=source, width=width, height=height, description=description)


def _ranking(tables: Tables, figures: Mapping[str, bytes], styles: Styles, confidence: float) -> Section:
    parts = [
        Part(title=f"n = {size:,}", table=rank_table(tables, styles, confidence, size), is_open=place == 0)
        for place, size in enumerate(sizes_of(tables["lds"]))
    ]
    return Section(
        name="ranking",
        heading="Ranking",
        how_to_read=describe_ranking(tables["lds"], confidence, has_groups="ranking" in tables),
        pictures=tuple(make_picture(figures[name], name, "Ranking") for name in RANKING_FIGURES if name in figures),
        parts=tuple(parts),
    )


def _cost(tables: Tables, figures: Mapping[str, bytes], styles: Styles) -> Section:
    cost, lds = tables["cost"], tables.get("lds")
    heading = "Cost" if lds is None else "Cost beside quality"
    parts = [
        Part(title=f"n = {size:,}", table=cost_table(cost, lds, styles, size), is_open=place == 0)
        for place, size in enumerate(sizes_of(cost))
    ]
    ground_truth = ground_truth_table(cost)
    if ground_truth is not None:
        parts.append(Part(title="The ground truth", table=ground_truth))
    pictures = tuple(make_picture(figures[name], name, heading) for name in COST_FIGURES if name in figures)
    how_to_read = f"{FRONTIER} {COST}" if "frontier" in figures else COST
    return Section(name="cost", heading=heading, how_to_read=how_to_read, pictures=pictures, parts=tuple(parts))


def _section(name: str, tables: Tables, figures: Mapping[str, bytes], styles: Styles, confidence: float) -> Section:
    """Make a section of a table and its figure; where there is a figure, long tables are folded away."""
    table = tables.get(name)
    heading, how_to_read = describe(name, table, confidence)
    pictures = tuple(
        make_picture(figures[figure], figure, heading) for figure in SEVERAL.get(name, (name,)) if figure in figures
    )
    parts = [] if table is None else list(_parts(name, table, styles, heading, has_figure=bool(pictures)))
    other, title = ALONGSIDE.get(name, ("", ""))
    if other in tables:
        parts += _plain_parts(tables[other], styles, f"{heading}: {title.lower()}", title=title, is_open=False)
    return Section(
        name=name,
        heading=heading,
        how_to_read=how_to_read,
        pictures=pictures,
        parts=tuple(parts),
        figure_first=name not in CROSSED,
    )


def _parts(name: str, table: pd.DataFrame, styles: Styles, heading: str, *, has_figure: bool) -> Iterator[Part]:
    if name == "properties" and len(table):
        yield Part(title="Properties", table=properties_table(table, styles, heading))
        measured = table[["property", "method", "holds", "measured"]]
        caption = f"{heading}: what was measured"
        yield Part(title="What was measured", table=make_table(measured, styles, caption), is_open=False)
    elif name in CROSSED and len(table):
        for place, size in enumerate(sizes_of(table)):
            crossed = CROSSED[name](at(table, train_size=size), styles, f"{heading} at n = {size:,}")
            yield Part(title=f"n = {size:,}", table=crossed, is_open=place == 0 and name != "null")
    else:
        is_short = len(over_repeats(table)) <= SHORT
        shown = table.drop(columns=LEFT_OUT.get(name, []), errors="ignore")
        yield from _plain_parts(shown, styles, heading, is_open=is_short or not has_figure)


def _plain_parts(
    table: pd.DataFrame, styles: Styles, heading: str, *, title: str = "Table", is_open: bool
) -> Iterator[Part]:
    """Fold a long table by size, the largest first; a short one is one part."""
    shown = over_repeats(table)
    sizes = sizes_of(shown) if "train_size" in shown.columns else []
    if len(shown) <= SHORT or len(sizes) < 2:
        count = f"{len(shown):,} {'row' if len(shown) == 1 else 'rows'}"
        yield Part(title=f"{title} ({count})", table=make_table(table, styles, heading), is_open=is_open)
        return
    for place, size in enumerate(sizes):
        rows = shown[shown["train_size"] == size].drop(columns="train_size")
        part = make_table(rows, styles, f"{heading} at n = {size:,}")
        name = f"n = {size:,}" if title == "Table" else f"{title}, n = {size:,}"
        yield Part(title=name, table=part, is_open=is_open and place == 0)
