"""Tables of how the LDS grows with a method's draws, and of where it ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.experiment.read import Experiment
from tdabench.report.files import write_table
from tdabench.report.repeats import add_rows_over_repeats
from tdabench.storage.cell import cells_of
from tdabench.storage.records import load_json

GROWTH_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "chains", "draws", "passes", "cpu_seconds", "lds", "low", "high",
    "standard_error", "queries", "nan_queries",
)  # fmt: skip
EXTRAPOLATION_COLUMNS = (
    "experiment", "repeat", "train_size", "method", "chains", "draws", "lds", "monte_carlo_error", "lds_limit", "low",
    "high", "standard_error", "c", "reliability", "note",
)  # fmt: skip


def write_growth(experiment: Experiment, folder: Path, over_repeats: Callable[..., Any]) -> pd.DataFrame | None:
    """Write ``tables/growth.csv`` and ``tables/extrapolation.csv``, if a method kept its traces; return the former.

    In rows of one repeat the interval of an LDS is the bootstrap's over subsets and queries, that of a limit also over
    draws; in rows ``all`` both are Student's t over repeats.
    """

    def mean_of(means: list[float]) -> Any:
        return over_repeats(means, experiment.evaluation.confidence)

    found = list(_results(experiment, folder))
    points = [row for place, result in found for row in _points(place, result)]
    limits = [_limit(place, result) for place, result in found]
    tables = {}
    if limits:
        keys, averaged = ["experiment", "train_size", "method"], ["lds", "monte_carlo_error", "c", "reliability"]
        table = add_rows_over_repeats(
            limits, EXTRAPOLATION_COLUMNS, keys=keys, value="lds_limit", averaged=averaged, over_repeats=mean_of
        )
        tables["extrapolation"] = _complete(table, keys)
    if points:
        keys, added = ["experiment", "train_size", "method", "draws"], ["queries", "nan_queries"]
        tables["growth"] = add_rows_over_repeats(
            points, GROWTH_COLUMNS, keys=keys, value="lds", averaged=["passes", "cpu_seconds"], added=added,
            over_repeats=mean_of,
        )  # fmt: skip
    for name, table in tables.items():
        write_table(folder, name, table)
    return tables.get("growth")


def _results(experiment: Experiment, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for cell in cells_of(experiment, folder):
        place = {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size}
        for method, result in load_json(cell.judgement)["growth"].items():
            if result["traces"]:
                yield {**place, "method": method}, result


def _complete(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return rows over repeats the notes of all repeats; counts beside missing ones stay whole numbers."""
    notes = {key: " | ".join(dict.fromkeys(note for note in same["note"] if note)) for key, same in table.groupby(keys)}
    last = table["repeat"] == "all"
    table.loc[last, "note"] = [notes[tuple(row)] for row in table.loc[last, keys].to_numpy().tolist()]
    return table.assign(**{name: pd.to_numeric(table[name]).astype("Int64") for name in ("chains", "draws")})


def _points(place: dict[str, Any], result: dict[str, Any]) -> list[dict[str, Any]]:
    shared = {**place, "chains": result.get("chains"), "queries": result.get("queries")}
    return [{**shared, **point, "lds": point["mean"]} for point in result.get("points", [])]


def _limit(place: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    if not result["growth"]:
        return {**place, "note": result["status"]}
    limit, last = result["limit"], result["points"][-1]
    numbers = {name: limit["interval"][name] for name in ("low", "high", "standard_error")}
    return {
        **place,
        **numbers,
        **{name: limit[name] for name in ("monte_carlo_error", "reliability", "note")},
        "chains": result["chains"],
        "draws": last["draws"],
        "lds": last["mean"],
        "lds_limit": limit["interval"]["mean"],
        "c": limit["half_draws"],
    }
