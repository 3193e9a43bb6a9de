"""Write what compares the methods: agreement, properties, and the tables for a paper."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.latex import make_cost_latex, make_lds_latex, select_costs
from tdabench.experiment.read import Experiment
from tdabench.questions.lds.agreement_table import make_agreement_table, plot_agreement
from tdabench.questions.properties.table import make_properties_latex, make_properties_markdown, make_properties_table
from tdabench.report.files import write_figures, write_markdown, write_table
from tdabench.storage.cell import cells_of
from tdabench.storage.records import load_json, save_text


def write_agreement(experiment: Experiment, folder: Path, order: list[str], over_repeats: Callable[..., Any]) -> None:
    """Write ``tables/agreement.csv`` and ``figures/agreement.png|pdf``.

    Args:
        folder: The experiment's folder of results.
        order: Methods, best first.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
    """
    rows = [
        {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size, **pair}
        for cell in cells_of(experiment, folder)
        for pair in load_json(cell.judgement)["agreement"]["pairs"]
    ]
    table = make_agreement_table(rows, lambda means: over_repeats(means, experiment.evaluation.confidence))
    write_table(folder, "agreement", table)
    write_figures(folder, {"agreement": plot_agreement(table, order)})


def write_properties(experiment: Experiment, folder: Path) -> None:
    """Write ``tables/properties.csv``, ``.md`` and ``.tex``."""
    found = {method: load_json(folder / "properties" / f"{method}.json") for method in experiment.methods}
    rows = [
        {"experiment": experiment.name, "method": method, **row}
        for method, result in found.items()
        for row in result["properties"]
    ]
    titles = {row["property"]: row["title"] for row in rows}
    table = make_properties_table(rows)
    write_table(folder, "properties", table)
    save_text(folder / "tables" / "properties.md", make_properties_markdown(table, titles))
    save_text(folder / "tables" / "properties.tex", make_properties_latex(table, titles))


def write_paper_tables(
    folder: Path, lds: pd.DataFrame, summary: pd.DataFrame, *, tied: Mapping[int, Collection[str]] | None = None
) -> None:
    """Write ``tables/lds.tex``, ``cost.tex`` and ``cost.md``.

    Args:
        lds: The LDS table.
        summary: The table for people.
        tied: By size, the methods that are not distinguishable from the best one.
    """
    write_markdown(folder, "cost", select_costs(summary))
    save_text(folder / "tables" / "lds.tex", make_lds_latex(lds, summary, tied=tied))
    save_text(folder / "tables" / "cost.tex", make_cost_latex(lds, summary))
