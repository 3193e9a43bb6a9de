"""What the tests of the report share."""

from pathlib import Path

import pytest

from tdabench.experiment.read import Experiment, load_experiment

EXPERIMENT = """\
seed: 0
data: {source: "tdabench.data.digits:Digits", train_sizes: [4, 8], queries: 6}
model: {builder: "tdabench.models.small_cnn:SmallCNN", width: 4}
training: {optimizer: adamw, epochs: 1, batch_size: 4, learning_rate: 0.01, weight_decay: 0.0}
bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: 1}
evaluation: {top: 2}
methods:
  bif: {attributor: "tdabench.attributors.baselines:Random"}
  ekfac: {attributor: "tdabench.attributors.baselines:Random"}
"""


@pytest.fixture
def tiny_experiment(tmp_path_factory) -> Experiment:
    """Return an experiment of two methods, eight examples and six queries."""
    path: Path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return load_experiment(path)
