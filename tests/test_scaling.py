"""An experiment that measures cost against model size: its settings, its stages, and what runs out of something."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tdabench import cli
from tdabench.experiment.derived import model_at, models_of
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.questions.scaling import stage as scaling_stage
from tdabench.runtime.limits import Outcome, run_limited
from tdabench.storage.records import load_json

pytestmark = pytest.mark.timeout(600)
SIZES = ["4", "8", "16"]
EXPERIMENT: dict[str, Any] = {
    "seed": 3,
    "data": {"source": "tdabench.data.digits:Digits", "train_sizes": [30], "queries": 4},
    "model": {"builder": "tdabench.models.small_cnn:SmallCNN"},
    "scaling": {
        "setting": "width",
        "sizes": [4, 8, 16],
        "predict": [64],
        "queries": [8],
        "queries_at": [4],
        "minutes": 2,
        "memory_gib": 2,
        "draws": 100,
    },
    "methods": {
        "bif": {
            "attributor": "tdabench.attributors.bif:BIF",
            "step_size": 1e-4,
            "inverse_temperature": 100,
            "localization": 1000,
            "chains": 1,
            "draws": 4,
            "restrict": ["*.weight"],
        },
        "fitted": {"attributor": "slow:Fitted"},
        "greedy": {"attributor": "slow:Greedy"},
        "slow": {"attributor": "slow:Slow"},
    },
}
# Methods of one's own: one that is fitted first, and two that are out of something on all but the smallest model.
METHODS = """\
import dataclasses
import time

import torch

from tdabench.cost import phase


def scores(problem):
    return torch.zeros(len(problem.query["label"]), len(problem.train["label"]))


def is_small(problem):
    return sum(parameter.numel() for parameter in problem.models[0].parameters()) < 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    def attribute(self, problem, *, generator):
        with phase("fit"):
            time.sleep(0.3)
            (problem.workspace / "factors").write_bytes(b"x" * 1000)
        return scores(problem)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    def attribute(self, problem, *, generator):
        if not is_small(problem):
            filled = torch.ones(3 * 2**30, dtype=torch.uint8)
            time.sleep(20)
        return scores(problem)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow:
    def attribute(self, problem, *, generator):
        time.sleep(0 if is_small(problem) else 600)
        return scores(problem)
