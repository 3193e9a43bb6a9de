"""Tidy tables of the stage `compare`: who differs from whom, how far a bank agrees with itself, what chance reaches."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

Place = tuple[int, int]  # repeat, train size
Comparisons = Mapping[Place, Mapping[str, Any]]

PLACE = ("experiment", "repeat", "train_size")
PAIR_COLUMNS = (
    *PLACE, "first", "second", "difference", "low", "high", "p_value", "p_holm", "bootstrap_low", "bootstrap_high",
)  # fmt: skip
RELIABILITY_COLUMNS = (
    *PLACE, "retrains", "subsets", "agreement", "agreement_low", "agreement_high", "ceiling", "ceiling_low",
    "ceiling_high", "diverged_retrains", "oracle", "oracle_low", "oracle_high",
)  # fmt: skip
NULL_COLUMNS = (*PLACE, "method", "null_low", "null_high", "p_value")
VARIANCE_COLUMNS = (*PLACE, "method", "source", "standard_deviation", "share")
RANKING_COLUMNS = (*PLACE, "method", "lds", "group", "share_of_ceiling", "share_low", "share_high")
SOURCES = ("queries", "subsets", "retrains", "checkpoint", "sampler")


def make_comparison_tables(
    name: str, comparisons: Comparisons, compare_repeats: Callable[..., Any], over_repeats: Callable[..., Any]
) -> dict[str, pd.DataFrame]:
    """Make the tables by name: ``pairs``, ``ranking``, ``reliability``, ``null`` and ``variance``.

    Rows of one repeat have the bootstrap's intervals. Rows ``all`` are over repeats: Student's t (with a single
    repeat, that repeat's own), and for pairs also the bootstrap for these repeats.

    Args:
        comparisons: Contents of ``comparison.json`` by repeat and train size.
        compare_repeats: ``(comparisons of one size, confidence) -> (rows of pairs, ranking)``.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
    """
    sizes = list(dict.fromkeys(size for _, size in comparisons))
    same = {size: [part for (_, other), part in comparisons.items() if other == size] for size in sizes}
    overall = {size: compare_repeats(parts, parts[0]["confidence"]) for size, parts in same.items()}
    pairs = _collect(name, comparisons, lambda part: part["pairs"])
    pairs += [_place(name, "all", size, row) for size in sizes for row in overall[size][0]]
    rankings = _collect(name, comparisons, _rank_with_shares)
    rankings += [
        _place(name, "all", size, {**row, **_share_over(same[size], row["method"], over_repeats)})
        for size in sizes
        for row in overall[size][1]
    ]
    reliability = _collect(name, comparisons, lambda part: [{**part, **part["reliability"]}])
    reliability += [_place(name, "all", size, _reliability_over(same[size], over_repeats)) for size in sizes]
    variance = _collect(name, comparisons, lambda part: _variance_rows([part]))
    variance += [_place(name, "all", size, row) for size in sizes for row in _variance_rows(same[size])]
    return {
        "pairs": _table(pairs, PAIR_COLUMNS),
        "ranking": _table(rankings, RANKING_COLUMNS),
        "reliability": _table(reliability, RELIABILITY_COLUMNS),
        "null": _table(_collect(name, comparisons, _null_rows), NULL_COLUMNS),
        "variance": _table(variance, VARIANCE_COLUMNS),
    }


def describe_ranking(ranking: pd.DataFrame) -> list[str]:
    """Say in a line a size which methods are told apart."""
    overall = ranking[(ranking["repeat"] == "all") & ranking["lds"].notna()]
    return [
        f"n = {size}: " + ", ".join(f"{row.method} {row.group}" for row in rows.itertuples())
        for size, rows in overall.groupby("train_size")
    ]


def find_tied(ranking: pd.DataFrame) -> dict[int, set[str]]:
    """Give, by size, the methods that are not told apart from the best one, over repeats."""
    overall = ranking[(ranking["repeat"] == "all") & ranking["lds"].notna()]
    tied = {}
    for size, rows in overall.groupby("train_size"):
        best = rows.loc[rows["lds"].astype(float).idxmax()]
        shares = rows["group"].map(lambda group, letters=set(best["group"]): bool(letters & set(group)))
        tied[int(size)] = set(rows.loc[shares, "method"]) - {best["method"]}
    return tied


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype({"repeat": str})


def _collect(name: str, comparisons: Comparisons, rows_of: Callable[..., Iterable[Mapping[str, Any]]]) -> list[Any]:
    return [_place(name, repeat, size, row) for (repeat, size), part in comparisons.items() for row in rows_of(part)]


def _place(name: str, repeat: int | str, size: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "experiment": name, "repeat": repeat, "train_size": size}


def _rank_with_shares(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    methods = part["methods"]
    return [
        {**row, "share_of_ceiling": methods[row["method"]]["share"]}
        | {end: methods[row["method"]][end] for end in ("share_low", "share_high")}
        for row in part["ranking"]
    ]


def _share_over(
    parts: list[Mapping[str, Any]], method: str, over_repeats: Callable[..., Any]
) -> dict[str, float | None]:
    """Average the shares of the ceiling over repeats that have one; a single repeat keeps its bootstrap interval."""
    known = [part["methods"][method] for part in parts if method in part["methods"]]
    known = [found for found in known if found["share"] is not None and not math.isnan(found["share"])]
    if not known:
        return {}
    if len(parts) == 1:
        return {"share_of_ceiling": known[0]["share"]} | {end: known[0][end] for end in ("share_low", "share_high")}
    interval = over_repeats([found["share"] for found in known], parts[0]["confidence"])
    return {"share_of_ceiling": interval.mean, "share_low": interval.low, "share_high": interval.high}


def _null_rows(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a method; those that can't run have no numbers."""
    return [{"method": name, **method} for name, method in part["methods"].items()] + [
        {"method": name} for name in part["unsupported"]
    ]


def _reliability_over(parts: list[Mapping[str, Any]], over_repeats: Callable[..., Any]) -> dict[str, Any]:
    if len(parts) == 1:
        return {**parts[0], **parts[0]["reliability"]}
    row: dict[str, Any] = {
        "retrains": parts[0]["retrains"],
        "subsets": sum(part["subsets"] for part in parts),
        "diverged_retrains": sum(part["diverged_retrains"] for part in parts),
    }
    for name in ("agreement", "ceiling", "oracle"):
        values = [part["reliability"][name] for part in parts]
        known = [value for value in values if value is not None]
        if known:
            interval = over_repeats(known, parts[0]["confidence"])
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _variance_rows(parts: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Divide each method's variance, averaged over the parts that know it; what is unknown has no share."""
    rows = []
    for method in dict.fromkeys(name for part in parts for name in part["methods"]):
        known = [part["methods"][method]["variance"] for part in parts if method in part["methods"]]
        means = {source: _mean([variance.get(source) for variance in known]) for source in SOURCES}
        total = sum(value for value in means.values() if not math.isnan(value))
        for source, value in means.items():
            share = value / total if total > 0 else math.nan
            rows.append({"method": method, "source": source, "standard_deviation": math.sqrt(value), "share": share})
    return rows


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
