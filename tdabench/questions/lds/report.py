"""Everything about the LDS in the report: tables, figures, and what the page shows of them."""

from pathlib import Path

import pandas as pd

from tdabench.drawing.files import write_figures
from tdabench.drawing.section import Shown, by_size
from tdabench.experiment.read import Experiment
from tdabench.questions.agreement.figure import plot_agreement
from tdabench.questions.lds.division import tell_division
from tdabench.questions.lds.figures import plot_lds, plot_lds_by_repeat, plot_pairs
from tdabench.questions.lds.frontier import plot_frontier
from tdabench.questions.lds.lead import lead_lds
from tdabench.questions.lds.page_tables import null_table, rank_table, variance_table
from tdabench.questions.lds.paper import summarise, write_paper_tables
from tdabench.questions.lds.tables import (
    AGREEMENT,
    TABLES,
    find_tied,
    make_comparison_tables,
    make_growth_tables,
    place_of,
    read_judgement,
    read_lds_table,
)
from tdabench.storage.cell import cells_of
from tdabench.storage.records import load_table, plain


def write(experiment: Experiment, folder: Path, cost: pd.DataFrame) -> str:
    """Write the tables and figures of the LDS, if there is a bank, and of how much methods agree."""
    order, text = list(experiment.methods), ""
    if experiment.bank is not None:
        order, text = write_lds(experiment, folder, cost)
    write_agreement(experiment, folder, order)
    return text


def write_lds(experiment: Experiment, folder: Path, cost: pd.DataFrame) -> tuple[list[str], str]:
    """Write everything about the LDS.

    Args:
        cost: The cost table, which the table for people shows beside.

    Returns:
        The methods, best first, and the text for a terminal.
    """
    lds = read_lds_table(experiment, folder)
    comparisons = {
        (cell.repeat, cell.train_size): read_judgement(cell)["comparison"] for cell in cells_of(experiment, folder)
    }
    tables = {"lds": lds, **make_comparison_tables(comparisons, experiment.name)}
    tables |= make_growth_tables(experiment, folder)
    for declared in TABLES:
        if declared.name in tables:
            declared.write(folder, tables[declared.name])
    ranking, ranked = tables["ranking"], summarise(lds, cost)
    note = tell_division(plain(experiment.methods), set(lds.loc[lds["lds"].notna(), "method"]))
    summary = write_paper_tables(folder, lds, ranked, tied=find_tied(ranking), note=note)
    # The figure of the frontier is of the tables as they were written.
    written = {name: load_table(folder / "tables" / f"{name}.csv") for name in ("lds", "null")}
    figures = {
        "lds": plot_lds(lds, tables["null"]),
        "pairs": plot_pairs(tables["pairs"], ranking, lds),
        "lds_by_repeat": plot_lds_by_repeat(lds),
        "frontier": plot_frontier(written["lds"], cost, tables.get("growth"), written["null"], experiment.methods),
    }
    write_figures(folder, figures)
    lines = [summary, "", "Methods that share a letter are not told apart:", *describe_ranking(ranking), ""]
    return list(ranked["method"]), "\n".join([*lines, *_list_warnings(lds)])


def describe_ranking(ranking: pd.DataFrame) -> list[str]:
    """Say in a line a size which methods are told apart."""
    overall = ranking[(ranking["repeat"] == "all") & ranking["lds"].notna()]
    return [
        f"n = {size}: " + ", ".join(f"{row.method} {row.group}" for row in rows.itertuples())
        for size, rows in overall.groupby("train_size")
    ]


def _list_warnings(lds: pd.DataFrame) -> list[str]:
    rows = lds[(lds["repeat"] != "all") & (lds["status"] != "ok")]
    return [f"- {row.method} (repeat {row.repeat}, n = {row.train_size}): {row.status}" for row in rows.itertuples()]


def write_agreement(experiment: Experiment, folder: Path, order: list[str]) -> None:
    """Write ``tables/agreement.csv`` and ``figures/agreement.png|pdf``.

    Args:
        order: Methods, best first.
    """
    rows = [
        {**place_of(experiment, cell), **pair}
        for cell in cells_of(experiment, folder)
        for pair in read_judgement(cell)["agreement"]
    ]
    table = AGREEMENT.add_rows_over_repeats(rows, experiment.evaluation.confidence)
    AGREEMENT.write(folder, table)
    write_figures(folder, {"agreement": plot_agreement(table, order)})


SHOWN = Shown(
    package=__package__,
    tables=TABLES,
    lead=lead_lds,
    parts={
        "ranking": by_size(rank_table),
        "null": by_size(null_table, folded=True),
        "variance": by_size(variance_table),
    },
    write=write,
)