"""


def _write(folder: Path, **changes: Any) -> Path:
    content = copy.deepcopy(EXPERIMENT)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# Settings


def test_an_experiment_may_ask_for_cost_alone_and_train_nothing(tmp_path):
    experiment = load_experiment(_write(tmp_path))

    assert not experiment.is_scored
    assert experiment.training is None
    assert experiment.scaling.names == ("4", "8", "16")
    assert model_at(experiment, "8").settings == {"width": 8}
    with pytest.raises(ValueError, match="tiny has no size '5'; there are 4, 8, 16, 64"):
        model_at(experiment, "5")
    assert list(models_of(experiment)) == [f"model at the size {size}" for size in (*SIZES, "64")]


def test_further_queries_are_run_at_the_sizes_that_are_named_after_the_experiments_own(tmp_path):
    scaling = load_experiment(_write(tmp_path, scaling={"repeats": 2})).scaling

    assert scaling.runs_at("4", 4) == ((4, 0), (4, 1), (8, 0), (8, 1))
    assert scaling.runs_at("16", 4) == ((4, 0), (4, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling": {"sizes": []}}, r"scaling\.sizes must name at least one size"),
        ({"scaling": {"sizes": [4, "4"]}}, r"scaling\.sizes and scaling\.predict must be different sizes"),
        ({"scaling": {"predict": [8]}}, r"scaling\.sizes and scaling\.predict must be different sizes"),
        ({"scaling": {"sizes": ["a/b"], "queries_at": None}}, r"A size in scaling has only letters, .* got 'a/b'"),
        ({"scaling": {"repeats": 0}}, r"scaling\.repeats must be at least 1, got 0"),
        ({"scaling": {"draws": 1}}, r"scaling\.draws must be at least 2 or null, got 1"),
        ({"scaling": {"minutes": 0}}, r"scaling\.minutes must be positive and finite, got 0"),
        ({"scaling": {"memory_gib": -1}}, r"scaling\.memory_gib must be positive and finite or null, got -1"),
        ({"scaling": {"queries": [0]}}, r"scaling\.queries must be at least 1, got 0"),
        ({"scaling": {"queries_at": [32]}}, r"scaling\.queries_at names 32, which is not in scaling\.sizes"),
        ({"data": {"train_sizes": [30, 60]}}, r"data\.train_sizes must be one size, got \[30, 60\]"),
        (
            {"methods": {"bif": {**EXPERIMENT["methods"]["bif"], "step_size": "auto"}}},
            r"methods\.bif has one that says",
        ),
        ({"bank": {"subsets": 6, "fraction": 0.5}}, "The key training is missing"),
        ({"scaling": None}, r"An experiment asks something: give it bank, .* or scaling"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, **change))


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        ({"scaling": {"sizes": [4, 8, 16, 32]}}, {"project"}),
        ({"scaling": {"predict": [128]}}, {"project"}),
        ({"scaling": {"draws": 7}}, {"project"}),
        ({"scaling": {"queries": [16]}}, {"project", "scale 4"}),
        ({"scaling": {"minutes": 3}}, {"project", "scale 4", "scale 8"}),
        ({"evaluation": {"confidence": 0.5}}, {"project"}),
        ({"model": {"width": 2}}, set()),
        ({"data": {"queries": 5}}, {"project", "scale 4", "scale 8"}),
        ({"methods": {"greedy": {"attributor": "slow:Slow"}}}, set()),
    ],
)
def test_a_change_concerns_exactly_the_jobs_whose_result_depends_on_it(tmp_path, change, concerned):
    before = _settings(_write(tmp_path))
    after = _settings(_write(tmp_path, **change))

    assert {job for job, settings in after.items() if settings != before[job]} == concerned


def test_a_recipe_of_pretraining_concerns_no_scale_job_since_it_trains_nothing(tmp_path):
    recipe = {"optimizer": "adamw", "epochs": 1, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0}
    scored = {"training": recipe, "bank": {"subsets": 4, "fraction": 0.5}, "evaluation": {"top": 1}}
    before = _settings(_write(tmp_path, **scored))

    assert _settings(_write(tmp_path, **scored, pretraining=recipe)) == before


def _settings(path: Path) -> dict[str, str]:
    experiment = load_experiment(path)
    found = {f"scale {size}": stage_settings(experiment, "scale", "bif", size=size) for size in ("4", "8")}
    return {**found, "project": stage_settings(experiment, "project")}


# The stages, one after the other as the workflow runs them


def _run(stage, folder, *arguments, **changes):
    assert cli.main([stage, str(_write(folder, **changes)), *arguments]) == 0


def _run_here(function, *arguments, seconds, memory_bytes):
    return Outcome(status="ok", value=function(*arguments))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every job of the experiment was run."""
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "slow.py").write_text(METHODS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[1]}")
        _run("dataset", folder)
        _run("split", folder, "--repeat", "0")
        for method, size in [*((method, size) for method in ("bif", "fitted") for size in SIZES),
                             ("greedy", "4"), ("greedy", "8"), ("slow", "4"), ("slow", "16")]:  # fmt: skip
            # A fresh process takes seconds to import torch: only those that end for lack of something, and one other.
            apart = (method, size) in (("fitted", "16"), ("greedy", "8"), ("slow", "16"))
            patch.setattr(scaling_stage, "run_limited", run_limited if apart else _run_here)
            changes = {"scaling": {"minutes": 0.05}} if (method, size) == ("slow", "16") else {}
            _run("scale", folder, "--method", method, "--size", size, **changes)
        for method, size in (("greedy", "16"), ("slow", "8")):  # as the others that are out of something
            other = {"greedy": "8", "slow": "16"}[method]
            content = load_json(folder / f"results/tiny/scale/{method}-{other}.json")
            (folder / f"results/tiny/scale/{method}-{size}.json").write_text(json.dumps({**content, "size": size}))
        _run("project", folder)
        _run("report", folder)
    return folder / "results/tiny"


