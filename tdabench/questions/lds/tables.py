"""The tables of the LDS, of the comparison of methods by it, and of how it grows with draws."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import Column, interval, score
from tdabench.drawing.table import PLACE, declare, over_all
from tdabench.evaluation.pairs import compare_repeats
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.report import add_warning
from tdabench.storage.cell import Cell, cells_of
from tdabench.storage.records import load_json

LDS = declare(
    "lds", PLACE, "method lds low high standard_error queries nan_queries ceiling status",
    keys=("train_size", "method"), means={"lds": ""}, averaged=("ceiling",), added=("queries", "nan_queries"),
)  # fmt: skip
PAIRS = declare(
    "pairs", PLACE, "first second difference low high p_value", Column("p_holm", "p (Holm)"),
    *interval("bootstrap_", "Bootstrap interval"),
)  # fmt: skip
RELIABILITY = declare(
    "reliability", PLACE, "retrains subsets", score("agreement"), *interval("agreement_"), "ceiling",
    *interval("ceiling_", "Its interval"), "diverged_retrains", score("oracle"), *interval("oracle_", "Its interval"),
    keys=("train_size",), means={name: f"{name}_" for name in ("agreement", "ceiling", "oracle")},
    added=("subsets", "diverged_retrains"),
)  # fmt: skip
NULL = declare("null", PLACE, "method", *interval("null_", "By chance"), "p_value")
VARIANCE = declare("variance", PLACE, "method source", score("standard_deviation"), "share")
RANKING = declare(
    "ranking", PLACE, "method lds group share_of_ceiling", *interval("share_", "Interval of share", "share"),
    keys=("train_size", "method"), means={"share_of_ceiling": "share_"},
)  # fmt: skip
GROWTH = declare(
    "growth", PLACE, "method chains draws passes cpu_seconds lds low high standard_error queries nan_queries",
    keys=("train_size", "method", "draws"), means={"lds": ""}, averaged=("passes", "cpu_seconds"),
    added=("queries", "nan_queries"), whole=("queries", "nan_queries"),
)  # fmt: skip
EXTRAPOLATION = declare(
    "extrapolation", PLACE, "method chains draws lds", score("monte_carlo_error", "Monte Carlo error"),
    score("lds_limit", "Limit"), "low high standard_error", Column("c", "c (draws)"), "reliability note",
    keys=("train_size", "method"), means={"lds_limit": ""},
    averaged=("lds", "monte_carlo_error", "c", "reliability"), joined=("note",), whole=("chains", "draws"),
)  # fmt: skip
AGREEMENT = declare(
    "agreement", PLACE, "first second", score("rank_correlation"), *interval("rank_"), score("overlap", "Overlap"),
    *interval("overlap_", "Its interval"), "top queries", score("harmful_overlap", "Overlap, harmful"),
    *interval("harmful_", "Its interval"), "nan_queries",
    keys=("train_size", "first", "second"), added=("queries", "nan_queries"),
    means={"rank_correlation": "rank_", "overlap": "overlap_", "harmful_overlap": "harmful_"},
)  # fmt: skip
TABLES = (LDS, PAIRS, RANKING, RELIABILITY, NULL, VARIANCE, GROWTH, EXTRAPOLATION, AGREEMENT)
SOURCES = ("queries", "subsets", "retrains", "checkpoint", "sampler")

Rows = list[dict[str, Any]]


def place_of(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Return the columns that say of which repeat and size a row is."""
    return {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size}


# What judging found: the only functions here that read it.


def read_judgement(cell: Cell) -> dict[str, Any]:
    """Return what the bank says of every method in a cell."""
    return _load(cell.judgement, cell.judgement.stat().st_mtime_ns if cell.judgement.is_file() else 0)


@functools.lru_cache(maxsize=256)  # several tables are of one file
def _load(path: Path, _changed: int) -> dict[str, Any]:
    return load_json(path)


def read_lds(experiment: Experiment, cell: Cell, method: str) -> dict[str, Any]:
    """Return the row of one method's LDS in a cell; its status says what is wrong with its draws or the bank."""
    judgement = read_judgement(cell)
    result = judgement["lds"][method]
    status = add_warning(judgement["statuses"][method], cell.diagnosis(method))
    if result.get("diverged_retrains"):
        status += f"; {result['diverged_retrains']} retrained models diverged and are left out"
    return {**result, **place_of(experiment, cell), "method": method, "lds": result["mean"], "status": status}


def read_growth(cell: Cell, method: str) -> dict[str, Any]:
    """Return how a method's LDS grew with its draws in a cell."""
    return read_judgement(cell)["growth"].get(method, {"traces": False})


# Tables


