"""Table, choice and text of a sweep."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import find_column, score
from tdabench.drawing.files import write_csv, write_figures
from tdabench.drawing.section import Shown
from tdabench.drawing.table import PLACE, Table, declare
from tdabench.experiment.read import Experiment
from tdabench.experiment.yaml_file import write_yaml
from tdabench.questions.sweep.figures import plot_sweep_lds, plot_sweep_traces
from tdabench.storage.records import save_json, save_text

# The settings of the grid stand after ``point``.
SWEEP = declare(
    "sweep", PLACE, "point", score("tuning_lds", "Tuning LDS"), "low high standard_error tuning_queries",
    score("loss_change", "Loss change (nats)"), "diverged_chains effective_draws rhat_high cpu_seconds status choice",
    keys=("train_size", "point"), means={"tuning_lds": ""}, added=("diverged_chains",), whole=("diverged_chains",),
    averaged=("loss_change", "effective_draws", "rhat_high", "cpu_seconds"), digits="%.7g",
)  # fmt: skip
SWEEP_COLUMNS = tuple(SWEEP.names)
ONLY_TUNING = (
    "Chosen by the LDS on the {count} tuning queries alone; no scored query was handed to the method or looked at."
)


def write_sweep(
    experiment: Experiment,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    traces: Sequence[Mapping[str, Any]],
    choices: Mapping[int, Any],
    record: Mapping[str, Any],
) -> str:
    """Write ``tables/sweep*`` and ``figures/sweep*``; return the text for a terminal.

    Args:
        rows: One a repeat, size and point.
        traces: One a repeat, size, point, chain and draw.
        choices: By size, with ``best``, ``lds``, ``together`` and ``worse``; None where no point has an LDS.
    """
    keys = list(experiment.sweep.grid)
    declared = declare_sweep(keys)
    table = declared.add_rows_over_repeats(rows, experiment.evaluation.confidence)
    drawn = pd.DataFrame(list(traces), columns=["experiment", "repeat", "train_size", "point", "chain", "draw", "loss"])
    chosen = [describe_choice(experiment, size, choice, table) for size, choice in choices.items()]
    text = "\n\n".join(entry["text"] for entry in chosen) + "\n"
    figures = {"sweep_lds": plot_sweep_lds(table, keys), "sweep_traces": plot_sweep_traces(table, drawn, keys)}
    write_figures(folder, figures)
    # Beside its figure, and not among the tables: the page shows each of those.
    write_csv(folder / "figures" / "sweep_traces.csv", drawn, digits="%.6g")
    save_text(folder / "tables" / "sweep_choice.txt", text)
    save_json(folder / "tables" / "sweep_choice.json", {"choices": chosen}, record)
    declared.write(folder, table)
    return f"\n{experiment.name}\n\n{text}\nTable: {folder}/tables/sweep.csv   Figures: {folder}/figures/sweep_*.png\n"


def declare_sweep(keys: Sequence[str]) -> Table:
    """Declare the table with a column for each setting of the grid."""
    place = SWEEP.names.index("point") + 1
    columns = (*SWEEP.columns[:place], *map(find_column, keys), *SWEEP.columns[place:])
    return dataclasses.replace(SWEEP, columns=columns)


def describe_choice(experiment: Experiment, size: int, choice: Any, table: pd.DataFrame) -> dict[str, Any]:
    """Say which point is chosen, in words, as settings, and as YAML to put into an experiment file."""
    sweep, count = experiment.sweep, experiment.data.tuning_queries
    said = {"method": sweep.method, "train_size": size, "tuning_queries": count}
    statement = ONLY_TUNING.format(count=f"{count:,}")
    rows = table[(table["repeat"] == "all") & (table["train_size"] == size)]
    if choice is None:
        text = f"{sweep.method} at n = {size:,}: no point of the sweep has an LDS in every repeat; mend the grid."
        return {**said, "point": None, "statement": statement, "text": text}
    settings = sweep.points[choice.best]
    component = experiment.methods[sweep.method]
    whole = {sweep.method: {"attributor": component.path, **component.settings, **settings}}
    lines = write_yaml(whole).rstrip()
    row = rows[rows["point"] == choice.best].iloc[0]
    text = (
        f"{sweep.method} at n = {size:,}: best of {len(rows)} points is {choice.best}, with a tuning LDS of "
        f"{choice.lds:.3f} (standard error {row['standard_error']:.3f}). {len(choice.together)} further points can't "
        f"be told from it. {statement}\n\n{lines}"
    )
    return {
        **said,
        "point": choice.best,
        "settings": settings,
        "tuning_lds": choice.lds,
        "not_told_apart": list(choice.together),
        "worse": list(choice.worse),
        "cpu_seconds": float(table[(table["repeat"] != "all") & (table["train_size"] == size)]["cpu_seconds"].sum()),
        "statement": statement,
        "yaml": lines,
        "text": text,
    }


SHOWN = Shown(package=__package__, tables=(SWEEP,))
