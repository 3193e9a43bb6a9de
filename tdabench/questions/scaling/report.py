"""What cost against model size shows: tables, figures, and the page's first sentences about it."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import MINUS, Column
from tdabench.drawing.files import write_figures, write_markdown
from tdabench.drawing.section import Results, Shown
from tdabench.drawing.table import declare
from tdabench.experiment.read import Experiment
from tdabench.questions.scaling.costs import BREAK_EVEN, FITS, PREDICTIONS
from tdabench.questions.scaling.figures import plot_break_even, plot_scaling
from tdabench.storage.records import save_json

SCALING = declare(
    "scaling", "experiment size parameters tracked_parameters method queries repeat phase seconds cpu_seconds",
    "peak_host_bytes", Column("base_host_bytes", "Memory before (MB)"), "peak_device_bytes disk_bytes passes draws",
    Column("draw_seconds", "A draw (s)"), Column("draw_cpu_seconds", "A draw, CPU (s)"), "device status",
    digits="%.10g",
)  # fmt: skip
TABLES = (SCALING, FITS, PREDICTIONS, BREAK_EVEN)
NUMBERS = SCALING.names[8:18]


def make_scaling_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of what was measured: one row a run and phase; a run that there is no cost of has a status."""
    table = pd.DataFrame(list(rows), columns=SCALING.names)
    return table.assign(**{name: pd.to_numeric(table[name]).astype(float) for name in NUMBERS})


def write_scaling(
    experiment: Experiment, folder: Path, tables: Mapping[str, pd.DataFrame], record: Mapping[str, Any]
) -> str:
    """Write the tables ``scaling``, ``scaling_fits``, ``scaling_predictions`` and ``break_even``, and the figures.

    Returns:
        The text for a terminal.
    """
    costs, fits, predictions, crossings = (tables[table.name] for table in TABLES)
    summary = write_markdown(folder, "scaling", summarise_scaling(costs, fits))
    save_json(folder / "tables" / "scaling_record.json", {"experiment": experiment}, record)
    figures = {"scaling": plot_scaling(costs, fits, predictions, experiment.data.queries)}
    if len(crossings):
        figures["break_even"] = plot_break_even(costs, crossings)
    write_figures(folder, figures)
    for table in reversed(TABLES):
        table.write(folder, tables[table.name])
    return f"\n{experiment.name}: cost against model size\n\n{summary}\n\nTable: {folder}/tables/scaling.csv\n"


def summarise_scaling(table: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method and phase, seconds at each size, and the exponent with its interval."""
    sizes = table.sort_values("parameters")["size"].unique()
    first = table.groupby("method")["queries"].transform("first")  # the experiment's own number is run first
    rows = []
    for (method, phase), part in table[table["queries"] == first].groupby(["method", "phase"], sort=False):
        row = {"method": method, "phase": phase}
        for size in sizes:
            found = part[part["size"] == size]
            known = found["seconds"].dropna()
            lost = "" if found.empty else found["status"].iloc[0].partition(":")[0]
            row[f"{size} (s)"] = f"{known.mean():,.3g}" if len(known) else lost
        rows.append({**row, "exponent": _exponent(fits, method, phase)})
    return pd.DataFrame(rows)


def _exponent(fits: pd.DataFrame, method: str, phase: str) -> str:
    rows = fits[(fits["method"] == method) & (fits["quantity"] == "seconds") & (fits["against"] == "parameters")]
    # A method with a single phase is fitted in all.
    rows = rows[rows["phase"].isin([phase] if phase in set(rows["phase"]) else ["total"])]
    if rows.empty:
        return "—"
    row = rows.iloc[0]
    interval = "no interval" if pd.isna(row["low"]) else f"{row['low']:.2f} to {row['high']:.2f}"
    return f"{row['exponent']:.2f} ({interval})"


def lead_scaling(results: Results) -> list[str]:
    """Say how each method's time grows with the model, and from how many queries on fitting first is quicker."""
    if "scaling_fits" not in results.tables:
        return []
    sentences = [_growth(results)]
    crossings = results.tables.get("break_even", pd.DataFrame())
    if len(crossings):
        crossings = crossings[crossings["quantity"] == "seconds"]
        largest = crossings[crossings["parameters"] == crossings["parameters"].max()]
        for method, rows in largest.groupby("method", sort=False):
            found = ", ".join(_break_even(row, results) for row in rows.to_dict("records"))
            size = rows["size"].iloc[0]
            sentences.append(f"Queries from which {results.label(method)} is the quicker one at {size}: {found}.")
    return sentences


def _growth(results: Results) -> str:
    fits = results.tables["scaling_fits"]
    rows = fits[(fits["quantity"] == "seconds") & (fits["phase"] == "total") & (fits["against"] == "parameters")]
    # More draws than were made are a prediction.
    rows = rows.sort_values("draws", kind="stable").drop_duplicates("method")
    rows = rows.sort_values("exponent", ascending=False, kind="stable").to_dict("records")
    if not rows:
        return "No method's time was measured at two sizes of the model."
    powers = [
        f"{row['exponent']:.2f} ({_interval(row, results.confidence)}; {row['sizes']:.0f} sizes) for "
        f"{results.label(row['method'])}"
        for row in rows
    ]
    sentence = f"Seconds grow with this power of the model's parameters, the fastest first: {', '.join(powers)}"
    if len(rows) > 1 and rows[0]["low"] <= rows[1]["high"]:  # without an interval neither is said
        sentence += "; the intervals of the first two overlap"
    return f"{sentence}."


def _interval(row: Mapping[str, Any], confidence: float) -> str:
    if pd.isna(row["low"]):
        return "no interval"
    return f"{confidence:.0%} interval {row['low']:.2f} to {row['high']:.2f}".replace("-", MINUS)


def _break_even(row: Mapping[str, Any], results: Results) -> str:
    draws = "" if pd.isna(row["draws"]) else f" with {row['draws']:,.0f} draws"
    return f"against {results.label(row['other'])}{draws} {_queries(row)}"


def _queries(row: Mapping[str, Any]) -> str:
    """Say the first number of queries at which a method is cheaper, and how that is known."""
    low, high = (row.get(name, math.nan) for name in ("low", "high"))
    if pd.notna(row["measured"]):
        return f"{_after(row['measured'])} (measured, between {low:,.0f} and {high:,.0f})"
    predicted = "none" if pd.isna(row["predicted"]) else _after(row["predicted"])
    if pd.isna(low):
        return f"{predicted} (predicted)"
    if pd.isna(high):
        return f"{predicted} (predicted; not at {low:,.0f}, measured)"
    return f"{high:,.0f} or fewer (measured)"


def _after(crossing: float) -> str:
    return f"{math.floor(crossing) + 1:,}"


SHOWN = Shown(package=__package__, tables=TABLES, lead=lead_scaling)
