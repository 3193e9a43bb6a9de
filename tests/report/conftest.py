"""What the tests of the report share."""

from pathlib import Path

import pandas as pd
import pytest
from made_tokens import PLACE, make_methods, make_question
from made_up import ATTACK, LONG, make_material, make_tables

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.questions.tokens.page import render_token_index, render_token_page
from tdabench.report.page import render_page

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


@pytest.fixture(scope="session")
def addresses(tmp_path_factory) -> dict[str, str]:
    """Write a report and pages of tokens whose texts are long and hostile; return their addresses by name."""
    tables = make_tables(sizes=(400,), status="ok; warning: " + "very" * 40)
    lds = tables["lds"]
    lds.loc[lds["method"] == "gradsim", ["method", "status"]] = [LONG, ATTACK]
    lds.loc[lds["method"] == "random", ["lds", "low", "high"]] = None
    tables["many_columns"] = pd.DataFrame({f"column_number_{place}": [place] for place in range(40)})
    pages = {
        "report.html": render_page(make_material(tables=tables, name="an_experiment_" * 6)),
        "17.html": render_token_page(*PLACE, make_question(), make_methods(), neighbours=("3.html", None)),
        "index.html": render_token_index(*PLACE, [make_question()], ["BIF"]),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: (folder / name).as_uri() for name in pages}
