"""The page's two main tables: the ranking of one size, and cost beside quality."""

from collections.abc import Mapping

import pandas as pd

from tdabench.drawing.columns import header_of
from tdabench.drawing.html import (
    GROUND_TRUTH,
    Cell,
    Styles,
    Table,
    at,
    estimate_cell,
    interval_cell,
    make_strips,
    method_cell,
    number_cell,
    text_cell,
)
from tdabench.report.summary import rank, share_of


def rank_table(tables: Mapping[str, pd.DataFrame], styles: Styles, confidence: float, size: int) -> Table:
    """Make the table of one size, best method first.

    Groups and shares of the ceiling are those of the table ``ranking``, and the band of chance that of ``null``, its
    mean over repeats; each only where it is known. A column of status stands there if something is not ok.
    """
    rows, bands = rank(tables["lds"], size, tables.get("ranking")), chance_of(tables.get("null"), size)
    records = [{**bands.get(row["method"], {}), **row} for row in rows.to_dict("records")]
    has_groups, is_ok = "group" in rows.columns, all(rows["status"] == "ok")
    headers = ["Rank", "Method", "LDS", f"{confidence:.0%} interval", "On a scale"]
    headers += ["Group"] * has_groups + ["Share of ceiling"] + ["By chance"] * bool(bands) + ["Status"] * (not is_ok)
    lines = []
    for place, (row, strip) in enumerate(zip(records, make_strips(records, styles), strict=True), start=1):
        line = [
            number_cell(place if pd.notna(row["lds"]) else None),
            method_cell(row["method"], styles),
            number_cell(row["lds"], "lds"),
            interval_cell(row["low"], row["high"]),
            Cell(text="", order=None if strip is None else strip.value, is_number=True, strip=strip),
            *([text_cell(row["group"] or None)] if has_groups else []),
            estimate_cell(share_of(row), row.get("share_low"), row.get("share_high"), "share"),
            *([interval_cell(row.get("null_low"), row.get("null_high"))] if bands else []),
            *([] if is_ok else [text_cell(row["status"])]),
        ]
        lines.append(tuple(line))
    note = _note(rows, tables.get("null"))
    return Table(caption=f"LDS at n = {size:,}", headers=tuple(headers), rows=tuple(lines), note=note)


def chance_of(null: pd.DataFrame | None, size: int) -> dict[str, dict[str, float]]:
    """Return each method's band of chance, the mean over repeats: a table of it has no row over repeats."""
    rows = at(null, train_size=size)
    if rows.empty:
        return {}
    bands = rows.groupby("method", sort=False)[["null_low", "null_high"]].mean()
    return {str(method): band.to_dict() for method, band in bands.iterrows()}


def _note(rows: pd.DataFrame, null: pd.DataFrame | None) -> str:
    counts = " or ".join(f"{int(count):,}" for count in rows["queries"].dropna().unique())
    ceiling = rows["ceiling"].dropna().astype(float)
    notes = [f"{counts} scored queries"] if counts else []
    notes += [f"the dashed line is the ceiling, {ceiling.mean():.3f}"] if len(ceiling) else []
    if null is not None and null["null_low"].notna().any():
        repeats = null["repeat"].nunique()
        which = f", the mean of {repeats} repeats' bands" if repeats > 1 else ""
        notes.append(f"the grey band is what chance reaches{which}")
    text = "; ".join(notes)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def cost_table(cost: pd.DataFrame, lds: pd.DataFrame | None, styles: Styles, size: int) -> Table:
    """Make the table of one size, best method first: LDS if there is one, seconds by phase, memory, disk."""
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
                *([number_cell(scores.get(method), "lds")] if scores else []),
                *(number_cell(value, "seconds") for value in [*seconds, _mean(own, "seconds")]),
                *(number_cell(_mean(own, column), column) for column in columns),
            )
        )
    headers = ("Method", *(["LDS"] if scores else []), *(f"{header_of(phase)} (s)" for phase in phases), "Total (s)")
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
    """Return the columns of cost beside seconds; the device's memory only where there is any, passes where counted."""
    columns = ["cpu_seconds", "passes", "peak_host_bytes", "peak_device_bytes", "disk_bytes"]
    optional = ("passes", "peak_device_bytes")  # tables of older results have no passes
    return [
        column
        for column in columns
        if column not in optional or (column in rows and rows[column].astype(float).fillna(0).gt(0).any())
    ]


def _mean(parts: pd.DataFrame, column: str) -> float | None:
    """Return the mean over repeats: of sums over phases, of a peak the highest; nothing if nothing was measured."""
    known = parts[parts[column].notna()]
    if column == "passes" and len(known) < len(parts):  # of one phase, they are not the whole
        return None
    how = "max" if column.startswith("peak_") else "sum"
    return float(known.groupby("repeat")[column].agg(how).mean()) if len(known) else None


def _descending(score: float | None) -> float:
    return -score if score is not None and pd.notna(score) else float("inf")
