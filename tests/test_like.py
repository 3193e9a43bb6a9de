"""``normalize`` and ``average`` of a method's line: their checks, what they rerun, and the stages that follow them."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_config import _changed, _write

from tdabench.attributors.base import take
from tdabench.drawing.files import write_markdown
from tdabench.drawing.section import Results
from tdabench.experiment.components import MethodComponent, instantiate
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.questions.lds.division import tell_division
from tdabench.questions.lds.frontier import find_lines
from tdabench.questions.lds.grow import estimate_of
from tdabench.questions.lds.page_tables import rank_table
from tdabench.questions.sweep.stage import sweep
from tdabench.runtime.machine import Machine
from tdabench.stages.attribution import attribute, sample, vary
from tdabench.stages.trial import Trial
from tdabench.stages.truth import dataset, split, train
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_record, load_tensors, plain

CPU = Machine(device="cpu")
GRADSIM = '{attributor: "tdabench.attributors.kronfluence:Kronfluence", strategy: identity'
BIF = '{attributor: "tdabench.attributors.bif:BIF", step_size: 1e-4, inverse_temperature: 100, localization: 1000, '
BIF += "draws: 5, chains: 2"
EXPERIMENT = f"""\
seed: 0
checkpoints: 3
data: {{source: "tdabench.data.digits:Digits", train_sizes: [40], queries: 8, tuning_queries: 4}}
model: {{builder: "tdabench.models.small_cnn:SmallCNN", width: 4}}
training: {{optimizer: adamw, epochs: 2, batch_size: 16, learning_rate: 0.01, weight_decay: 0.01}}
bank: {{subsets: 6, fraction: 0.5}}
methods:
  gradsim: {GRADSIM}}}
  copies: {GRADSIM}, average: 2}}
  mean: {GRADSIM}, average: 3}}
  cosine: {GRADSIM}, normalize: self}}
  mean_cosine: {GRADSIM}, normalize: self, average: 3}}
  bif: {BIF}, normalize: self}}
  mine: {{attributor: "test_like:Mine", scale: 2.0, normalize: self}}
  upside_down: {{attributor: "test_like:Mine", scale: -2.0, normalize: self}}
  random: {{attributor: "tdabench.attributors.baselines:Random", normalize: self}}
sweep: {{method: cosine, grid: {{damping: [1.0]}}}}
variance: {{checkpoints: 3, runs: 2, methods: [cosine]}}
evaluation: {{top: 5}}
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    """A plug-in that knows nothing of normalisation."""

    scale: float = 1.0

    def attribute(self, problem, *, generator):
        query, others = (part["image"].flatten(1) for part in (problem.query, problem.train))
        return self.scale * (query @ others.T)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken(Mine):
    """A plug-in with a setting that is the file's."""

    average: int = 2


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Return the cell of a small experiment with three checkpoints, of which the second is a copy of the first."""
    return _make(tmp_path_factory.mktemp("like"), EXPERIMENT)


def _make(folder: Path, text: str) -> Cell:
    (folder / "like.yaml").write_text(text)
    before = Path.cwd()
    os.chdir(folder)  # stages write results/ where they are
    try:
        experiment, cell = load_experiment("like.yaml"), Cell(folder / "results" / "like", 0, 40)
        dataset(experiment)
        split(experiment, 0)
        for checkpoint in (0, 2):
            train(experiment, cell, checkpoint, CPU)
        shutil.copy(cell.checkpoint(0), cell.checkpoint(1))
    finally:
        os.chdir(before)
    return cell


def _experiment(cell: Cell):
    return load_experiment(cell.root.parents[1] / "like.yaml")


def _score(cell: Cell, method: str):
    """Return the tensors and the record of a method's scores."""
    experiment = _experiment(cell)
    for chain in range(experiment.num_chains(method)):
        sample(experiment, cell, method, chain, CPU)
    attribute(experiment, cell, method, CPU)
    return load_tensors(cell.scores(method)), load_record(cell.scores(method))


# Stages


