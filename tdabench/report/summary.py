"""The page's first sentences: which method leads, by how much, whether that is real, and what went wrong."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tdabench.drawing.columns import format_number
from tdabench.drawing.html import Styles, at
from tdabench.questions.detection.report import DETECTORS
from tdabench.questions.diagnostics.report import drop_warning
from tdabench.questions.scaling.lead import summarise_cost


def summarise(tables: Mapping[str, pd.DataFrame], styles: Styles, confidence: float) -> list[str]:
    """Answer each question that the experiment asked, in a sentence or two."""
    sentences = []
    if "lds" in tables:
        sentences.append(summarise_lead(tables, styles, confidence))
        sentences.append(summarise_other_sizes(tables["lds"], styles))
    if "removal" in tables:
        sentences.append(summarise_removal(tables["removal"], tables.get("removal_differences"), styles, confidence))
    if "detection" in tables:
        sentences.append(summarise_detection(tables["detection"], styles, confidence))
    if "scaling_fits" in tables:
        sentences += summarise_cost(tables, styles, confidence)
    return [sentence for sentence in sentences if sentence]


def summarise_removal(
    removal: pd.DataFrame, differences: pd.DataFrame | None, styles: Styles, confidence: float
) -> str:
    """Say whose most helpful examples are missed most, at the largest size and count, and whether that is real."""
    rows = _last(removal)
    rows = rows[(rows["count"] == rows["count"].max()) & rows["effect"].notna()]
    rows = rows.sort_values("effect", ascending=False, kind="stable")
    if rows.empty:
        return "No method has removals."
    best, count = rows.iloc[0], int(rows["count"].iloc[0])
    examples = "the example" if count == 1 else f"the {count:,} examples"
    sentence = (
        f"Without {examples} that {_label(best['method'], styles)} calls most helpful for it, a query's loss is "
        f"{_score(best['effect'])} nats higher than without as many random ones of the same classes "
        f"({_interval(best, confidence)}; n = {best['train_size']:,})"
    )
    if len(rows) == 1:
        return f"{sentence}."
    second = rows.iloc[1]
    pairs = at(differences, train_size=best["train_size"], count=count)
    if len(pairs):
        pairs = pairs.assign(first=pairs["method"], second=pairs["other"])
    gap = _score(best["effect"] - second["effect"])
    verdict = _verdict(pairs, int(best["train_size"]), best["method"], second["method"], confidence)
    return f"{sentence}: {gap} more than {_label(second['method'], styles)}{verdict.replace(': ', ', ', 1)}."


def summarise_detection(detection: pd.DataFrame, styles: Styles, confidence: float) -> str:
    """Say which method finds the planted wrong labels best, at the largest size, beside the models' own loss."""
    rows = _last(detection)
    rows = rows[rows["auc"].notna()].sort_values("auc", ascending=False, kind="stable")
    alone, methods = (rows[found] for found in (rows["detector"] == "loss", rows["detector"] != "loss"))
    loss = f"the loss alone has {_score(alone['auc'].iloc[0])}" if len(alone) else ""
    if methods.empty:
        return f"No method ranks the planted wrong labels{f'; {loss}' if loss else ''}."
    best = methods.iloc[0]
    sentence = (
        f"Of all methods, {_label(best['method'], styles)} finds the planted wrong labels best, by its "
        f"{DETECTORS[best['detector']]}, with an area under the ROC curve of {_score(best['auc'])} "
        f"({_interval(best, confidence)}; n = {best['train_size']:,})"
    )
    return f"{sentence}; {loss}." if loss else f"{sentence}."


def _interval(row: pd.Series, confidence: float) -> str:
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return "no interval"
    return f"{confidence:.0%} interval {_score(row['low'])} to {_score(row['high'])}"


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows over repeats of the largest size."""
    return at(table, train_size=table["train_size"].max())


def summarise_lead(tables: Mapping[str, pd.DataFrame], styles: Styles, confidence: float) -> str:
    """Say in one sentence which method leads at the largest size, by how much, and whether the difference is real."""
    sizes = sizes_of(tables["lds"])
    ranked = rank(tables["lds"], sizes[0], tables.get("ranking")) if sizes else pd.DataFrame()
    ranked = ranked[ranked["lds"].notna()] if len(ranked) else ranked
    if ranked.empty:
        return "No method has an LDS."
    leader, place = ranked.iloc[0], f"n = {sizes[0]:,}"
    name = _label(leader["method"], styles)
    sentence = f"{name[:1].upper()}{name[1:]} leads at {place} with an LDS of {_score(leader['lds'])}"
    share = share_of(leader.to_dict())
    if share is not None:
        sentence += f" ({share:.0%} of the ceiling)".replace("%", "\N{NO-BREAK SPACE}%")
    if len(ranked) == 1:
        return f"{sentence}; no other method has one."
    second = ranked.iloc[1]
    gap = _score(leader["lds"] - second["lds"])
    sentence += f", {gap} above {_label(second['method'], styles)}"
    return f"{sentence}{_verdict(tables.get('pairs'), sizes[0], leader['method'], second['method'], confidence)}."


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
    """Return the sizes of the attribution set, largest first."""
    return sorted((int(size) for size in lds["train_size"].unique()), reverse=True)


def rank(lds: pd.DataFrame, size: int, ranking: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a size's rows over repeats, best first, what is missing last; with what else a ranking says of each."""
    rows = at(lds, train_size=size).sort_values("lds", ascending=False, na_position="last", kind="stable")
    also = at(ranking, train_size=size)
    added = [column for column in also.columns if column not in rows.columns]
    return rows.merge(also[["method", *added]], on="method", how="left") if len(also) else rows


def share_of(row: Mapping[str, Any]) -> float | None:
    """Return the share of the ceiling that an LDS reaches, as the ranking has it or from the means; none if unknown."""
    share, ceiling = row.get("share_of_ceiling"), row.get("ceiling")
    if share is not None and pd.notna(share):
        return share
    return row["lds"] / ceiling if ceiling is not None and pd.notna(ceiling) and ceiling > 0 else None


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
    status = "ok" if status is None or pd.isna(status) else drop_warning(str(status))
    found = [] if status == "ok" else [status]
    warning = row.get("warning")  # of the diagnostics
    found += [] if warning is None or pd.isna(warning) or not warning else [str(warning)]
    if left_out is not None and pd.notna(left_out) and left_out > 0:
        found.append(f"{int(left_out)} of {int(row['queries'])} queries have a constant score or loss and are left out")
    return found


def _one_by_one(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single repeats, or those over repeats if there are no others."""
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


def _score(value: float) -> str:
    return format_number(value, "lds")


def _label(method: str, styles: Styles) -> str:
    return styles.get(method, {}).get("label", method)
