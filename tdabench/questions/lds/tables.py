"""Tables and figures of the LDS, and of the comparison of methods by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.tables import make_lds_table, summarise
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.report import add_warning
from tdabench.questions.lds.pair_figure import plot_pairs
from tdabench.report.comparisons import describe_ranking, find_tied, make_comparison_tables
from tdabench.report.figures import plot_lds, plot_lds_by_repeat
from tdabench.report.files import write_figures, write_markdown, write_table
from tdabench.report.methods import write_paper_tables
from tdabench.storage.cell import Cell, cells_of
from tdabench.storage.records import load_json


def write_lds(
    experiment: Experiment,
    folder: Path,
    cost: pd.DataFrame,
    over_repeats: Callable[..., Any],
    compare_repeats: Callable[..., Any],
) -> tuple[list[str], str]:
    """Write everything about the LDS.

    Args:
        cost: The cost table, which the table for people shows beside.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
        compare_repeats: ``(comparisons of one size, confidence) -> (rows of pairs, ranking)``.

    Returns:
        The methods, best first, and the text for a terminal.
    """
    judgements = {cell: load_json(cell.judgement) for cell in cells_of(experiment, folder)}
    rows = [
        _lds_row(experiment, cell, judgement, method)
        for cell, judgement in judgements.items()
        for method in experiment.methods
    ]
    lds = make_lds_table(rows, _rows_over_repeats(experiment, rows, over_repeats))
    comparisons = {(cell.repeat, cell.train_size): one["comparison"] for cell, one in judgements.items()}
    compared = make_comparison_tables(experiment.name, comparisons, compare_repeats, over_repeats)
    ranked = summarise(lds, cost)
    for name, table in {"lds": lds, **compared}.items():
        write_table(folder, name, table)
    summary = write_markdown(folder, "lds", ranked)
    write_paper_tables(folder, lds, ranked, tied=find_tied(compared["ranking"]))
    figures = {
        "lds": plot_lds(lds, compared["null"]),
        "pairs": plot_pairs(compared["pairs"], compared["ranking"], lds),
        "lds_by_repeat": plot_lds_by_repeat(lds),
    }
    write_figures(folder, figures)
    lines = [summary, "", "Methods that share a letter are not told apart:"]
    lines += [*describe_ranking(compared["ranking"]), "", *_list_warnings(rows)]
    return list(ranked["method"]), "\n".join(lines)


def _list_warnings(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"- {row['method']} (repeat {row['repeat']}, n = {row['train_size']}): {row['status']}"
        for row in rows
        if row["status"] != "ok"
    ]


def _lds_row(experiment: Experiment, cell: Cell, judgement: dict[str, Any], method: str) -> dict[str, Any]:
    result = judgement["lds"][method]
    status = add_warning(judgement["statuses"][method], cell.diagnosis(method))
    if result.get("diverged_retrains"):
        status += f"; {result['diverged_retrains']} retrained models diverged and are left out"
    numbers = {key: result.get(key) for key in ("low", "high", "standard_error", "queries", "nan_queries", "ceiling")}
    return {
        "experiment": experiment.name,
        "repeat": cell.repeat,
        "train_size": cell.train_size,
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
