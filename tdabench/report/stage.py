"""The stage that writes an experiment's tables, figures and page from its result files."""

import sys
from pathlib import Path

from tdabench.experiment.read import Experiment
from tdabench.questions import ALWAYS, load_shown
from tdabench.report.costs import ground_truth_files, write_costs
from tdabench.report.page import load_material, render_page
from tdabench.storage.cell import cells_of, root_of
from tdabench.storage.records import load_record, make_record, save_json, save_text


def report(experiment: Experiment) -> None:
    """Make the tables, figures and page, and print the tables."""
    sys.stdout.write(write_report(experiment, root_of(experiment)))


def write_report(experiment: Experiment, folder: Path) -> str:
    """Write tables, figures, a record and the page; return the text for a terminal.

    The page comes last: it shows every table and figure that lies in the folder.

    Args:
        folder: The experiment's folder of results.
    """
    text = ""
    if experiment.is_scored:
        cost = write_costs(experiment, folder)
        text = "".join(shown.write(experiment, folder, cost) for shown in load_shown(ALWAYS) if shown.write)
    _write_record(experiment, folder)
    save_text(folder / "report.html", render_page(load_material(experiment, folder)))
    where = f"Tables: {folder}/tables/   Figures: {folder}/figures/   Page: {folder}/report.html"
    return "\n".join([f"\n{experiment.name}\n", text, f"\n{where}\n"])


def _write_record(experiment: Experiment, folder: Path) -> None:
    """Keep what every table and figure came from: settings, and the record of each result without its inputs' paths."""
    sizes = experiment.scaling.names if experiment.scaling else ()
    paths = [folder / "scale" / f"{method}-{size}.json" for method in experiment.methods for size in sizes]
    for cell in cells_of(experiment, folder) if experiment.is_scored else ():
        files = ground_truth_files(experiment, cell)
        paths += [*map(cell.scores, experiment.methods), *files["bank"], *files["removal"]]
    jobs = {path.relative_to(folder).as_posix(): load_record(path) for path in paths}
    save_json(folder / "tables" / "record.json", {"experiment": experiment, "jobs": jobs}, make_record({}))