def read_lds_table(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Make the LDS table: one row a repeat, size and method, then a row ``all`` over the repeats."""
    rows = [
        read_lds(experiment, cell, method) for cell in cells_of(experiment, folder) for method in experiment.methods
    ]
    return LDS.add_rows_over_repeats(rows, experiment.evaluation.confidence)


def make_comparison_tables(comparisons: Mapping[tuple[int, int], Any], name: str) -> dict[str, pd.DataFrame]:
    """Make the tables by name: ``pairs``, ``ranking``, ``reliability``, ``null`` and ``variance``.

    Rows of one repeat have the bootstrap's intervals. Rows ``all`` are over repeats: Student's t (with a single
    repeat, that repeat's own), and for pairs also the bootstrap for these repeats.

    Args:
        comparisons: What ``judge_cell`` found, as ``comparison``, by repeat and train size.
    """
    confidence = next(iter(comparisons.values()))["confidence"]
    sizes = list(dict.fromkeys(size for _, size in comparisons))
    same = {size: [part for (_, other), part in comparisons.items() if other == size] for size in sizes}

    def collect(rows_of: Callable[[Any], Iterable[Mapping[str, Any]]]) -> Rows:
        return [_place(name, *place, row) for place, part in comparisons.items() for row in rows_of(part)]

    def over(rows_of: Callable[[list[Any]], Iterable[Mapping[str, Any]]]) -> Rows:
        return [_place(name, "all", size, row) for size in sizes for row in rows_of(same[size])]

    rankings = collect(_rank_with_shares)
    shares = over_all(RANKING.add_rows_over_repeats(rankings, confidence)).dropna(subset="share_of_ceiling")
    last = shares.set_index(["train_size", "method"])[["share_of_ceiling", "share_low", "share_high"]].to_dict("index")
    ranked = over(lambda parts: compare_repeats(parts, confidence)[1])
    rankings += [{**row, **last.get((row["train_size"], row["method"]), {})} for row in ranked]
    return {
        "pairs": PAIRS.frame(
            collect(lambda part: part["pairs"]) + over(lambda parts: compare_repeats(parts, confidence)[0])
        ),
        "ranking": RANKING.frame(rankings),
        "reliability": RELIABILITY.add_rows_over_repeats(
            collect(lambda part: [{**part, **part["reliability"]}]), confidence
        ),
        "null": NULL.frame(collect(_null_rows)),
        "variance": VARIANCE.frame(collect(lambda part: _variance_rows([part])) + over(_variance_rows)),
    }


def _place(name: str, repeat: int | str, size: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "experiment": name, "repeat": repeat, "train_size": size}


def _rank_with_shares(part: Mapping[str, Any]) -> Rows:
    found = part["methods"]
    ends = ("share_low", "share_high")
    return [
        {**row, "share_of_ceiling": found[row["method"]]["share"], **{end: found[row["method"]][end] for end in ends}}
        for row in part["ranking"]
    ]


def _null_rows(part: Mapping[str, Any]) -> Rows:
    """One row a method; those that can't run have no numbers."""
    return [{"method": name, **method} for name, method in part["methods"].items()] + [
        {"method": name} for name in part["unsupported"]
    ]


def _variance_rows(parts: list[Mapping[str, Any]]) -> Rows:
    """Divide each method's variance, averaged over the parts that know it; what is unknown has no share."""
    rows = []
    for method in dict.fromkeys(name for part in parts for name in part["methods"]):
        known = pd.DataFrame(
            [part["methods"][method]["variance"] for part in parts if method in part["methods"]], columns=list(SOURCES)
        )
        means = known.astype(float).mean()
        total = means.sum()
        rows += [
            {"method": method, "source": source, "standard_deviation": math.sqrt(value),
             "share": value / total if total > 0 else math.nan}
            for source, value in means.items()
        ]  # fmt: skip
    return rows


def find_tied(ranking: pd.DataFrame) -> dict[int, set[str]]:
    """Return, by size, the methods that are not told apart from the best one, over repeats."""
    overall = ranking[(ranking["repeat"] == "all") & ranking["lds"].notna()]
    tied = {}
    for size, rows in overall.groupby("train_size"):
        best = rows.loc[rows["lds"].astype(float).idxmax()]
        shares = rows["group"].map(lambda group, letters=set(best["group"]): bool(letters & set(group)))
        tied[int(size)] = set(rows.loc[shares, "method"]) - {best["method"]}
    return tied


def make_growth_tables(experiment: Experiment, folder: Path) -> dict[str, pd.DataFrame]:
    """Make the tables ``growth`` and ``extrapolation``, each if a method kept its traces.

    In rows of one repeat the interval of an LDS is the bootstrap's over subsets and queries, that of a limit also over
    draws; in rows ``all`` both are Student's t over repeats.
    """
    found = [
        ({**place_of(experiment, cell), "method": method}, result)
        for cell in cells_of(experiment, folder)
        for method in experiment.methods
        if (result := read_growth(cell, method))["traces"]
    ]
    points = [row for place, result in found for row in _points(place, result)]
    limits, confidence = [_limit(place, result) for place, result in found], experiment.evaluation.confidence
    tables = {"growth": (GROWTH, points), "extrapolation": (EXTRAPOLATION, limits)}
    return {name: table.add_rows_over_repeats(rows, confidence) for name, (table, rows) in tables.items() if rows}


def _points(place: dict[str, Any], result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for point in result.get("points", []):
        yield {**place, "chains": result["chains"], "queries": result["queries"], **point, "lds": point["mean"]}


def _limit(place: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    if not result["growth"]:
        return {**place, "note": result["status"]}
    limit, last = result["limit"], result["points"][-1]
    ends = limit["interval"]
    numbers = {"chains": result["chains"], "draws": last["draws"], "lds": last["mean"], "lds_limit": ends["mean"]}
    return {**place, **limit, **ends, **numbers, "c": limit["half_draws"]}
