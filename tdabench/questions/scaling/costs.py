"""Tables of what a scaling experiment's costs say: fitted exponents, predictions, and break-even queries."""

import itertools
import math
import statistics
from collections.abc import Iterator
from typing import Any

import pandas as pd

from tdabench.drawing.table import declare
from tdabench.questions.scaling.laws import (
    PowerLaw,
    Prediction,
    find_break_even,
    fit_power_law,
    hold_out_largest,
    predict_break_even,
)

# Columns of a cost that is fitted against size. ``host_bytes`` is the peak above what was resident before the model.
QUANTITIES = ("seconds", "cpu_seconds", "host_bytes", "peak_device_bytes", "disk_bytes")
TIMES = ("seconds", "cpu_seconds")
AGAINST = ("parameters", "tracked_parameters")
TOTAL = "total"

FITS, PREDICTIONS, BREAK_EVEN = (
    declare(name, columns, digits="%.10g")
    for name, columns in (
        (
            "scaling_fits",
            "method phase quantity draws against exponent low high coefficient sizes held_out predicted predicted_low "
            "predicted_high measured",
        ),
        (
            "scaling_predictions",
            "method size parameters tracked_parameters phase quantity draws against predicted predicted_low "
            "predicted_high",
        ),
        ("break_even", "size parameters method other draws quantity predicted measured low high verdict"),
    )
)
RUN = ["method", "size", "parameters", "tracked_parameters", "queries", "repeat"]


def total_costs(table: pd.DataFrame, draws: int | None = None) -> pd.DataFrame:
    """Return each run's cost by phase and, as phase ``total``, in all; ``host_bytes`` beside what the table has.

    Args:
        draws: Give what the runs would cost with so many draws, instead of those that they made, where they made any.
    """
    known = table[table["seconds"].notna()].copy()
    known["host_bytes"] = known["peak_host_bytes"] - known["base_host_bytes"]
    peaks = ["host_bytes", "peak_device_bytes"]
    sums = [*TIMES, "disk_bytes"]
    how = dict.fromkeys(peaks, "max") | dict.fromkeys(sums, "sum")
    how |= dict.fromkeys(["draws", "draw_seconds", "draw_cpu_seconds"], "first")
    total = known.groupby(RUN, as_index=False, sort=False).agg(how).assign(phase=TOTAL)
    both = pd.concat([known, total], ignore_index=True)[[*RUN, "phase", *how]]
    if draws is None:
        return both
    both = both[both["draws"].notna() & both["phase"].isin([TOTAL])].copy()
    for column, more in zip(TIMES, ("draw_seconds", "draw_cpu_seconds"), strict=True):
        both[column] += (draws - both["draws"]) * both[more]
    return both.assign(draws=draws, **dict.fromkeys([*peaks, "disk_bytes"], math.nan))


def fit_costs(table: pd.DataFrame, *, queries: int, draws: int | None, confidence: float) -> pd.DataFrame:
    """Fit every cost against size, and check it by the largest size, predicted from the others.

    Args:
        table: As ``make_scaling_table`` gives it.
        queries: Number of queries of the runs that are fitted.
        draws: Fit also what so many draws would take.
    """
    rows = []
    for place, rows_of, against, law in _laws(table, queries, draws, confidence):
        row = {**place, "against": against, "exponent": law.exponent, "sizes": law.points, "low": law.low}
        row |= {"high": law.high, "coefficient": law.predict(1.0, confidence).value}
        held_out = hold_out_largest(*_sizes_and_costs(rows_of, place, against), confidence=confidence)
        if held_out is not None:
            size, found = held_out
            largest = rows_of[rows_of[against] == size]
            row |= {"held_out": largest["size"].iloc[0], "measured": largest[place["quantity"]].mean(), **_told(found)}
        rows.append(row)
    return FITS.frame(rows)


