"""The page's tables: numbers as people read them, beside the value by which a column is sorted."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tdabench.drawing.columns import COMMON, MISSING, Column, format_number
from tdabench.drawing.style import COLOURS, Styles, label_of, method_styles
from tdabench.drawing.table import over_all

MOST_ROWS = 200
LONG_TEXT = 28  # characters
# Columns that hold the key of a method.
METHOD_COLUMNS = ("method", "first", "second", "other")
# What is retrained stands in the cost table beside the methods.
GROUND_TRUTH = {
    "bank": "Bank of retrained models",
    "checkpoints": "Checkpoints",
    "removal": "Models without the removed examples",
}
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strip:
    """An interval drawn on a scale, every place in percent of its length; the numbers stand beside it."""

    low: float
    value: float
    high: float
    zero: float
    ceiling: float | None
    colour: str
    chance: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of a table.

    Attributes:
        order: By what its column is sorted: a number, or nothing for what is missing, which goes last.
        colour: Of the swatch before the text: the method's.
        spoken: What a sign means, for those who hear the page.
        title: What stands beside the pointer.
    """

    text: str
    order: float | str | None = None
    is_number: bool = False
    colour: str | None = None
    strip: Strip | None = None
    spoken: str = ""
    title: str = ""

    @property
    def is_long(self) -> bool:
        """Whether the text is a sentence, which takes several lines."""
        return len(self.text) > LONG_TEXT


@dataclasses.dataclass(frozen=True, kw_only=True)
class HtmlTable:
    """A table for the page: a header a column, a list of cells a row, all of one length; notes stand below."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    footnotes: tuple[str, ...] = ()


def styles_of(*tables: pd.DataFrame | None) -> Styles:
    """Assign every method that a table names its colour and label, the same as in the figures."""
    named = [
        table[column] for table in tables if table is not None for column in METHOD_COLUMNS if column in table.columns
    ]
    methods = pd.concat(named).dropna().astype(str) if named else pd.Series(dtype=str)
    return method_styles(methods[~methods.isin(list(GROUND_TRUTH))])


def text_cell(value: Any) -> Cell:
    """Make a cell of a text."""
    return Cell(text=MISSING) if _is_missing(value) else Cell(text=str(value), order=str(value))


def method_cell(method: str, styles: Styles) -> Cell:
    """Make a cell that names a method, with its colour."""
    label = GROUND_TRUTH.get(method) or label_of(method, styles)
    return Cell(text=label, order=label.lower(), colour=styles.get(method, {}).get("color"))


def number_cell(value: Any, form: str | Column = "number") -> Cell:
    """Make a cell of a number; its form or its column says how it is written."""
    if _is_missing(value):
        return Cell(text=MISSING, is_number=True)
    text = form.write(float(value)) if isinstance(form, Column) else format_number(float(value), form)
    return Cell(text=text, order=float(value), is_number=True)


def interval_cell(low: Any, high: Any, form: str | Column = "score") -> Cell:
    """Make a cell of an interval, sorted by its lower end; a dash without both ends."""
    first, last = number_cell(low, form), number_cell(high, form)
    if first.order is None or last.order is None:
        return Cell(text=MISSING, is_number=True)
    return Cell(text=f"{first.text} to {last.text}", order=first.order, is_number=True)


def estimate_cell(value: Any, low: Any, high: Any, form: str = "score") -> Cell:
    """Make a cell of a number with its interval behind it, sorted by the number."""
    number, ends = number_cell(value, form), interval_cell(low, high, form)
    if ends.order is None or number.order is None:
        return number
    text = ends.text.replace("\N{NO-BREAK SPACE}%", "", 1)  # one sign of percent for both ends
    return dataclasses.replace(number, text=f"{number.text} ({text})")


def make_table(
    frame: pd.DataFrame, styles: Styles, caption: str, columns: Mapping[str, Column] | None = None
) -> HtmlTable:
    """Make a table of any tidy frame, by its columns' declarations and types.

    Both ends of an interval are one column, what is the same in every row is said below, and an experiment's name and
    its repeats are left out where a row is over all of them.

    Args:
        columns: The declared ones by name.
    """
    shown = over_all(frame)
    names = [column for column in shown.columns if column != "experiment"]
    if "repeat" in names and set(shown["repeat"]) <= {"all"}:
        names.remove("repeat")
    kept = shown[names].head(MOST_ROWS)
    known = COMMON | dict(columns or {})
    declared = _drop_repeated([known.get(name, Column(name)) for name in names], kept)
    same = _same_in_every_row(kept, declared)
    makers = list(_cells_of(kept, [column for column in declared if column not in same], styles))
    rows = tuple(tuple(make(record) for _, make in makers) for record in kept.to_dict("records"))
    notes = [f"The first {len(kept):,} of {len(shown):,} rows."] if len(kept) < len(shown) else []
    if same:
        values = [f"{column.words} {_cell(kept[column.key].iloc[0], column, kept, styles).text}" for column in same]
        notes.append(f"In every row: {', '.join(values)}.")
    return HtmlTable(caption=caption, headers=tuple(header for header, _ in makers), rows=rows, note=" ".join(notes))


def _drop_repeated(columns: Sequence[Column], table: pd.DataFrame) -> list[Column]:
    """Leave out an interval that is another's in every row: with one repeat, Student's is the bootstrap's."""
    pairs = [column for column in columns if column.high in table.columns]
    dropped = {
        end
        for place, column in enumerate(pairs)
        for other in pairs[:place]
        if table[column.key].equals(table[other.key]) and table[column.high].equals(table[other.high])
        for end in (column.key, column.high)
    }
    return [column for column in columns if column.key not in dropped]