def test_a_mean_over_copies_of_a_checkpoint_changes_nothing_and_over_others_it_is_their_mean(cell):
    alone, copies, mean = (_score(cell, method)[0]["scores"] for method in ("gradsim", "copies", "mean"))
    vary(_experiment(cell), cell, "cosine", CPU)

    torch.testing.assert_close(copies, alone, rtol=0, atol=0)
    assert not torch.allclose(mean, alone, rtol=0.01)
    # Each is divided before the mean is taken; `vary` has the last checkpoint alone.
    cosine, cosines = (_score(cell, method)[0]["scores"] for method in ("cosine", "mean_cosine"))
    last = load_tensors(cell.variations("cosine"))["scores-2-0"]
    torch.testing.assert_close(cosines, (2 * cosine + last) / 3, rtol=1e-4, atol=1e-6)
    assert {path.name for path in cell.workspace("x").parent.iterdir()} >= {"mean_cosine"}
    assert not list(cell.workspace("x").parent.glob("*-at-*"))


def test_scores_are_divided_by_the_root_of_self_influence_and_what_that_costs_is_a_phase(cell):
    (alone, before), (divided, after) = (_score(cell, method) for method in ("gradsim", "cosine"))

    factor = (alone["scores"] / divided["scores"]).double()
    torch.testing.assert_close(factor, factor[:1].expand_as(factor), rtol=1e-3, atol=0)
    assert (after["method"]["normalize"], after["method"]["average"]) == ("self", 1)
    assert set(after["cost"]) == {*before["cost"], "normalize"}
    assert after["cost"]["normalize"]["passes"] == 3 * 40


def test_chains_that_are_jobs_of_their_own_give_the_variance_by_their_traces(cell):
    divided, record = _score(cell, "bif")

    traces = load_tensors(cell.traces("bif"))
    query, others = (traces[name].double() for name in ("query", "train"))
    query, others = ((one - one.mean(dim=1, keepdim=True)).flatten(0, 1) for one in (query, others))
    expected = query.T @ others / others.norm(dim=0) / (2 * 4) ** 0.5
    torch.testing.assert_close(divided["scores"].double(), expected, rtol=1e-4, atol=1e-6)
    assert record["cost"]["normalize"]["passes"] == 0


def test_a_plug_in_is_divided_with_nothing_written(cell):
    divided, _ = _score(cell, "mine")

    bench = Trial(_experiment(cell), cell, "mine", CPU).bench
    query, others = (part["image"].flatten(1) for part in (bench.query, bench.train))
    expected = 2**0.5 * query @ others.T / others.norm(dim=1)
    torch.testing.assert_close(divided["scores"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("upside_down", "the self-influence of 40 of 40 training examples is not positive, so that their scores can't"),
        ("random", "scores by chance have no self-influence"),
    ],
)
def test_a_method_that_cannot_be_divided_is_a_row_with_the_reason(cell, method, reason):
    tensors, record = _score(cell, method)

    assert not tensors
    assert record["status"].startswith(f"unsupported: {reason}")


def test_a_point_of_a_sweep_is_divided_as_the_method_is(cell):
    sweep(_experiment(cell), cell, "damping=1", CPU)

    point = load_tensors(cell.point("damping=1"))["scores"]
    torch.testing.assert_close(point, _score(cell, "cosine")[0]["scores"][8:], rtol=1e-4, atol=1e-6)


def test_with_planted_labels_the_self_influence_in_the_file_is_not_divided(tmp_path):
    text = EXPERIMENT.replace("tuning_queries: 4", "tuning_queries: 4, mislabelled: 0.1")
    cell = _make(tmp_path, text)

    tensors, record = _score(cell, "mine")
    bench = Trial(_experiment(cell), cell, "mine", CPU).bench

    images = bench.train["image"].flatten(1)
    torch.testing.assert_close(tensors["self_influence"], 2 * images.square().sum(dim=1), rtol=1e-4, atol=1e-5)
    query = take(bench.query, slice(None))["image"].flatten(1)
    expected = 2**0.5 * query @ images.T / images.norm(dim=1)
    torch.testing.assert_close(tensors["scores"], expected, rtol=1e-4, atol=1e-5)
    assert "normalize" not in record["cost"]  # the scores that there are have it


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average": 3}, r"methods\.gradsim\.average must be at most checkpoints \(2\), got 3"),
        ({"average": 0}, r"methods\.gradsim\.average must be at least 1, got 0"),
        ({"average": "all"}, r"methods\.gradsim\.average must be of type int, got 'all'"),
        ({"normalize": "yes"}, r"methods\.gradsim\.normalize must be 'none' or 'self', got 'yes'"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, change, message):
    gradsim = {"attributor": "tdabench.attributors.kronfluence:Kronfluence", "strategy": "identity", **change}

    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, _changed("methods", "gradsim", gradsim)))


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("tokens", {"queries": 2, "top": 2}, r"tokens shows .* and methods\.gradsim has normalize: self"),
        (
            "scaling",
            {"sizes": [4], "setting": "width"},
            r"scaling measures .* and methods\.gradsim has normalize: self",
        ),
    ],
)
def test_what_they_do_not_reach_refuses_them(tmp_path, section, value, message):
    content = _changed(section, value)
    content["methods"]["gradsim"]["normalize"] = "self"
    content["data"]["train_sizes"] = [100]

    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, content))


