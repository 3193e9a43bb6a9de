"""What a question shows on the page, as it declares it: its tables, its sections, its first sentences."""

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tdabench.drawing.columns import Column
from tdabench.drawing.html import HtmlTable, make_table, styles_of
from tdabench.drawing.style import Styles, label_of
from tdabench.drawing.table import Table, at, count_repeats, over_all, sizes_of

SHORT = 12  # rows of a table that is not folded by size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that lies in an experiment's folder: tables and PNG figures by the name of their file.

    Attributes:
        confidence: Of the intervals in the tables.
        methods: By key, the methods' lines in the experiment file, as recorded.
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, bytes]
    confidence: float
    methods: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def styles(self) -> Styles:
        """Each method's colour and label, as in the figures."""
        return styles_of(*self.tables.values())

    def label(self, method: str) -> str:
        """Return what people call a method."""
        return label_of(method, self.styles)

    def at(self, name: str, **where: Any) -> pd.DataFrame:
        """Return a table's rows over repeats with these values; none if it isn't there."""
        return at(self.tables.get(name), **where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topic:
    """A section of the page. Its words are in ``page.yaml`` beside the question's code.

    Attributes:
        name: Of the section; also of its table, unless ``table`` says another.
        order: Where on the page it stands.
        how_to_read: Sentences; one that has a key is said where there is a table or a figure of that name.
        figures: By name, what each shows.
        also: By name, titles of tables that are folded away below.
        left_out: Columns that repeat others.
    """

    name: str
    order: int
    heading: str
    how_to_read: Sequence[str | Mapping[str, str]]
    table: str = ""
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Sequence[str] = ()
    figure_first: bool = True

    def content(self, results: Results) -> pd.DataFrame | None:
        """Return its table, if there is one."""
        return results.tables.get(self.table or self.name)

    def read(self, results: Results) -> str:
        """Say how the section is read, with the intervals that its table has."""
        table = self.content(results)
        repeats = 0 if table is None else count_repeats(table)
        there = results.tables.keys() | results.figures.keys()
        parts = [{"": part} if isinstance(part, str) else part for part in self.how_to_read]
        text = " ".join(words.strip() for part in parts for name, words in part.items() if not name or name in there)
        percent = f"{results.confidence:.0%}"
        short, kind = "bootstrap", "bootstrap interval over subsets and queries"
        if repeats > 1:
            short, kind = f"Student's t over {repeats} repeats", f"Student's t interval over {repeats} repeats"
        level = f"{1 - results.confidence:.3g}"
        return text.format(interval=f"{percent}, {short}", kind=kind, level=level, confidence=percent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A table under a heading of its own; it can be folded away."""

    title: str
    table: HtmlTable
    is_open: bool = True


MakeParts = Callable[[Results, Topic, Mapping[str, Column]], Iterator[Part]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a question shows.

    Attributes:
        package: Where its ``page.yaml`` is, which declares its sections.
        tables: What it declares of their columns.
        lead: The sentences with which the page begins.
        parts: By section, how its tables are made where that is not as of any table.
        links: Other pages, by what they are called, of an experiment.
        write: ``(experiment, its folder, the table of costs) -> text for a terminal``, if the report makes its tables
            and figures; else a stage of its own does.
    """

    package: str = ""
    tables: tuple[Table, ...] = ()
    lead: Callable[[Results], list[str]] = lambda results: []
    parts: Mapping[str, MakeParts] = dataclasses.field(default_factory=dict)
    links: Callable[[Any], Mapping[str, str]] = lambda experiment: {}
    write: Callable[[Any, Path, pd.DataFrame], str] | None = None

    @functools.cached_property
    def topics(self) -> tuple[Topic, ...]:
        """Its sections, as ``page.yaml`` declares them."""
        if not self.package:
            return ()
        text = importlib.resources.files(self.package).joinpath("page.yaml").read_text(encoding="utf-8")
        return tuple(Topic(name=name, **content) for name, content in yaml.safe_load(text).items())


def by_size(make: Callable[[Results, int, str], HtmlTable], *, folded: bool = False) -> MakeParts:
    """Return a maker of a table a size, the largest first and open.

    Args:
        make: ``(results, size, caption) -> table``.
        folded: Whether the first is closed too.
    """

    def parts(results: Results, topic: Topic, columns: Mapping[str, Column]) -> Iterator[Part]:
        table = topic.content(results)
        if table is None or table.empty:
            yield from plain_parts(results, topic, columns)
            return
        for place, size in enumerate(sizes_of(table)):
            content = make(results, size, f"{topic.heading} at n = {size:,}")
            yield Part(title=f"n = {size:,}", table=content, is_open=place == 0 and not folded)

    return parts


def plain_parts(results: Results, topic: Topic, columns: Mapping[str, Column]) -> Iterator[Part]:
    """Show a table as it is; where there is a figure, a long one is folded away."""
    table = topic.content(results)
    if table is not None:
        is_open = len(over_all(table)) <= SHORT or not set(topic.figures or [topic.name]) & results.figures.keys()
        shown = table.drop(columns=list(topic.left_out), errors="ignore")
        yield from fold(shown, results.styles, topic.heading, columns, is_open=is_open)


def fold(
    table: pd.DataFrame, styles: Styles, heading: str, columns: Mapping[str, Column], *, title: str = "Table",
    is_open: bool,
) -> Iterator[Part]:  # fmt: skip
    """Fold a long table by size, the largest first; a short one is one part."""
    shown = over_all(table)
    sizes = sizes_of(shown) if "train_size" in shown.columns else []
    if len(shown) <= SHORT or len(sizes) < 2:
        count = f"{len(shown):,} {'row' if len(shown) == 1 else 'rows'}"
        yield Part(title=f"{title} ({count})", table=make_table(table, styles, heading, columns), is_open=is_open)
        return
    for place, size in enumerate(sizes):
        rows = shown[shown["train_size"] == size].drop(columns="train_size")
        part = make_table(rows, styles, f"{heading} at n = {size:,}", columns)
        name = f"n = {size:,}" if title == "Table" else f"{title}, n = {size:,}"
        yield Part(title=name, table=part, is_open=is_open and place == 0)