def predict_costs(
    table: pd.DataFrame, unseen: pd.DataFrame, *, queries: int, draws: int | None, confidence: float
) -> pd.DataFrame:
    """Predict the cost of sizes that were not run.

    Args:
        table: As ``make_scaling_table`` gives it.
        unseen: ``method``, ``size``, ``parameters`` and ``tracked_parameters`` of what is predicted.
    """
    rows = [
        {**size, **place, "against": against, **_told(law.predict(float(size[against]), confidence))}
        for place, _, against, law in _laws(table, queries, draws, confidence)
        for size in unseen.to_dict("records")
        if size["method"] == place["method"]
    ]
    return PREDICTIONS.frame(rows)


def break_evens(table: pd.DataFrame, *, draws: int | None) -> pd.DataFrame:
    """Find from how many queries on each method that is fitted first is cheaper than each that is not.

    ``predicted`` is where the lines through the measured costs cross, ``measured`` where the costs themselves do: in
    between two numbers of queries that were run, ``low`` and ``high``. With other draws than were made, only a
    prediction is to be had.
    """
    fitted = table.loc[(table["phase"] == "fit") & (table["seconds"] > 0), "method"].unique()
    rows = []
    for made in (None, draws) if draws else (None,):
        costs, others = (frame[frame["phase"] == TOTAL] for frame in (total_costs(table), total_costs(table, made)))
        names = others.loc[~others["method"].isin(fitted), "method"].unique()
        for size, method, other in itertools.product(costs["size"].unique(), fitted, names):
            pair = [at[(at["size"] == size) & (at["method"] == one)] for at, one in ((costs, method), (others, other))]
            if any(part["queries"].nunique() < 2 for part in pair):
                continue
            place = {"size": size, "parameters": pair[0]["parameters"].iloc[0], "method": method, "other": other}
            place["draws"] = pair[1]["draws"].iloc[0]
            for quantity in TIMES:
                found = _break_even(*pair, quantity, is_measured=made is None)
                rows.append({**place, "quantity": quantity, **found})
    return BREAK_EVEN.frame(rows)


def _break_even(fitted: pd.DataFrame, other: pd.DataFrame, quantity: str, *, is_measured: bool) -> dict[str, Any]:
    means = [part.groupby("queries")[quantity].mean() for part in (fitted, other)]
    shared = sorted(set(means[0].index) & set(means[1].index))
    predicted = predict_break_even(
        *(statistics.linear_regression(mean.index.tolist(), mean.tolist()) for mean in means)
    )
    verdict = "never cheaper for good: a query costs more"
    if math.isfinite(predicted):
        verdict = "cheaper from some query on" if predicted else "cheaper from the first query on"
    row = {"predicted": predicted if math.isfinite(predicted) else math.nan, "verdict": verdict}
    if not is_measured or not shared:
        return row
    value, low, high = find_break_even(shared, *([float(mean[count]) for count in shared] for mean in means))
    return {**row, "measured": value, "low": low, "high": high if math.isfinite(high) else math.nan}


def _told(found: Prediction) -> dict[str, float]:
    return {"predicted": found.value, "predicted_low": found.low, "predicted_high": found.high}


def _sizes_and_costs(rows: pd.DataFrame, place: dict[str, Any], against: str) -> tuple[list[float], list[float]]:
    sizes, costs = (rows[column].astype(float).tolist() for column in (against, place["quantity"]))
    return sizes, costs


def _laws(
    table: pd.DataFrame, queries: int, draws: int | None, confidence: float
) -> Iterator[tuple[dict[str, Any], pd.DataFrame, str, PowerLaw]]:
    """Return every cost that has a law: which it is, its rows, against what it is fitted, and the law."""
    for made in (None, draws) if draws else (None,):
        costs = total_costs(table, made)
        costs = costs[costs["queries"] == queries]
        for (method, phase), rows in costs.groupby(["method", "phase"], sort=False):
            # A single phase and the total are one.
            if phase != TOTAL and costs.loc[costs["method"] == method, "phase"].nunique() < 3:
                continue
            for quantity, against in itertools.product(QUANTITIES if phase == TOTAL else TIMES, AGAINST):
                place = {"method": method, "phase": phase, "quantity": quantity, "draws": rows["draws"].iloc[0]}
                law = fit_power_law(*_sizes_and_costs(rows, place, against), confidence=confidence)
                if law is not None:
                    yield place, rows, against, law
