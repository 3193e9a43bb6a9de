"""Tidy tables of an experiment's results. Columns are stable: other scripts read them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.storage.records import save_text

# What a spreadsheet would run; a number with a sign is none.
FORMULA = re.compile(r"(?![+-][\d.]+([eE][+-]?\d+)?\Z)[=+@\t\n-]")

LDS_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "lds", "low", "high", "standard_error", "queries", "nan_queries",
    "ceiling", "status",
)  # fmt: skip
COST_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "phase", "seconds", "cpu_seconds", "peak_host_bytes",
    "peak_device_bytes", "disk_bytes", "device", "status", "passes",
)  # fmt: skip


def write_csv(path: Path, table: pd.DataFrame, *, digits: str) -> None:
    """Write a table; a text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        digits: Format of the numbers, such as ``%.6f``.
    """
    texts = [name for name, column in table.items() if any(isinstance(value, str) for value in column)]
    inert = {name: [_make_inert(value) for value in table[name]] for name in texts}
    save_text(path, table.assign(**inert).to_csv(index=False, float_format=digits))


def _make_inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # pandas doesn't quote it, and readers end the row there
    return f"'{text}" if FORMULA.match(text) else text


def make_lds_table(rows: Iterable[Mapping[str, Any]], over_repeats: pd.DataFrame) -> pd.DataFrame:
    """Make the LDS table: one row a repeat, size and method, then a row ``all`` over the repeats.

    In rows of one repeat, ``low`` and ``high`` are the two-way bootstrap's interval and ``standard_error`` its
    standard deviation; in rows ``all``, they are Student's t interval and the standard error of the mean over repeats
    (with a single repeat: that repeat's own).
    """
    table = pd.DataFrame(list(rows), columns=list(LDS_COLUMNS)).astype({"repeat": str})
    return pd.concat([table.astype(object), over_repeats.astype(object)], ignore_index=True).infer_objects()


def count_repeats(lds: pd.DataFrame) -> int:
    """Count the repeats of an LDS table."""
    return lds.loc[lds["repeat"] != "all", "repeat"].nunique()


def make_cost_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the cost table: one row a repeat, size, method and phase; also the bank's and the checkpoints' cost.

    ``passes`` is empty where their number is not known, as in results from before they were counted.
    """
    table = pd.DataFrame(list(rows), columns=list(COST_COLUMNS)).astype({"repeat": str})
    return table.assign(passes=pd.to_numeric(table["passes"]).round().astype("Int64"))


def summarise(lds: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method, best first, an LDS column a size, and mean cost at the largest size.

    LDS over repeats is mean ± standard error; a single repeat shows its bootstrap interval.
    """
    last, repeats = lds[lds["repeat"] == "all"], count_repeats(lds)
    sizes = sorted(last["train_size"].unique())
    largest = cost[cost["train_size"] == sizes[-1]]
    ranked = last[last["train_size"] == sizes[-1]].sort_values("lds", ascending=False, na_position="last")
    rows = []
    for method in ranked["method"]:
        row: dict[str, Any] = {"method": method}
        for size in sizes:
            found = last[(last["method"] == method) & (last["train_size"] == size)].iloc[0]
            row[f"LDS, n = {size}"] = _format_lds(found, repeats)
        parts = largest[largest["method"] == method]
        for phase in ("fit", "score"):
            row[f"{phase} (s)"] = _format(_mean_over_repeats(parts[parts["phase"] == phase], "seconds", "sum"))
        row["memory (MB)"] = _format(_mean_over_repeats(parts, "peak_host_bytes", "max") / 1e6)
        row["disk (MB)"] = _format(_mean_over_repeats(parts, "disk_bytes", "sum") / 1e6)
        row["status"] = ranked[ranked["method"] == method]["status"].iloc[0]
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_over_repeats(parts: pd.DataFrame, column: str, how: str) -> float:
    known = parts[parts[column].notna()]  # a method that can't run has cost nothing that was measured
    return float(known.groupby("repeat")[column].agg(how).mean()) if len(known) else float("nan")


def _format(number: float) -> str:
    if pd.isna(number):
        return ""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _format_lds(row: pd.Series, repeats: int) -> str:
    if pd.isna(row["lds"]):
        return "—"
    if repeats > 1:
        return f"{row['lds']:.3f} ± {row['standard_error']:.3f}"
    return f"{row['lds']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
