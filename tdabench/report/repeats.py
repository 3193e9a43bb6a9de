"""Rows over repeats: what every table ends with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd


def add_rows_over_repeats(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    keys: Sequence[str],
    value: str,
    averaged: Sequence[str] = (),
    added: Sequence[str] = (),
    over_repeats: Callable[[list[float]], Any],
) -> pd.DataFrame:
    """Make a table of rows and, after them, rows ``all`` over the repeats.

    In rows of one repeat, ``low``, ``high`` and ``standard_error`` are the bootstrap's; in rows ``all`` they are
    Student's t interval and the standard error of the mean over repeats (with a single repeat: that repeat's own).

    Args:
        keys: Columns whose values a row ``all`` shares with its repeats.
        value: The column that is averaged with an interval; repeats without it are left out.
        averaged: Columns that are averaged without.
        added: Columns of counts, which add up.
        over_repeats: ``means of the repeats -> interval``.
    """
    table = pd.DataFrame(list(rows), columns=list(columns)).astype({"repeat": str})
    summary = []
    for _, same in table.groupby(list(keys), sort=False):
        row = same.iloc[0].to_dict() | {"repeat": "all"}
        if "status" in columns:
            row["status"] = " | ".join(dict.fromkeys(same["status"]))
        found = same[same[value].notna()]
        if len(same) > 1 and len(found):
            interval = over_repeats([float(number) for number in found[value]])
            row |= {value: interval.mean, "low": interval.low, "high": interval.high}
            row["standard_error"] = interval.standard_error
            row |= {name: found[name].astype(float).mean() for name in averaged}
            row |= {name: int(found[name].sum()) for name in added}
        summary.append(row)
    summary_table = pd.DataFrame(summary, columns=list(columns))
    both = pd.concat([table.astype(object), summary_table.astype(object)], ignore_index=True).infer_objects()
    # A count beside a missing one stays a whole number.
    return both.assign(**{name: pd.to_numeric(both[name]).astype("Int64") for name in added})


def format_mean(row: pd.Series, value: str, *, repeats: int) -> str:
    """Write a mean with its standard error over repeats, or with the interval of the only one; a dash if missing."""
    if pd.isna(row[value]):
        return "—"
    if repeats > 1:
        return f"{row[value]:.3f} ± {row['standard_error']:.3f}"
    return f"{row[value]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
