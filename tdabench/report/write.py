"""Write an experiment's tables and figures from its result files."""

from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.config import Experiment
from tdabench.records import load_json, load_record, make_record, save_figure, save_json, save_text
from tdabench.report.comparisons import describe_ranking, make_comparison_tables
from tdabench.report.figures import plot_cost, plot_lds, plot_lds_by_repeat
from tdabench.report.pair_figure import plot_pairs
from tdabench.report.tables import COST_COLUMNS, make_cost_table, make_lds_table, summarise


def write_report(experiment: Experiment, folder: Path, over_repeats: Any, compare_repeats: Any) -> str:
    """Write ``tables/*.csv``, ``tables/lds.md``, ``figures/*.png|pdf`` and a record; give the text for a terminal.

    Args:
        folder: The experiment's folder of results.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
        compare_repeats: ``(comparisons of one size, confidence) -> (rows of pairs, ranking)``.
    """
    cells = [
        (repeat, size, method)
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
        for method in experiment.methods
    ]
    rows = [_lds_row(experiment, folder, *cell) for cell in cells]
    lds = make_lds_table(rows, _rows_over_repeats(experiment, rows, over_repeats))
    cost = make_cost_table(
        [row for cell in cells for row in _method_costs(experiment, folder, *cell)]
        + _ground_truth_costs(experiment, folder)
    )
    summary = summarise(lds, cost).to_markdown(index=False, disable_numparse=True)
    save_text(folder / "tables" / "lds.csv", lds.to_csv(index=False, float_format="%.6f"))
    save_text(folder / "tables" / "cost.csv", cost.to_csv(index=False, float_format="%.4f"))
    save_text(folder / "tables" / "lds.md", summary + "\n")
    compared = _compare(experiment, folder, compare_repeats, over_repeats)
    for name, table in compared.items():
        save_text(folder / "tables" / f"{name}.csv", table.to_csv(index=False, float_format="%.6f"))
    figures = {
        "lds": plot_lds(lds, compared["null"]),
        "pairs": plot_pairs(compared["pairs"], compared["ranking"], lds),
        "lds_by_repeat": plot_lds_by_repeat(lds),
        "cost": plot_cost(cost, list(experiment.methods)),
    }
    for name, figure in figures.items():
        for suffix in ("png", "pdf"):
            save_figure(folder / "figures" / f"{name}.{suffix}", figure)
    _write_record(experiment, folder, cells)
    warnings = [
        f"{row['method']} (repeat {row['repeat']}, n = {row['train_size']}): {row['status']}"
        for row in rows
        if row["status"] != "ok"
    ]
    lines = [f"\n{experiment.name}\n", summary, ""]
    lines += ["Methods that share a letter are not told apart:", *describe_ranking(compared["ranking"]), ""]
    lines += [f"- {line}" for line in warnings]
    lines.append(f"\nTables: {folder}/tables/   Figures: {folder}/figures/\n")
    return "\n".join(lines)


def _compare(experiment: Experiment, folder: Path, compare_repeats: Any, over_repeats: Any) -> dict[str, pd.DataFrame]:
    comparisons = {
        (repeat, size): load_json(folder / str(repeat) / str(size) / "compare" / "comparison.json")
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
    }
    return make_comparison_tables(experiment.name, comparisons, compare_repeats, over_repeats)


def _lds_row(experiment: Experiment, folder: Path, repeat: int, size: int, method: str) -> dict[str, Any]:
    result = load_json(folder / str(repeat) / str(size) / "lds" / f"{method}.json")
    status = result["record"]["status"]
    if result.get("diverged_retrains"):
        status += f"; {result['diverged_retrains']} retrained models diverged and are left out"
    numbers = {key: result.get(key) for key in ("low", "high", "standard_error", "queries", "nan_queries", "ceiling")}
    return {
        "experiment": experiment.name,
        "repeat": repeat,
        "train_size": size,
        "method": method,
        "lds": result["mean"],
        **numbers,
        "status": status,
    }


def _rows_over_repeats(experiment: Experiment, rows: list[dict[str, Any]], over_repeats: Any) -> pd.DataFrame:
    """Make the rows ``all``; with a single repeat they are that repeat's, bootstrap interval included."""
    summary = []
    for size in experiment.data.train_sizes:
        for method in experiment.methods:
            same = [row for row in rows if row["train_size"] == size and row["method"] == method]
            found = [row for row in same if row["lds"] is not None]
            statuses = dict.fromkeys(row["status"] for row in same)
            row = {**same[0], "repeat": "all", "status": " | ".join(statuses)}
            if len(same) > 1 and found:
                interval = over_repeats([row["lds"] for row in found], experiment.evaluation.confidence)
                row |= {
                    "lds": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "standard_error": interval.standard_error,
                    "queries": sum(row["queries"] for row in found),
                    "nan_queries": sum(row["nan_queries"] for row in found),
                    "ceiling": pd.Series([row["ceiling"] for row in found], dtype=float).mean(),
                }
            summary.append(row)
    return pd.DataFrame(summary)


def _method_costs(experiment: Experiment, folder: Path, repeat: int, size: int, method: str) -> list[dict[str, Any]]:
    record = load_record(folder / str(repeat) / str(size) / "scores" / f"{method}.safetensors")
    return _cost_rows(experiment, record, repeat, size, method, record["status"])


def _ground_truth_costs(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Rows of the bank and the checkpoints, as methods ``bank`` and ``checkpoints``, summed over their files."""
    files = {
        "bank": [f"bank/{shard}.safetensors" for shard in range(experiment.bank.shards)],
        "checkpoints": [f"checkpoints/{index}.safetensors" for index in range(experiment.checkpoints)],
    }
    rows = []
    for repeat in range(experiment.repeats):
        for size in experiment.data.train_sizes:
            for name, paths in files.items():
                for path in paths:
                    record = load_record(folder / str(repeat) / str(size) / path)
                    rows += [
                        {**row, "phase": "train"} for row in _cost_rows(experiment, record, repeat, size, name, "ok")
                    ]
    totals = pd.DataFrame(rows, columns=list(COST_COLUMNS))
    keys = ["experiment", "repeat", "train_size", "method", "phase", "device", "status"]
    how = {
        "seconds": "sum",
        "cpu_seconds": "sum",
        "peak_host_bytes": "max",
        "peak_device_bytes": "max",
        "disk_bytes": "sum",
    }
    return totals.groupby(keys, as_index=False, sort=False).agg(how).to_dict("records")


def _cost_rows(
    experiment: Experiment, record: dict[str, Any], repeat: int, size: int, method: str, status: str
) -> list[dict[str, Any]]:
    place = {"experiment": experiment.name, "repeat": repeat, "train_size": size, "method": method, "status": status}
    if "cost" not in record:
        return [{**place, "phase": "score"}]
    return [{**place, "phase": name, **part, "device": record["device"]} for name, part in record["cost"].items()]


def _write_record(experiment: Experiment, folder: Path, cells: list[tuple[int, int, str]]) -> None:
    """Keep what every table and figure came from: settings, and the record of each result without its inputs' paths."""
    jobs = {}
    for repeat, size, method in cells:
        path = f"{repeat}/{size}/scores/{method}.safetensors"
        jobs[path] = load_record(folder / path)
    for repeat in range(experiment.repeats):
        for size in experiment.data.train_sizes:
            for shard in range(experiment.bank.shards):
                path = f"{repeat}/{size}/bank/{shard}.safetensors"
                jobs[path] = load_record(folder / path)
    save_json(folder / "tables" / "record.json", {"experiment": experiment, "jobs": jobs}, make_record({}))
