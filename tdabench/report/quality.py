"""The page's two main tables: the ranking of one size, and cost beside quality."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.report.cells import (
    GROUND_TRUTH,
    HEADERS,
    Cell,
    Styles,
    Table,
    make_strips,
    method_cell,
    number_cell,
    text_cell,
)
from tdabench.report.summary import rank


def rank_table(rows: pd.DataFrame, null: pd.DataFrame, styles: Styles, confidence: float, size: int) -> Table:
    """Make the table of one size from its ranked rows, with chance's interval where it is known."""
    records = rows.to_dict("records")
    nulls = {row["method"]: row for row in null.to_dict("records")} if "method" in null.columns else {}
    headers = ["Rank", "Method", "LDS", f"{confidence:.0%} interval", "On a scale", "± SE", "Share of ceiling"]
    headers += ["Null interval", "p (null)"] if nulls else []
    lines = []
    for place, (row, strip) in enumerate(zip(records, make_strips(records, styles), strict=True), start=1):
        share = row["lds"] / row["ceiling"] if _positive(row["ceiling"]) else None
        line = [
            number_cell(place if pd.notna(row["lds"]) else None),
            method_cell(row["method"], styles),
            number_cell(row["lds"], "lds"),
            _interval_cell(row["low"], row["high"]),
            Cell(text="", order=None if strip is None else strip.value, is_number=True, strip=strip),
            number_cell(row["standard_error"]),
            number_cell(share, "share"),
        ]
        if nulls:
            chance = nulls.get(row["method"], {})
            line += [_interval_cell(chance.get("null_low"), chance.get("null_high"))]
            line += [number_cell(chance.get("p_value"), "p_value")]
        lines.append((*line, number_cell(row["queries"]), text_cell(row["status"])))
    ceiling = rows["ceiling"].dropna().astype(float)
    note = f"Ceiling {ceiling.mean():.3f} (the dashed line)." if len(ceiling) else ""
    headers = (*headers, "Scored queries", "Status")
    return Table(caption=f"LDS at n = {size:,}", headers=headers, rows=tuple(lines), note=note)


def _interval_cell(low: Any, high: Any) -> Cell:
    first, last = number_cell(low), number_cell(high)
    if first.order is None or last.order is None:
        return Cell(text=first.text if first.order is None else last.text, is_number=True)
    return Cell(text=f"{first.text} to {last.text}", order=first.order, is_number=True)


def cost_table(cost: pd.DataFrame, lds: pd.DataFrame | None, styles: Styles, size: int) -> Table:
    """Make the table of one size: seconds by phase, memory and disk, best method first, the ground truth last."""
    rows = cost[cost["train_size"] == size]
    scores = {} if lds is None else dict(rank(lds, size)[["method", "lds"]].itertuples(index=False, name=None))
    phases = sorted(rows["phase"].dropna().unique(), key=lambda phase: (phase not in ("fit", "score"), phase))
    sums, peaks = ["cpu_seconds", "disk_bytes"], ["peak_host_bytes", "peak_device_bytes"]
    methods = sorted(rows["method"].unique(), key=lambda method: (method in GROUND_TRUTH, _descending(scores, method)))
    lines = []
    for method in methods:
        own = rows[rows["method"] == method]
        by_phase = [_mean(own[own["phase"] == phase], "seconds", "sum") for phase in phases]
        lines.append(
            (
                method_cell(method, styles),
                number_cell(scores.get(method), "lds"),
                *(number_cell(seconds, "seconds") for seconds in by_phase),
                number_cell(_mean(own, "seconds", "sum"), "seconds"),
                *(number_cell(_mean(own, column, "sum"), column) for column in sums),
                *(number_cell(_mean(own, column, "max"), column) for column in peaks),
            )
        )
    headers = ("Method", "LDS", *(f"{phase} (s)" for phase in phases), "Total (s)")
    headers += tuple(HEADERS[column] for column in (*sums, *peaks))
    return Table(caption=f"Cost at n = {size:,}", headers=headers, rows=tuple(lines))


def _mean(parts: pd.DataFrame, column: str, how: str) -> float | None:
    """Give the mean over repeats of the sum or the maximum over phases; nothing if nothing was measured."""
    known = parts[parts[column].notna()]
    return float(known.groupby("repeat")[column].agg(how).mean()) if len(known) else None


def _descending(scores: Mapping[str, float], method: str) -> float:
    score = scores.get(method)
    return -score if score is not None and pd.notna(score) else float("inf")


def _positive(value: Any) -> bool:
    return pd.notna(value) and value > 0
