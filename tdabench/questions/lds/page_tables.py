"""The page's tables of the LDS that are not as any other: the ranking, what chance reaches, sources of variance."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.columns import find_column, format_number
from tdabench.drawing.html import (
    Cell,
    HtmlTable,
    cross,
    estimate_cell,
    interval_cell,
    make_strips,
    method_cell,
    number_cell,
    text_cell,
)
from tdabench.drawing.section import Results
from tdabench.questions.lds.division import tell_division
from tdabench.questions.lds.lead import rank, share_of
from tdabench.questions.lds.tables import SOURCES


def rank_table(results: Results, size: int, caption: str) -> HtmlTable:
    """Make the table of one size, best method first.

    Groups and shares of the ceiling are those of the table ``ranking``, and the band of chance that of ``null``, its
    mean over repeats; each only where it is known. A column of status stands there if something is not ok.
    """
    rows, bands = rank(results, size), _chance_at(results, size)
    records = [{**bands.get(row["method"], {}), **row} for row in rows.to_dict("records")]
    has_groups, is_ok = "group" in rows.columns, all(rows["status"] == "ok")
    headers = ["Rank", "Method", "LDS", f"{results.confidence:.0%} interval", "On a scale"]
    headers += ["Group"] * has_groups + ["Share of ceiling"] + ["By chance"] * bool(bands) + ["Status"] * (not is_ok)
    lines = []
    for place, (row, strip) in enumerate(zip(records, make_strips(records, results.styles), strict=True), start=1):
        line = [
            number_cell(place if pd.notna(row["lds"]) else None),
            method_cell(row["method"], results.styles),
            number_cell(row["lds"], "score"),
            interval_cell(row["low"], row["high"]),
            Cell(text="", order=None if strip is None else strip.value, is_number=True, strip=strip),
        ]
        line += [text_cell(row["group"] or None)] if has_groups else []
        line.append(estimate_cell(share_of(row), row.get("share_low"), row.get("share_high"), "share"))
        line += [interval_cell(row.get("null_low"), row.get("null_high"))] if bands else []
        line += [] if is_ok else [text_cell(row["status"])]
        lines.append(tuple(line))
    told = tell_division(results.methods, set(rows.loc[rows["lds"].notna(), "method"]), results.label)
    note = " ".join(part for part in (_note(rows, results.tables.get("null")), told) if part)
    return HtmlTable(caption=f"LDS at n = {size:,}", headers=tuple(headers), rows=tuple(lines), note=note)


def _chance_at(results: Results, size: int) -> dict[str, dict[str, float]]:
    """Return each method's band of chance, the mean over repeats: a table of it has no row over repeats."""
    rows = results.at("null", train_size=size)
    if rows.empty:
        return {}
    return rows.groupby("method", sort=False)[["null_low", "null_high"]].mean().to_dict("index")


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


def null_table(results: Results, size: int, caption: str) -> HtmlTable:
    """Cross methods with repeats: the band of chance, and how seldom chance reaches the LDS."""
    rows = results.at("null", train_size=size)
    headers = {repeat: f"Repeat {repeat}" for repeat in dict.fromkeys(rows["repeat"])}
    return cross(rows, "repeat", headers, _band, rows["method"], results.styles, caption)


def _band(row: Mapping[str, Any]) -> Cell:
    cell = interval_cell(row["null_low"], row["null_high"])
    if cell.order is None:
        return cell
    p_value = format_number(row["p_value"], "p")
    text = f"{cell.text} (p {p_value if p_value.startswith('<') else f'= {p_value}'})"
    return Cell(text=text, order=row["p_value"], is_number=True)


def variance_table(results: Results, size: int, caption: str) -> HtmlTable:
    """Cross methods with sources of variance, in percent of what is known; all of it together comes last."""
    rows = results.at("variance", train_size=size)
    headers = {source: find_column(source).words for source in SOURCES}
    order = list(dict.fromkeys(rows["method"]))
    table = cross(
        rows, "source", headers, lambda row: number_cell(row["share"], "share"), order, results.styles, caption
    )
    squares = rows["standard_deviation"].astype(float) ** 2
    totals = squares.groupby(rows["method"]).sum(min_count=1) ** 0.5
    lines = [(*line, number_cell(totals[method], "score")) for method, line in zip(order, table.rows, strict=True)]
    headed = (*table.headers, "Standard deviation")
    return dataclasses.replace(table, headers=headed, rows=tuple(lines), note="— is not measured.")
