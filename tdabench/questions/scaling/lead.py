"""The page's first sentences about cost against model size: whose grows fastest, and from when on a fit pays."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.html import Styles


def summarise_cost(tables: Mapping[str, pd.DataFrame], styles: Styles, confidence: float) -> list[str]:
    """Say how each method's time grows with the model, and from how many queries on fitting first is quicker.

    Args:
        tables: With ``scaling_fits``, and ``break_even`` where both kinds of methods were run.
    """
    sentences = [_growth(tables["scaling_fits"], styles, confidence)]
    crossings = tables.get("break_even", pd.DataFrame())
    if len(crossings):
        crossings = crossings[crossings["quantity"] == "seconds"]
        largest = crossings[crossings["parameters"] == crossings["parameters"].max()]
        for method, rows in largest.groupby("method", sort=False):
            found = ", ".join(_break_even(row, styles) for row in rows.to_dict("records"))
            size = rows["size"].iloc[0]
            sentences.append(f"Queries from which {_label(method, styles)} is the quicker one at {size}: {found}.")
    return sentences


def _growth(fits: pd.DataFrame, styles: Styles, confidence: float) -> str:
    rows = fits[(fits["quantity"] == "seconds") & (fits["phase"] == "total") & (fits["against"] == "parameters")]
    # More draws than were made are a prediction.
    rows = rows.sort_values("draws", kind="stable").drop_duplicates("method")
    rows = rows.sort_values("exponent", ascending=False, kind="stable").to_dict("records")
    if not rows:
        return "No method's time was measured at two sizes of the model."
    powers = [
        f"{row['exponent']:.2f} ({_interval(row, confidence)}; {row['sizes']:.0f} sizes) for "
        f"{_label(row['method'], styles)}"
        for row in rows
    ]
    sentence = f"Seconds grow with this power of the model's parameters, the fastest first: {', '.join(powers)}"
    if len(rows) > 1 and rows[0]["low"] <= rows[1]["high"]:  # without an interval neither is said
        sentence += "; the intervals of the first two overlap"
    return f"{sentence}."


def _interval(row: Mapping[str, Any], confidence: float) -> str:
    if pd.isna(row["low"]):
        return "no interval"
    return f"{confidence:.0%} interval {row['low']:.2f} to {row['high']:.2f}".replace("-", "\N{MINUS SIGN}")


def _break_even(row: Mapping[str, Any], styles: Styles) -> str:
    draws = "" if pd.isna(row["draws"]) else f" with {row['draws']:,.0f} draws"
    return f"against {_label(row['other'], styles)}{draws} {_queries(row)}"


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


def _label(method: str, styles: Styles) -> str:
    return styles.get(method, {}).get("label", method)