def _same_in_every_row(table: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """Name what takes a column and tells nothing: of several rows, a value that all have; intervals stay."""
    ends = {end for column in columns if column.high for end in (column.key, column.high)}
    same = [column for column in columns if column.key not in ends and table[column.key].nunique(dropna=False) == 1]
    return same if len(table) > 1 and len(same) < len(columns) else []


def _cells_of(
    table: pd.DataFrame, columns: Sequence[Column], styles: Styles
) -> Iterable[tuple[str, Callable[[Row], Cell]]]:
    """Return each column's header, and how its cell is made of a row."""
    pairs = [column for column in columns if column.high in table.columns]
    highs = {column.high for column in pairs}
    for column in columns:
        if column in pairs:
            yield column.interval, lambda row, at=column: interval_cell(row[at.key], row[at.high], at)
        elif column.key not in highs:
            yield column.words, lambda row, at=column: _cell(row[at.key], at, table, styles)


def cross(
    rows: pd.DataFrame, across: str, headers: Mapping[Any, str], make_cell: Callable[[Row], Cell],
    order: Iterable[str], styles: Styles, caption: str,
) -> HtmlTable:  # fmt: skip
    """Make a row a method and a column a value of ``across``; where there is no row, there is a dash."""
    found = {(row["method"], row[across]): row for row in rows.to_dict("records")}
    missing = Cell(text=MISSING, is_number=True)
    lines = [
        (method_cell(method, styles), *(make_cell(found[method, key]) if (method, key) in found else missing
                                        for key in headers))
        for method in dict.fromkeys(order)
    ]  # fmt: skip
    return HtmlTable(caption=caption, headers=("Method", *headers.values()), rows=tuple(lines))


def make_strips(rows: Sequence[Row], styles: Styles) -> list[Strip | None]:
    """Draw the intervals of one ranking on one scale, from zero or the lowest bound to the ceiling or the highest."""
    ends = ("lds", "low", "high", "ceiling", "null_low", "null_high")
    known = [[None if _is_missing(row.get(name)) else float(row[name]) for name in ends] for row in rows]
    numbers = [0.0, *(value for line in known for value in line if value is not None and math.isfinite(value))]
    lowest, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
    strips: list[Strip | None] = []
    for row, line in zip(rows, known, strict=True):
        value, low, high, ceiling, *chance = (
            None if value is None else round(100 * (value - lowest) / span, 2) for value in line
        )
        if value is None or low is None or high is None:
            strips.append(None)
            continue
        colour, zero = styles.get(row["method"], {}).get("color", COLOURS["random"]), round(-100 * lowest / span, 2)
        band = None if None in chance else (chance[0], chance[1])
        strips.append(Strip(low=low, value=value, high=high, zero=zero, ceiling=ceiling, colour=colour, chance=band))
    return strips


def _cell(value: Any, column: Column, table: pd.DataFrame, styles: Styles) -> Cell:
    if column.key in METHOD_COLUMNS and not _is_missing(value):
        return method_cell(str(value), styles)
    kind = table[column.key].dtype
    is_number = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    return number_cell(value, column) if is_number else text_cell(value)


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