def test_the_table_has_a_row_for_every_run_and_phase_with_what_it_cost(place):
    table = pd.read_csv(place / "tables/scaling.csv", dtype={"size": str})

    fitted = table[table["method"] == "fitted"]
    assert sorted(zip(fitted["size"], fitted["queries"], fitted["phase"], strict=True)) == sorted(
        (size, queries, phase)
        for size, queries in [("4", 4), ("4", 8), ("8", 4), ("16", 4)]
        for phase in ("fit", "score")
    )
    fit = fitted[fitted["phase"] == "fit"]
    assert (fit["seconds"] >= 0.3).all()
    assert (fit["cpu_seconds"] < fit["seconds"]).all()
    assert (fit["disk_bytes"] == 1000).all()
    assert (fit["peak_host_bytes"] > 10**8).all()
    bif = table[table["method"] == "bif"].set_index(["size", "queries"])
    assert (bif["draws"] == 4).all()
    assert (bif["draw_seconds"] > 0).all()
    # A forward pass of every example at the checkpoint and each of four draws, whose steps take 128 gradients.
    assert bif["passes"].to_dict() == {
        (size, queries): 5 * (30 + queries) + 4 * 3 * min(128, 30) for size, queries in bif.index
    }
    # All parameters, and those that a method looks at.
    assert (fitted["parameters"] == fitted["tracked_parameters"]).all()
    assert set(bif["parameters"]) == set(fitted["parameters"])
    assert (bif["tracked_parameters"] < bif["parameters"]).all()


def test_a_run_that_is_out_of_time_or_memory_is_a_row_that_says_so(place):
    table = pd.read_csv(place / "tables/scaling.csv", dtype={"size": str})

    rows = table[table["method"].isin(["greedy", "slow"]) & (table["queries"] == 4)].set_index(["method", "size"])
    assert rows.loc[("greedy", "4"), "status"] == rows.loc[("slow", "4"), "status"] == "ok"
    assert rows.loc[("greedy", "8"), "status"].startswith("out of memory: ")
    assert rows.loc[("slow", "16"), "status"] == "out of time: not done after 0.05 minutes"
    lost = rows[rows["status"] != "ok"]
    assert len(lost) == 4
    assert lost["seconds"].isna().all()
    assert not list((place / "scale").glob(".workspace*"))


def test_what_was_not_run_is_predicted_and_the_largest_measured_size_is_held_out(place):
    fits = pd.read_csv(place / "tables/scaling_fits.csv", dtype={"held_out": str})
    predictions = pd.read_csv(place / "tables/scaling_predictions.csv", dtype={"size": str})

    disk = fits[(fits["method"] == "fitted") & (fits["quantity"] == "disk_bytes")].iloc[0]
    assert disk["exponent"] == pytest.approx(0, abs=1e-9)
    assert (disk["held_out"], disk["predicted"], disk["measured"]) == ("16", pytest.approx(1000), 1000)
    assert set(predictions["size"]) == {"64"}
    assert {"fit", "score", "total"} <= set(predictions.loc[predictions["method"] == "fitted", "phase"])
    sampled = predictions[(predictions["method"] == "bif") & (predictions["quantity"] == "seconds")]
    assert set(sampled["draws"]) == {4, 100}
    assert not set(predictions["method"]) & {"greedy", "slow"}


def test_the_break_even_is_measured_for_the_draws_that_were_made_and_predicted_for_others(place):
    table = pd.read_csv(place / "tables/break_even.csv", dtype={"size": str})

    rows = table[(table["other"] == "bif") & (table["quantity"] == "seconds")]
    assert list(rows["size"]) == ["4", "4"]
    assert list(rows["draws"]) == [4, 100]
    assert set(rows["method"]) == {"fitted"}
    assert rows["low"].notna().tolist() == [True, False]


def test_page_and_figures_are_there(place):
    page = (place / "report.html").read_text()

    assert "Cost against model size" in page
    assert "out of time: not done after 0.05 minutes" in page
    assert (place / "figures/scaling.png").is_file()
    assert (place / "figures/break_even.png").is_file()
