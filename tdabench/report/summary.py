"""The page's first sentences: which method leads, by how much, whether that is real, and what went wrong."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.report.cells import Styles, at, format_number


def summarise(tables: Mapping[str, pd.DataFrame], styles: Styles, confidence: float) -> list[str]:
    """Answer each question that the experiment asked, in a sentence or two."""
    sentences = []
    if "lds" in tables:
        sentences.append(summarise_lead(tables["lds"], tables.get("pairs"), styles, confidence))
        sentences.append(summarise_other_sizes(tables["lds"], styles))
    if "removal" in tables:
        sentences.append(summarise_removal(tables["removal"], styles))
    if "detection" in tables:
        sentences.append(summarise_detection(tables["detection"], styles))
    return [sentence for sentence in sentences if sentence]


def summarise_removal(removal: pd.DataFrame, styles: Styles) -> str:
    """Say whose most helpful examples are missed most, at the largest size and count."""
    rows = _last(removal)
    rows = rows[(rows["count"] == rows["count"].max()) & rows["effect"].notna()]
    if rows.empty:
        return ""
    best = rows.loc[rows["effect"].idxmax()]
    return (
        f"Without the {best['count']} examples that {_label(best['method'], styles)} calls most helpful, a query's "
        f"loss rises by {_score(best['effect'])} nats more than without random ones of the same classes "
        f"(interval {_score(best['low'])} to {_score(best['high'])}; n = {best['train_size']:,})."
    )


def summarise_detection(detection: pd.DataFrame, styles: Styles) -> str:
    """Say which method's suspicion finds the planted wrong labels best, at the largest size."""
    rows = _last(detection)
    rows = rows[rows["auc"].notna()]
    if rows.empty:
        return ""
    best = rows.loc[rows["auc"].idxmax()]
    return (
        f"Planted wrong labels are found best by {_label(best['method'], styles)} "
        f"({best['detector'].replace('_', ' ')}), with an area under the ROC curve of {_score(best['auc'])} "
        f"(interval {_score(best['low'])} to {_score(best['high'])}; n = {best['train_size']:,})."
    )


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows over repeats of the largest size."""
    return at(table, train_size=table["train_size"].max())


def summarise_lead(lds: pd.DataFrame, pairs: pd.DataFrame | None, styles: Styles, confidence: float) -> str:
    """Say in one sentence which method leads at the largest size, by how much, and whether the difference is real."""
    sizes = sizes_of(lds)
    ranked = rank(lds, sizes[0]) if sizes else pd.DataFrame()
    ranked = ranked[ranked["lds"].notna()] if len(ranked) else ranked
    if ranked.empty:
        return "No method has an LDS."
    leader, place = ranked.iloc[0], f"n = {sizes[0]:,}"
    name = _label(leader["method"], styles)
    sentence = f"{name[:1].upper()}{name[1:]} leads at {place} with an LDS of {_score(leader['lds'])}"
    sentence += _share_of_ceiling(leader)
    if len(ranked) == 1:
        return f"{sentence}; no other method has one."
    second = ranked.iloc[1]
    gap = _score(leader["lds"] - second["lds"])
    sentence += f", {gap} above {_label(second['method'], styles)}"
    return f"{sentence}{_verdict(pairs, sizes[0], leader['method'], second['method'], confidence)}."


def summarise_other_sizes(lds: pd.DataFrame, styles: Styles) -> str:
    """Say which method leads at each of the other sizes."""
    parts = []
    for size in sizes_of(lds)[1:]:
        ranked = rank(lds, size)
        ranked = ranked[ranked["lds"].notna()]
        if len(ranked):
            leader = ranked.iloc[0]
            parts.append(f"{_label(leader['method'], styles)} at n = {size:,} ({_score(leader['lds'])})")
    return f"Leading at the other sizes: {', '.join(parts)}." if parts else ""


def sizes_of(lds: pd.DataFrame) -> list[int]:
    """Give the sizes of the attribution set, largest first."""
    return sorted((int(size) for size in lds["train_size"].unique()), reverse=True)


def rank(lds: pd.DataFrame, size: int) -> pd.DataFrame:
    """Give a size's rows over repeats, best first, what is missing last."""
    return at(lds, train_size=size).sort_values("lds", ascending=False, na_position="last", kind="stable")


def list_warnings(tables: dict[str, pd.DataFrame], styles: Styles) -> list[str]:
    """List every status that is not ``ok``, and queries left out: each text once, with where it was."""
    places: dict[tuple[str, str], list[str]] = {}
    for table in tables.values():
        keys = [name for name in ("repeat", "train_size") if name in table.columns]
        for row in _one_by_one(table).to_dict("records"):
            for text in _complaints(row):
                where = ", ".join(f"{'n =' if key == 'train_size' else 'repeat'} {row[key]}" for key in keys)
                found = places.setdefault((_label(str(row.get("method", "")), styles), text), [])
                if where not in found:
                    found.append(where)
    lines = []
    for (method, text), where in places.items():
        found = "; ".join(place for place in where if place)
        lines.append(f"{method or 'The experiment'}{f' ({found})' if found else ''}: {text}")
    return lines


def _complaints(row: dict[str, Any]) -> list[str]:
    status, left_out = row.get("status"), row.get("nan_queries")
    found = [] if status is None or pd.isna(status) or status == "ok" else [str(status)]
    warning = row.get("warning")  # of the diagnostics
    found += [] if warning is None or pd.isna(warning) or not warning else [str(warning)]
    if left_out is not None and pd.notna(left_out) and left_out > 0:
        found.append(f"{int(left_out)} of {int(row['queries'])} queries have a constant score or loss and are left out")
    return found


def _one_by_one(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of single repeats, or those over repeats if there are no others."""
    if "repeat" not in table.columns:
        return table
    single = table[table["repeat"] != "all"]
    return single if len(single) else table


def _verdict(pairs: pd.DataFrame | None, size: int, leader: str, second: str, confidence: float) -> str:
    """Say whether a difference is real, if the table of pairs has it."""
    rows = at(pairs, train_size=size)
    found = rows[rows["first"].isin([leader, second]) & rows["second"].isin([leader, second])] if len(rows) else rows
    if len(found) != 1:
        return ""
    row = found.iloc[0]
    p_value = row.get("p_holm", math.nan)
    if pd.notna(p_value):
        is_real, because = p_value < 1 - confidence, f"paired, {_p_text(p_value)} after Holm's correction"
    else:
        bounds = next(
            (
                (row[low], row[high])
                for low, high in (("low", "high"), ("bootstrap_low", "bootstrap_high"))
                if low in row and pd.notna(row[low]) and pd.notna(row[high])
            ),
            None,
        )
        if bounds is None:
            return ""
        # The table's first may be the second here: then the interval is the other way round.
        low, high = bounds if row["first"] == leader else (-bounds[1], -bounds[0])
        is_real = low > 0
        because = f"paired interval {_score(low)} to {_score(high)}"
    verdict = "a difference that is more than chance" if is_real else "a difference that may be chance"
    return f": {verdict} ({because})"


def _p_text(p_value: float) -> str:
    text = format_number(p_value, "p_value")
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _share_of_ceiling(row: pd.Series) -> str:
    if pd.isna(row.get("ceiling")) or row["ceiling"] <= 0:
        return ""
    return f" ({row['lds'] / row['ceiling']:.0%} of the ceiling)".replace("%", "\N{NO-BREAK SPACE}%")


def _score(value: float) -> str:
    return format_number(value, "lds")


def _label(method: str, styles: Styles) -> str:
    return styles.get(method, {}).get("label", method)