def test_a_plug_ins_own_setting_of_that_name_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="test_like:Taken has a setting average, a key that means the same for every"):
        instantiate(MethodComponent(path="test_like:Taken"), "methods.taken")


def test_the_keys_count_for_scores_alone_and_their_defaults_for_nothing(tmp_path):
    line = {"attributor": "tdabench.attributors.kronfluence:Kronfluence", "strategy": "identity"}
    lines = [line, {**line, "normalize": "none", "average": 1}, {**line, "normalize": "self"}, {**line, "average": 2}]
    experiments = [load_experiment(_write(tmp_path, _changed("methods", "gradsim", one))) for one in lines]

    for stage in ("attribute", "vary", "sample", "calibrate", "tokens", "properties", "judge", "train"):
        slices = [json.loads(stage_settings(experiment, stage, "gradsim")) for experiment in experiments]
        assert slices[1] == slices[0]
        counts = stage in ("attribute", "vary")
        assert [one != slices[0] for one in slices[2:]] == [counts, counts], stage
    described = json.loads(stage_settings(experiments[0], "attribute", "gradsim"))["method"]
    assert set(described) == {"path", "settings"}


# What is told


def test_a_table_of_unlike_things_says_which_are_divided():
    methods = plain(
        {
            "ekfac": MethodComponent(path="a:A"),
            "mine": MethodComponent(path="a:A", normalize="self"),
            "bif": MethodComponent(path="a:B", settings={"estimate": "correlation"}),
            "random": MethodComponent(path="tdabench.attributors.baselines:Random"),
        }
    )

    told = tell_division(methods, set(methods), str.upper)

    assert told.endswith("self-influence: MINE, BIF. Not divided: EKFAC.")
    assert tell_division(methods, {"ekfac", "random"}) == tell_division(methods, {"mine", "bif", "random"}) == ""
    assert tell_division({}, {"ekfac"}) == ""  # nothing was recorded


def test_the_line_stands_below_the_table_on_the_page_and_in_markdown(tmp_path):
    methods = plain({"a": MethodComponent(path="a:A"), "b": MethodComponent(path="a:A", normalize="self")})
    row = {"experiment": "like", "repeat": "all", "train_size": 40, "lds": 0.5, "low": 0.4, "high": 0.6}
    row |= {"standard_error": 0.1, "queries": 8, "nan_queries": 0, "ceiling": 0.9, "status": "ok"}
    lds = pd.DataFrame([{**row, "method": method} for method in methods])

    note = rank_table(Results(tables={"lds": lds}, figures={}, confidence=0.95, methods=methods), 40, "").note
    text = write_markdown(tmp_path, "lds", lds[["method", "lds"]], tell_division(methods, set(methods)))

    assert note.endswith("self-influence: b. Not divided: a.")
    assert text.endswith("|\n\nUnlike things are compared here. Divided by the root of each training example's "
                         "self-influence: b. Not divided: a.")  # fmt: skip
    assert write_markdown(tmp_path, "lds", lds[["method"]]).endswith("|")


def test_a_method_that_is_divided_is_no_other_price_of_the_one_that_is_not():
    few, many = {"draws": 10}, {"draws": 20}
    methods = {
        "few": MethodComponent(path="a:A", settings=few),
        "many": MethodComponent(path="a:A", settings=many),
        "few_self": MethodComponent(path="a:A", settings=few, normalize="self"),
        "many_self": MethodComponent(path="a:A", settings=many, normalize="self"),
    }

    assert find_lines(methods) == [["few", "many"], ["few_self", "many_self"]]


def test_growth_with_the_draws_is_that_of_what_was_scored():
    covariance, correlation = ({"estimate": name} for name in ("covariance", "correlation"))

    assert estimate_of(covariance, {"normalize": "self"}) is estimate_of(correlation)
    assert estimate_of(covariance, {"normalize": "none", "average": 1}) is estimate_of(covariance)
    assert estimate_of(covariance, {"average": 2}) is None
