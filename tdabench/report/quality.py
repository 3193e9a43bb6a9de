"""The page's two main tables: the ranking of one size, and cost beside quality."""

from typing import Any

import pandas as pd

from tdabench.report.cells import (
    GROUND_TRUTH,
    Cell,
    Styles,
    Table,
    header_of,
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
            number_cell(row["standard_error"], "standard_error"),
            number_cell(share, "share"),
        ]
        if nulls:
            chance = nulls.get(row["method"], {})
            line += [_interval_cell(chance.get("null_low"), chance.get("null_high"))]
            line += [number_cell(chance.get("p_value"), "p_value")]
        lines.append((*line, text_cell(row["status"])))
    ceiling = rows["ceiling"].dropna().astype(float)
    note = f"{'; '.join(f'{int(count):,}' for count in rows['queries'].dropna().unique())} scored queries."
    note += f" The ceiling (the dashed line) is {ceiling.mean():.3f}." if len(ceiling) else ""
    headers = (*headers, "Status")
    return Table(caption=f"LDS at n = {size:,}", headers=headers, rows=tuple(lines), note=note)


def _interval_cell(low: Any, high: Any) -> Cell:
    first, last = number_cell(low, "low"), number_cell(high, "high")
    if first.order is None or last.order is None:
        return Cell(text=first.text if first.order is None else last.text, is_number=True)
    return Cell(text=f"{first.text} to {last.text}", order=first.order, is_number=True)


def cost_table(cost: pd.DataFrame, lds: pd.DataFrame | None, styles: Styles, size: int) -> Table:
    """Make the table of one size, best method first: LDS, seconds by phase, memory and disk."""
    rows = cost[(cost["train_size"] == size) & ~cost["method"].isin(list(GROUND_TRUTH))]
    scores = {} if lds is None else dict(rank(lds, size)[["method", "lds"]].itertuples(index=False, name=None))
    phases = sorted(rows["phase"].dropna().unique(), key=lambda phase: (phase not in ("fit", "score"), phase))
    columns = _measured(rows)
    lines = []
    for method in sorted(rows["method"].unique(), key=lambda method: _descending(scores.get(method))):
        own = rows[rows["method"] == method]
        seconds = [_mean(own[own["phase"] == phase], "seconds") for phase in phases]
        lines.append(
            (
                method_cell(method, styles),
                number_cell(scores.get(method), "lds"),
                *(number_cell(value, "seconds") for value in [*seconds, _mean(own, "seconds")]),
                *(number_cell(_mean(own, column), column) for column in columns),
            )
        )
    headers = ("Method", "LDS", *(f"{header_of(phase)} (s)" for phase in phases), "Total (s)")
    headers += tuple(header_of(column) for column in columns)
    return Table(caption=f"Cost at n = {size:,}", headers=headers, rows=tuple(lines))


def ground_truth_table(cost: pd.DataFrame) -> Table | None:
    """Make the table of what retraining cost, if it is there: bank and checkpoints, a row each and size."""
    rows = cost[cost["method"].isin(list(GROUND_TRUTH))]
    if rows.empty:
        return None
    columns = ["seconds", *_measured(rows)]
    lines = [
        (
            text_cell(GROUND_TRUTH[method]),
            number_cell(size),
            *(number_cell(_mean(own, column), column) for column in columns),
        )
        for (method, size), own in rows.groupby(["method", "train_size"], sort=True)
    ]
    headers = ("What", "n", "Train (s)", *(header_of(column) for column in columns[1:]))
    return Table(caption="Cost of the ground truth", headers=headers, rows=tuple(lines))


def _measured(rows: pd.DataFrame) -> list[str]:
    """Give the columns of cost beside seconds; the device's memory only where there is any."""
    columns = ["cpu_seconds", "peak_host_bytes", "peak_device_bytes", "disk_bytes"]
    return [column for column in columns if column != "peak_device_bytes" or rows[column].fillna(0).gt(0).any()]


def _mean(parts: pd.DataFrame, column: str) -> float | None:
    """Give the mean over repeats: of sums over phases, of a peak the highest; nothing if nothing was measured."""
    known = parts[parts[column].notna()]
    how = "max" if column.startswith("peak_") else "sum"
    return float(known.groupby("repeat")[column].agg(how).mean()) if len(known) else None


def _descending(score: float | None) -> float:
    return -score if score is not None and pd.notna(score) else float("inf")


def _positive(value: Any) -> bool:
    return pd.notna(value) and value > 0
