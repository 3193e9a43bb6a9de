"""One declaration a table: its columns, how repeats are averaged, and how its numbers are kept and read."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import Column, find_column
from tdabench.drawing.files import write_csv
from tdabench.evaluation.intervals import over_repeats

PLACE = "experiment repeat train_size"
# What the mean of a column, and so its interval over repeats, can't leave.
RANGES = {
    **dict.fromkeys(("lds", "tuning_lds", "agreement", "oracle", "rank_correlation"), (-1.0, 1.0)),
    **dict.fromkeys(("ceiling", "overlap", "harmful_overlap", "auc"), (0.0, 1.0)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A tidy table. Its columns are stable: other scripts read them.

    Attributes:
        name: Of its files.
        columns: In their order.
        keys: Columns whose values a row over repeats shares with its repeats.
        means: Columns that are averaged with an interval, and the prefix of its ends; repeats without a value are
            left out.
        averaged: Columns that are averaged without.
        added: Columns of counts, which add up over those repeats.
        joined: Columns of texts, of which each is told once.
        whole: Columns of whole numbers that stay whole beside missing ones.
        digits: How numbers are written in the file.
    """

    name: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ()
    means: Mapping[str, str] = dataclasses.field(default_factory=dict)
    averaged: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    joined: tuple[str, ...] = ("status",)
    whole: tuple[str, ...] = ()
    digits: str = "%.6f"

    @property
    def names(self) -> list[str]:
        """The columns' keys."""
        return [column.key for column in self.columns]

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Make a table of rows; other keys than the columns' are left out."""
        table = pd.DataFrame(list(rows), columns=self.names)
        return table.astype({"repeat": str}) if "repeat" in self.names else table

    def add_rows_over_repeats(self, rows: Iterable[Mapping[str, Any]], confidence: float) -> pd.DataFrame:
        """Make a table of rows and, after them, rows ``all`` over the repeats.

        In rows of one repeat, intervals and standard errors are the bootstrap's; in rows ``all`` they are Student's t
        interval and the standard error of the mean over repeats (with a single repeat: that repeat's own).
        """
        table = self.frame(rows)
        summary = [self._row_over(same, confidence) for _, same in table.groupby(list(self.keys), sort=False)]
        last = pd.DataFrame(summary, columns=self.names)
        both = pd.concat([table.astype(object), last.astype(object)], ignore_index=True).infer_objects()
        return both.assign(**{name: pd.to_numeric(both[name]).astype("Int64") for name in self.whole})

    def _row_over(self, same: pd.DataFrame, confidence: float) -> dict[str, Any]:
        row = same.iloc[0].to_dict() | {"repeat": "all"}
        for name in self.joined:
            if name in row:
                row[name] = " | ".join(dict.fromkeys(text for text in same[name] if text and pd.notna(text)))
        if len(same) == 1:
            return row
        for value, prefix in self.means.items():
            known = same[value].dropna().astype(float).tolist()
            if known:
                least, most = RANGES.get(value, (-math.inf, math.inf))
                interval = over_repeats(known, confidence, least=least, most=most)
                row |= {value: interval.mean, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
                row |= {} if prefix else {"standard_error": interval.standard_error}
        # Beside several means, counts are of all repeats.
        found = same[same[list(self.means)].notna().any(axis=1)] if len(self.means) == 1 else same
        if len(found):
            row |= {name: found[name].astype(float).mean() for name in self.averaged}
            row |= {name: found[name].sum() for name in self.added}
        return row

    def write(self, folder: Path, table: pd.DataFrame) -> None:
        """Write ``tables/NAME.csv`` of an experiment's folder."""
        write_csv(folder / "tables" / f"{self.name}.csv", table, digits=self.digits)


def declare(name: str, *columns: str | Column, **how: Any) -> Table:
    """Declare a table; a text among the columns names some of ``COMMON``, or such as need no words of their own."""
    found: list[Column] = []
    for column in columns:
        found += [column] if isinstance(column, Column) else map(find_column, column.split())
    return Table(name=name, columns=tuple(found), **how)


def count_repeats(table: pd.DataFrame) -> int:
    """Count the repeats of a table; none if it doesn't tell them apart."""
    return table.loc[table["repeat"] != "all", "repeat"].nunique() if "repeat" in table.columns else 0


def over_all(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows over repeats (``all``) where there are any; else every row."""
    last = table[table["repeat"] == "all"] if "repeat" in table.columns else table
    return last if len(last) else table


def at(table: pd.DataFrame | None, **where: Any) -> pd.DataFrame:
    """Return the rows over repeats with these values; none if the table or a column is absent."""
    if table is None or not set(where) <= set(table.columns):
        return pd.DataFrame()
    rows = over_all(table)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def at_largest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows over repeats of the largest size."""
    return at(table, train_size=table["train_size"].max())


def sizes_of(table: pd.DataFrame) -> list[int]:
    """Return the sizes of the attribution set, largest first."""
    return sorted((int(size) for size in table["train_size"].unique()), reverse=True)


def format_mean(row: Mapping[str, Any] | pd.Series, value: str, *, repeats: int) -> str:
    """Write a mean with its standard error over repeats, or with the interval of the only one; a dash if missing."""
    if pd.isna(row[value]):
        return "—"
    if repeats > 1:
        return f"{row[value]:.3f} ± {row['standard_error']:.3f}"
    return f"{row[value]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
