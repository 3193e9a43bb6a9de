"""Sentences that several questions say alike: an interval, and whether a difference is real."""

import math

import pandas as pd

from tdabench.drawing.columns import format_number
from tdabench.drawing.table import at

# By this a status says where the numbers are: the page, which has both, lists the diagnostics' own sentences alone.
SEE = "(see diagnostics)"


def drop_warning(status: str) -> str:
    """Return a status without what the table of diagnostics says at length."""
    return "; ".join(part for part in status.split("; ") if not part.endswith(SEE))


def write_score(value: float) -> str:
    """Write a score with three decimals."""
    return format_number(value, "score")


def write_interval(row: pd.Series, confidence: float) -> str:
    """Say a row's interval in words."""
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return "no interval"
    return f"{confidence:.0%} interval {write_score(row['low'])} to {write_score(row['high'])}"


def judge_difference(pairs: pd.DataFrame | None, size: int, leader: str, second: str, confidence: float) -> str:
    """Say whether a difference is real, if the table of pairs has it."""
    rows = at(pairs, train_size=size)
    found = rows[rows["first"].isin([leader, second]) & rows["second"].isin([leader, second])] if len(rows) else rows
    if len(found) != 1:
        return ""
    row = found.iloc[0]
    p_value = row.get("p_holm", math.nan)
    if pd.notna(p_value):
        text = format_number(p_value, "p")
        said = f"p {text}" if text.startswith("<") else f"p = {text}"
        is_real, because = p_value < 1 - confidence, f"paired, {said} after Holm's correction"
    else:
        ends = (("low", "high"), ("bootstrap_low", "bootstrap_high"))
        known = [(row[low], row[high]) for low, high in ends if pd.notna(row.get(low)) and pd.notna(row.get(high))]
        if not known:
            return ""
        # The table's first may be the second here: then the interval is the other way round.
        low, high = known[0] if row["first"] == leader else (-known[0][1], -known[0][0])
        is_real = low > 0
        because = f"paired interval {write_score(low)} to {write_score(high)}"
    verdict = "a difference that is more than chance" if is_real else "a difference that may be chance"
    return f": {verdict} ({because})"
