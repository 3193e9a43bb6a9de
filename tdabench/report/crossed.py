"""Tables of the page with a row a method (or a property) and a column for each of what it was asked."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.columns import MISSING, format_number, header_of
from tdabench.drawing.html import Cell, Styles, Table, estimate_cell, interval_cell, method_cell, number_cell
from tdabench.questions.detection.report import DETECTORS
from tdabench.questions.properties.table import SIGNS
from tdabench.report.comparisons import SOURCES

Row = Mapping[str, Any]


def removal_table(rows: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Cross methods with counts: the effect with its interval, largest at the largest count first."""
    most = rows[rows["count"] == rows["count"].max()]
    order = most.sort_values("effect", ascending=False, na_position="last", kind="stable")["method"]
    headers = {count: f"k = {count:,}" for count in sorted(rows["count"].unique())}
    return _cross(rows, "count", headers, lambda row: _estimate(row, "effect"), order, styles, caption)


def detection_table(rows: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Cross methods with detectors: the area under the ROC curve with its interval, highest first; the loss is noted.

    The models' loss is no method's, so that a column of it would hold one number.
    """
    alone, methods = rows[rows["detector"] == "loss"], rows[rows["detector"] != "loss"]
    best = methods.groupby("method", sort=False)["auc"].max()
    order = best.sort_values(ascending=False, na_position="last", kind="stable").index
    known = set(methods["detector"])
    headers = {key: f"{label[:1].upper()}{label[1:]}" for key, label in DETECTORS.items() if key in known}
    table = _cross(methods, "detector", headers, lambda row: _estimate(row, "auc"), order, styles, caption)
    notes = [
        f"By the models' loss alone, without attribution: {_estimate(row, 'auc').text}." for row in _records(alone)
    ]
    return dataclasses.replace(table, note=" ".join(notes))


def null_table(rows: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Cross methods with repeats: the band of chance, and how seldom chance reaches the LDS."""
    headers = {repeat: f"Repeat {repeat}" for repeat in dict.fromkeys(rows["repeat"])}
    return _cross(rows, "repeat", headers, _band, rows["method"], styles, caption)


def variance_table(rows: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Cross methods with sources of variance, in percent of what is known; all of it together comes last."""
    headers = {source: header_of(source) for source in SOURCES}
    order = list(dict.fromkeys(rows["method"]))
    table = _cross(rows, "source", headers, lambda row: number_cell(row["share"], "share"), order, styles, caption)
    squares = rows["standard_deviation"].astype(float) ** 2
    totals = squares.groupby(rows["method"]).sum(min_count=1) ** 0.5
    lines = [
        (*line, number_cell(totals[method], "standard_deviation"))
        for method, line in zip(order, table.rows, strict=True)
    ]
    return dataclasses.replace(
        table, headers=(*table.headers, "Standard deviation"), rows=tuple(lines), note="— is not measured."
    )


def properties_table(rows: pd.DataFrame, styles: Styles, caption: str) -> Table:
    """Lay properties out as the paper does: a row a property, a column a method, ticks and crosses."""
    methods = list(dict.fromkeys(rows["method"]))
    titles = dict(zip(rows["property"], rows["title"], strict=True))
    found = {(row["property"], row["method"]): row for row in _records(rows)}
    lines = [
        (Cell(text=title, order=title), *(_sign(found.get((key, method))) for method in methods))
        for key, title in titles.items()
    ]
    definitions = dict(zip(rows["title"], rows["how"], strict=True))
    return Table(
        caption=caption,
        headers=("Property", *(styles.get(method, {}).get("label", method) for method in methods)),
        rows=tuple(lines),
        note="✓ has it, ✗ has it not, — the check did not run.",
        footnotes=tuple(f"{title}: {how}" for title, how in definitions.items()),
    )


def _cross(
    rows: pd.DataFrame,
    across: str,
    headers: Mapping[Any, str],
    make_cell: Callable[[Row], Cell],
    order: Iterable[str],
    styles: Styles,
    caption: str,
) -> Table:
    """Make a row a method and a column a value of ``across``; where there is no row, there is a dash."""
    found = {(row["method"], row[across]): row for row in _records(rows)}
    missing = Cell(text=MISSING, is_number=True)
    lines = [
        (
            method_cell(method, styles),
            *(make_cell(found[method, key]) if (method, key) in found else missing for key in headers),
        )
        for method in dict.fromkeys(order)
    ]
    return Table(caption=caption, headers=("Method", *headers.values()), rows=tuple(lines))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _estimate(row: Row, column: str) -> Cell:
    return estimate_cell(row[column], row["low"], row["high"], column)


def _band(row: Row) -> Cell:
    cell = interval_cell(row["null_low"], row["null_high"])
    if cell.order is None:
        return cell
    p_value = format_number(row["p_value"], "p_value")
    text = f"{cell.text} (p {p_value if p_value.startswith('<') else f'= {p_value}'})"
    return Cell(text=text, order=row["p_value"], is_number=True)


def _sign(row: Row | None) -> Cell:
    holds = "not run" if row is None else row["holds"]
    measured = "" if row is None or pd.isna(row["measured"]) else str(row["measured"])
    return Cell(text=SIGNS[holds], order=holds, spoken=holds, title=f"{holds}: {measured}" if measured else holds)
