"""The page's first sentences about the LDS: which method leads, by how much, whether that is real."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.section import Results
from tdabench.drawing.table import sizes_of
from tdabench.drawing.words import judge_difference, write_score


def lead_lds(results: Results) -> list[str]:
    """Say which method leads at the largest size, and then at the others."""
    if "lds" not in results.tables:
        return []
    sizes = sizes_of(results.tables["lds"])
    leaders = {size: _ranked(results, size).iloc[:1].to_dict("records") for size in sizes[1:]}
    parts = [
        f"{results.label(row['method'])} at n = {size:,} ({write_score(row['lds'])})"
        for size, rows in leaders.items()
        for row in rows
    ]
    others = f"Leading at the other sizes: {', '.join(parts)}." if parts else ""
    return [sentence for sentence in (_lead(results, sizes), others) if sentence]


def _lead(results: Results, sizes: list[int]) -> str:
    ranked = _ranked(results, sizes[0]) if sizes else pd.DataFrame()
    if ranked.empty:
        return "No method has an LDS."
    leader, size = ranked.iloc[0], sizes[0]
    name = results.label(leader["method"])
    sentence = f"{name[:1].upper()}{name[1:]} leads at n = {size:,} with an LDS of {write_score(leader['lds'])}"
    share = share_of(leader.to_dict())
    if share is not None:
        sentence += f" ({share:.0%} of the ceiling)".replace("%", "\N{NO-BREAK SPACE}%")
    if len(ranked) == 1:
        return f"{sentence}; no other method has one."
    second, pairs = ranked.iloc[1], results.tables.get("pairs")
    sentence += f", {write_score(leader['lds'] - second['lds'])} above {results.label(second['method'])}"
    return f"{sentence}{judge_difference(pairs, size, leader['method'], second['method'], results.confidence)}."


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
