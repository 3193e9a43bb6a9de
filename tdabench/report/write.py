"""Write an experiment's tables, figures and page from its result files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdabench.drawing.tables import make_cost_table
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.report import write_diagnostics
from tdabench.questions.lds.frontier import write_frontier
from tdabench.questions.lds.tables import write_lds
from tdabench.report.costs import bank_files, collect_costs, removal_files, scaling_files
from tdabench.report.figures import plot_cost
from tdabench.report.files import write_figures, write_table
from tdabench.report.growth import write_growth
from tdabench.report.methods import write_agreement, write_properties
from tdabench.report.page import load_material, render_page
from tdabench.storage.records import load_record, make_record, save_json, save_text


def write_report(
    experiment: Experiment, folder: Path, over_repeats: Callable[..., Any], compare_repeats: Callable[..., Any]
) -> str:
    """Write tables, figures, a record and the page; return the text for a terminal.

    The page comes last: it shows every table and figure that lies in the folder.

    Args:
        folder: The experiment's folder of results.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
        compare_repeats: ``(comparisons of one size, confidence) -> (rows of pairs, ranking)``.
    """
    if not experiment.is_scored:
        return _write_page(experiment, folder, "")
    cost = make_cost_table(collect_costs(experiment, folder))
    write_table(folder, "cost", cost, digits=4)
    write_figures(folder, {"cost": plot_cost(cost, list(experiment.methods))})
    order, text = list(experiment.methods), ""
    if experiment.bank is not None:
        order, text = write_lds(experiment, folder, cost, over_repeats, compare_repeats)
        write_frontier(experiment, folder, cost, write_growth(experiment, folder, over_repeats))
    write_agreement(experiment, folder, order, over_repeats)
    write_properties(experiment, folder)
    write_diagnostics(experiment, folder)
    return _write_page(experiment, folder, text)


def _write_page(experiment: Experiment, folder: Path, text: str) -> str:
    """Write the record and the page, of all that lies in the folder."""
    _write_record(experiment, folder)
    save_text(folder / "report.html", render_page(load_material(experiment, folder)))
    where = f"Tables: {folder}/tables/   Figures: {folder}/figures/   Page: {folder}/report.html"
    return "\n".join([f"\n{experiment.name}\n", text, f"\n{where}\n"])


def _write_record(experiment: Experiment, folder: Path) -> None:
    """Keep what every table and figure came from: settings, and the record of each result without its inputs' paths."""
    scores = [f"scores/{method}.safetensors" for method in experiment.methods]
    paths = scaling_files(experiment)
    paths += [
        f"{repeat}/{size}/{name}"
        for repeat in range(experiment.repeats)
        for size in (experiment.data.train_sizes if experiment.is_scored else ())
        for name in (*scores, *bank_files(experiment, folder, size), *removal_files(experiment))
    ]
    jobs = {path: load_record(folder / path) for path in paths}
    save_json(folder / "tables" / "record.json", {"experiment": experiment, "jobs": jobs}, make_record({}))
