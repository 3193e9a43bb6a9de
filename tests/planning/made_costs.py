"""Experiments and costs for the tests of the plan."""

from pathlib import Path

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.planning.costs import QUANTITIES, Costs

DIGITS = Path(__file__).parents[2] / "experiments" / "lds_digits.yaml"


def make_experiment(tmp_path: Path, **replaced: str) -> Experiment:
    """Return lds_digits with texts replaced: ``old=new``, spaces as in the file."""
    text = DIGITS.read_text(encoding="utf-8")
    for old, new in {"shards: 2": "shards: auto", **replaced}.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / "made.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path)


def make_costs(model_seconds: float, **seconds: float) -> Costs:
    """Return costs where training takes a constant time, measuring queries none, and other kinds as told."""
    kinds = {"train": model_seconds, "loss": 0.0, **seconds}
    constant = {
        kind: {**{quantity: {"one": 1e9} for quantity in QUANTITIES}, "seconds": {"one": value}}
        for kind, value in kinds.items()
    }
    return Costs(3.0, "cpu", constant)
