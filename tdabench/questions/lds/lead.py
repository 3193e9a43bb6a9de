"""The page's first sentences about the LDS: which method leads, by how much, whether that is real."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.section import Results
from tdabench.drawing.table import sizes_of
from tdabench.drawing.words import judge_difference, write_score
from tdabench.evaluation.pairs import share_the_lead


def lead_lds(results: Results) -> list[str]:
    """Say which method leads at the largest size, and then at the others; it leads if every other is told from it."""
    if "lds" not in results.tables:
        return []
    sizes = sizes_of(results.tables["lds"])
    others = [said for size in sizes[1:] if (said := _lead_in_short(results, size))]
    more = f"At the other sizes: {'; '.join(others)}." if others else ""
    return [sentence for sentence in (_lead(results, sizes), more) if sentence]


def _leaders(results: Results, size: int) -> list[str]:
    """Return the method with the highest LDS and those that are not told from it, best first."""
    means = _ranked(results, size).set_index("method")["lds"].to_dict()
    best, pairs = list(means)[:1], results.at("pairs", train_size=size).to_dict("records")
    known = [row.get("p_holm", math.nan) for row in pairs if {row["first"], row["second"]} & set(best)]
    if not known or any(map(math.isnan, known)):  # nothing tells: what is said of the second must do
        return best
    return share_the_lead(means, pairs, confidence=results.confidence)


def _lead_in_short(results: Results, size: int) -> str:
    leaders = _leaders(results, size)
    if not leaders:
        return ""
    best = write_score(_ranked(results, size)["lds"].iloc[0])
    first = results.label(leaders[0])
    if len(leaders) > 1:
        return (
            f"{first} has the highest LDS at n = {size:,} ({best}), not told apart from {_list(results, leaders[1:])}"
        )
    return f"{first} leads at n = {size:,} ({best})"


def _lead(results: Results, sizes: list[int]) -> str:
    ranked = _ranked(results, sizes[0]) if sizes else pd.DataFrame()
    if ranked.empty:
        return "No method has an LDS."
    leader, size, leaders = ranked.iloc[0], sizes[0], _leaders(results, sizes[0])
    share = share_of(leader.to_dict())
    of_ceiling = "" if share is None else f" ({share:.0%} of the ceiling)".replace("%", "\N{NO-BREAK SPACE}%")
    if len(leaders) > 1:
        name, others = results.label(leader["method"]), _list(results, leaders[1:])
        return (
            f"{name[:1].upper()}{name[1:]} has the highest LDS at n = {size:,}, {write_score(leader['lds'])}"
            f"{of_ceiling}, and shares the lead with {others}: they are not told apart from it (paired, Holm's "
            "correction)."
        )
    name = results.label(leader["method"])
    sentence = f"{name[:1].upper()}{name[1:]} leads at n = {size:,} with an LDS of {write_score(leader['lds'])}"
    sentence += of_ceiling
    if len(ranked) == 1:
        return f"{sentence}; no other method has one."
    second, pairs = ranked.iloc[1], results.tables.get("pairs")
    sentence += f", {write_score(leader['lds'] - second['lds'])} above {results.label(second['method'])}"
    return f"{sentence}{judge_difference(pairs, size, leader['method'], second['method'], results.confidence)}."


def _list(results: Results, methods: list[str]) -> str:
    *first, last = map(results.label, methods)
    return f"{', '.join(first)} and {last}" if first else last


def _ranked(results: Results, size: int) -> pd.DataFrame:
    rows = rank(results, size)
    return rows[rows["lds"].notna()]


def rank(results: Results, size: int) -> pd.DataFrame:
    """Return a size's rows over repeats, best first, what is missing last; with what the ranking says of each."""
    rows = results.at("lds", train_size=size).sort_values("lds", ascending=False, na_position="last", kind="stable")
    also = results.at("ranking", train_size=size)
    added = [column for column in also.columns if column not in rows.columns]
    return rows.merge(also[["method", *added]], on="method", how="left") if len(also) else rows


def share_of(row: Mapping[str, Any]) -> float | None:
    """Return the share of the ceiling that an LDS reaches, as the ranking has it or from the means; none if unknown."""
    share, ceiling = row.get("share_of_ceiling"), row.get("ceiling")
    if share is not None and pd.notna(share):
        return share
    return row["lds"] / ceiling if ceiling is not None and pd.notna(ceiling) and ceiling > 0 else None
