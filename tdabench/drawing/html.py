"""Cells of the page's tables: numbers as people read them, beside the value by which a column is sorted."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from tdabench.drawing.columns import INTERVALS, MISSING, format_number, header_of
from tdabench.report.figures import COLOURS, method_styles

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

Styles = Mapping[str, Mapping[str, str]]


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
class Table:
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
    known = methods[~methods.isin(list(GROUND_TRUTH))]
    return method_styles(pd.DataFrame({"method": known}))


def text_cell(value: Any) -> Cell:
    """Make a cell of a text."""
    return Cell(text=MISSING) if _is_missing(value) else Cell(text=str(value), order=str(value))


def method_cell(method: str, styles: Styles) -> Cell:
    """Make a cell that names a method, with its colour."""
    label = GROUND_TRUTH.get(method) or styles.get(method, {}).get("label", method)
    return Cell(text=label, order=label.lower(), colour=styles.get(method, {}).get("color"))


def number_cell(value: Any, column: str = "") -> Cell:
    """Make a cell of a number; the column's name says its unit."""
    if _is_missing(value):
        return Cell(text=MISSING, is_number=True)
    return Cell(text=format_number(float(value), column), order=float(value), is_number=True)


def interval_cell(low: Any, high: Any, column: str = "low") -> Cell:
    """Make a cell of an interval, sorted by its lower end; a dash without both ends."""
    first, last = number_cell(low, column), number_cell(high, column)
    if first.order is None or last.order is None:
        return Cell(text=MISSING, is_number=True)
    return Cell(text=f"{first.text} to {last.text}", order=first.order, is_number=True)


def estimate_cell(value: Any, low: Any, high: Any, column: str) -> Cell:
    """Make a cell of a number with its interval behind it, sorted by the number."""
    number, interval = number_cell(value, column), interval_cell(low, high, column)
    if interval.order is None or number.order is None:
        return number
    ends = interval.text.replace("\N{NO-BREAK SPACE}%", "", 1)  # one sign of percent for both ends
    return dataclasses.replace(number, text=f"{number.text} ({ends})")


def make_table(frame: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Make a table of any tidy frame, by its columns' names and types.

    Both ends of an interval are one column, what is the same in every row is said below, and an experiment's name and
    its repeats are left out where a row is over all of them.
    """
    shown = over_repeats(frame)
    columns = [column for column in shown.columns if column != "experiment"]
    if "repeat" in columns and set(shown["repeat"]) <= {"all"}:
        columns.remove("repeat")
    kept = shown[columns].head(MOST_ROWS)
    same = _same_in_every_row(kept)
    makers = _columns_of(kept.drop(columns=same), styles)
    rows = tuple(tuple(make(record) for _, make in makers) for record in kept.to_dict("records"))
    notes = [f"The first {len(kept):,} of {len(shown):,} rows."] if len(kept) < len(shown) else []
    if same:
        values = [f"{header_of(column)} {_cell(kept[column].iloc[0], column, kept, styles).text}" for column in same]
        notes.append(f"In every row: {', '.join(values)}.")
    return Table(caption=caption, headers=tuple(header for header, _ in makers), rows=rows, note=" ".join(notes))


def _same_in_every_row(table: pd.DataFrame) -> list[str]:
    """Name what takes a column and tells nothing: of several rows, a value that all have; intervals stay."""
    if len(table) < 2:
        return []
    ends = {f"{prefix}{end}" for prefix in INTERVALS for end in ("low", "high")}
    same = [column for column in table.columns if column not in ends and table[column].nunique(dropna=False) == 1]
    return same if len(same) < len(table.columns) else []


def _columns_of(table: pd.DataFrame, styles: Styles) -> list[tuple[str, Callable[[Mapping[str, Any]], Cell]]]:
    """Return each column's header, and how its cell is made of a row."""
    ends = {f"{prefix}low": (f"{prefix}high", header) for prefix, header in INTERVALS.items()}
    ends = {low: other for low, other in ends.items() if {low, other[0]} <= set(table.columns)}
    highs = {high for high, _ in ends.values()}
    makers: list[tuple[str, Callable[[Mapping[str, Any]], Cell]]] = []
    for column in table.columns:
        if column in ends:
            high, header = ends[column]
            makers.append((header, lambda row, low=column, high=high: interval_cell(row[low], row[high], low)))
        elif column not in highs:
            header = header_of(column)
            makers.append((header, lambda row, column=column: _cell(row[column], column, table, styles)))
    return makers


def over_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows over repeats (``all``) where there are any; else every row."""
    if "repeat" not in table.columns:
        return table
    last = table[table["repeat"] == "all"]
    return last if len(last) else table


def at(table: pd.DataFrame | None, **where: Any) -> pd.DataFrame:
    """Return the rows over repeats with these values; none if the table or a column is absent."""
    if table is None or not set(where) <= set(table.columns):
        return pd.DataFrame()
    rows = over_repeats(table)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def make_strips(rows: Sequence[Mapping[str, Any]], styles: Styles) -> list[Strip | None]:
    """Draw the intervals of one ranking on one scale, from zero or the lowest bound to the ceiling or the highest."""
    numbers = [
        float(row[name])
        for row in rows
        for name in ("lds", "low", "high", "ceiling", "null_low", "null_high")
        if not _is_missing(row.get(name)) and math.isfinite(row[name])
    ]
    lowest, highest = min([0.0, *numbers]), max([0.0, *numbers])
    span = (highest - lowest) or 1.0

    def place(value: Any) -> float:
        return round(100 * (float(value) - lowest) / span, 2)

    return [
        Strip(
            low=place(row["low"]),
            value=place(row["lds"]),
            high=place(row["high"]),
            zero=place(0),
            ceiling=None if _is_missing(row.get("ceiling")) else place(row["ceiling"]),
            colour=styles.get(row["method"], {}).get("color", COLOURS["random"]),
            chance=None
            if any(_is_missing(row.get(name)) for name in ("null_low", "null_high"))
            else (place(row["null_low"]), place(row["null_high"])),
        )
        if not any(_is_missing(row[name]) for name in ("lds", "low", "high"))
        else None
        for row in rows
    ]


def _cell(value: Any, column: str, table: pd.DataFrame, styles: Styles) -> Cell:
    if column in METHOD_COLUMNS and not _is_missing(value):
        return method_cell(str(value), styles)
    kind = table[column].dtype
    is_number = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    return number_cell(value, column) if is_number else text_cell(value)


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
