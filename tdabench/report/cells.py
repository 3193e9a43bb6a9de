"""Cells of the page's tables: numbers as people read them, beside the value by which a column is sorted."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tdabench.report.figures import COLOURS, method_styles

MISSING = "—"
MINUS = "\N{MINUS SIGN}"
MOST_ROWS = 200
LONG_TEXT = 28  # characters
# Columns that hold the key of a method.
METHOD_COLUMNS = ("method", "first", "second", "other")
HEADERS = {
    "train_size": "n",
    "lds": "LDS",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "peak_host_bytes": "Memory (MB)",
    "peak_device_bytes": "Device memory (MB)",
    "disk_bytes": "Disk (MB)",
    "cpu_seconds": "CPU (s)",
    "nan_queries": "NaN queries",
}
# Always three decimals, so that they stand below one another.
SCORES = {
    "lds", "low", "high", "standard_error", "standard_deviation", "ceiling", "ceiling_low", "ceiling_high", "agreement",
    "agreement_low", "agreement_high", "difference", "bootstrap_low", "bootstrap_high", "null_low", "null_high",
}  # fmt: skip
# The bank and the checkpoints stand in the cost table beside the methods.
GROUND_TRUTH = {"bank": "Bank of retrained models", "checkpoints": "Checkpoints"}

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of a table.

    Attributes:
        order: By what its column is sorted: a number, or nothing for what is missing, which goes last.
        colour: Of the swatch before the text: the method's.
    """

    text: str
    order: float | str | None = None
    is_number: bool = False
    colour: str | None = None
    strip: Strip | None = None

    @property
    def is_long(self) -> bool:
        """Whether the text is a sentence, which takes several lines."""
        return len(self.text) > LONG_TEXT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table for the page: a header a column, a list of cells a row, all of one length."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def styles_of(*tables: pd.DataFrame | None) -> Styles:
    """Give every method that a table names its colour and label, the same as in the figures."""
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


def format_number(value: float, column: str = "") -> str:
    """Write a number for people: bytes in MB, shares in percent, p-values never as zero, a minus sign for minus."""
    if not math.isfinite(value):
        text = MISSING
    elif column.endswith("_bytes"):
        text = _short(value / 1e6)
    elif column == "share" or column.endswith("_share"):
        text = f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")
    elif column.startswith("p_"):
        text = "< 0.001" if 0 <= value < 0.001 else f"{value:.3f}"
    elif column.endswith("seconds"):
        text = _short(value)
    elif column in SCORES:
        text = f"{value:.3f}".replace("-0.000", "0.000")
    elif float(value).is_integer():
        text = f"{value:,.0f}"
    elif 0.001 <= abs(value) < 100:
        text = f"{value:.3f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", MINUS)


def make_table(frame: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Make a table of any tidy frame: by columns' names and types, constant experiment and repeats left out."""
    shown = over_repeats(frame)
    columns = [column for column in shown.columns if column != "experiment"]
    if "repeat" in columns and set(shown["repeat"]) <= {"all"}:
        columns.remove("repeat")
    kept = shown[columns].head(MOST_ROWS)
    note = f"The first {len(kept):,} of {len(shown):,} rows." if len(kept) < len(shown) else ""
    is_number = [
        pd.api.types.is_numeric_dtype(kept[column]) and not pd.api.types.is_bool_dtype(kept[column])
        for column in columns
    ]
    rows = [
        tuple(_cell(value, *how, styles) for value, *how in zip(row, columns, is_number, strict=True))
        for row in kept.itertuples(index=False, name=None)
    ]
    return Table(caption=caption, headers=tuple(header_of(column) for column in columns), rows=tuple(rows), note=note)


def header_of(column: str) -> str:
    """Give the words for a column's name."""
    words = column.replace("_", " ")
    return HEADERS.get(column, words[:1].upper() + words[1:])


def over_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows over repeats (``all``) where there are any; else every row."""
    if "repeat" not in table.columns:
        return table
    last = table[table["repeat"] == "all"]
    return last if len(last) else table


def at(table: pd.DataFrame | None, **where: Any) -> pd.DataFrame:
    """Give the rows over repeats with these values; none if the table or a column is absent."""
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
        for name in ("lds", "low", "high", "ceiling")
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
        )
        if not any(_is_missing(row[name]) for name in ("lds", "low", "high"))
        else None
        for row in rows
    ]


def _cell(value: Any, column: str, is_number: bool, styles: Styles) -> Cell:
    if column in METHOD_COLUMNS and not _is_missing(value):
        return method_cell(str(value), styles)
    return number_cell(value, column) if is_number else text_cell(value)


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _short(value: float) -> str:
    if 0 < value < 0.05:
        return "< 0.1"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"
