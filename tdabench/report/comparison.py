"""Write what compares the methods: agreement, properties, and the tables for a paper."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.config import Experiment
from tdabench.records import load_json, save_figure, save_text
from tdabench.report.agreement_table import make_agreement_table, plot_agreement


def write_agreement(
    experiment: Experiment, folder: Path, order: list[str], over_repeats: Callable[..., Any]
) -> pd.DataFrame:
    """Write ``tables/agreement.csv`` and ``figures/agreement.png|pdf``; give the table.

    Args:
        folder: The experiment's folder of results.
        order: Methods, best first.
        over_repeats: ``(means of the repeats, confidence) -> interval``.
    """
    rows = [
        {"experiment": experiment.name, "repeat": repeat, "train_size": size, **pair}
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
        for pair in load_json(folder / str(repeat) / str(size) / "agreement.json")["pairs"]
    ]
    table = make_agreement_table(rows, lambda means: over_repeats(means, experiment.evaluation.confidence))
    save_text(folder / "tables" / "agreement.csv", table.to_csv(index=False, float_format="%.6f"))
    figure = plot_agreement(table, order)
    for suffix in ("png", "pdf"):
        save_figure(folder / "figures" / f"agreement.{suffix}", figure)
    return table
