"""Numbers of .csv files: what spreadsheets, pandas and R write around them is told of, and never taken for numbers."""

import math

import numpy as np

PADDING = -1


def parse_csv(text: str, *, ragged: bool) -> np.ndarray:
    """Read a matrix of numbers; an empty cell is NaN.

    Args:
        text: Without a byte-order mark.
        ragged: Whether rows may have different lengths, for lists of indices; they are filled up with -1.

    Raises:
        ValueError: If a cell is no number, rows differ in length, or a row or column counts the others.
    """
    lines = text.splitlines()
    if any(";" in line or "\t" in line for line in lines[:1]):
        raise ValueError(
            "its values are not separated by commas: save it with commas between them and points in the numbers, as "
            "pandas does with to_csv(index=False, header=False)."
        )
    rows = [[_number(cell, place) for cell in line.split(",")] for place, line in enumerate(lines, 1) if line.strip()]
    longest = max((len(row) for row in rows), default=0)
    if not ragged and any(len(row) != longest for row in rows):
        shortest = min(len(row) for row in rows)
        raise ValueError(f"its rows have from {shortest} to {longest} values; all must have as many.")
    values = np.array([row + [PADDING] * (longest - len(row)) for row in rows], dtype=np.float64)
    values = values.reshape(len(rows), longest)
    _refuse_counts(values, ragged)
    return values


def _refuse_counts(values: np.ndarray, ragged: bool) -> None:
    """Refuse a header of column numbers, and an index of row numbers."""
    many_rows, many_columns = len(values) > 2, values.shape[1] > 2
    if many_columns and not ragged and (_counts(values[0]) or (math.isnan(values[0, 0]) and _counts(values[0, 1:]))):
        raise ValueError("its first line counts the columns: save it without the header (pandas: header=False).")
    if many_rows and values.shape[1] > 1 and _counts(values[:, 0]):
        raise ValueError("its first column counts the rows: save it without the index (pandas: index=False).")


def _counts(values: np.ndarray) -> bool:
    return any(np.array_equal(values, np.arange(first, first + len(values))) for first in (0, 1))


def _number(cell: str, line: int) -> float:
    word = cell.strip().lower()
    if word in ("", "true", "false"):
        return {"": math.nan, "true": 1.0, "false": 0.0}[word]
    try:
        return float(word)
    except ValueError as error:
        raise ValueError(f"line {line} has {cell.strip()[:40]!r}; it must have numbers only, and no header.") from error
