"""The stage that reports."""

import sys
from pathlib import Path

from tdabench.evaluation.intervals import over_repeats
from tdabench.evaluation.pairs import compare_repeats
from tdabench.experiment.read import Experiment
from tdabench.report.write import write_report


def report(experiment: Experiment) -> None:
    """Make the tables, figures and page, and print the tables."""
    root = Path("results") / experiment.name
    sys.stdout.write(write_report(experiment, root, over_repeats, compare_repeats))
