"""The stage that finds settings, from the command line and in the plan of the workflow."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors

REPOSITORY = Path(__file__).parents[1]
EXPERIMENT = """\
seed: 0
data: {source: "tdabench.data.digits:Digits", train_sizes: [60], queries: 12}
model: {builder: "tdabench.models.small_cnn:SmallCNN", width: 4}
training: {optimizer: adamw, epochs: 2, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5}
methods:
  random: {attributor: "tdabench.attributors.baselines:Random"}
  bif:
    attributor: "tdabench.attributors.bif:BIF"
    step_size: auto
    inverse_temperature: 20
    localization: 500
    chains: 2
    draws: 5
    steps_between_draws: auto
evaluation: {resamples: 100}
"""
CELL = ("--repeat", "0", "--train-size", "60")
FILES = Cell(Path("results/tiny"), 0, 60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with an experiment, its data and its checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("calibrate") / "trained"
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run("dataset")
        _run("split", "--repeat", "0")
        _run("train", *CELL, "--checkpoint", "0")
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """Run in a copy of that folder."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def _run(stage: str, *arguments: str, status: int = 0) -> None:
    assert cli.main([stage, "tiny", *arguments]) == status


def _error(capsys, stage: str, *arguments: str) -> str:
    capsys.readouterr()
    _run(stage, *arguments, status=1)
    return capsys.readouterr().err


def test_the_jobs_of_a_method_with_auto_give_the_same_scores_as_the_method_with_the_values_found(here, capsys):
    _run("calibrate", "--method", "bif", "--write")
    for chain in range(2):
        _run("sample", *CELL, "--method", "bif", "--chain", str(chain))
    _run("attribute", *CELL, "--method", "bif")

    found, scores = load_json(FILES.calibration("bif")), load_tensors(FILES.scores("bif"))["scores"]
    values = {name: found["proposed"][name] for name in ("step_size", "steps_between_draws")}
    record, traces = load_record(FILES.scores("bif")), load_record(FILES.traces("bif"))
    assert {name: record["attributor"][name] for name in values} == values
    assert {name: traces["settings"][name] for name in values} == values
    assert record["attributor"]["burn_in"] == 0  # given by its default, not found
    assert record["method"]["settings"]["step_size"] == "auto"
    assert str(FILES.calibration("bif")) in record["inputs"]
    assert record["cost"]["fit"] == found["record"]["cost"]["fit"]
    assert load_json(FILES.diagnosis("bif"))["draws"] == 5
    _write(here, "auto", f"{values['step_size']}", f"{values['steps_between_draws']}")
    for chain in range(2):
        _run("sample", *CELL, "--method", "bif", "--chain", str(chain))
    _run("attribute", *CELL, "--method", "bif")
    assert torch.equal(load_tensors(FILES.scores("bif"))["scores"], scores)


def test_a_person_gets_a_report_and_no_file(here, capsys):
    before = set(here.rglob("*"))

    _run("calibrate", "--method", "bif")

    text = capsys.readouterr().out
    assert text.startswith("bif of tiny, repeat 0, 60 examples\n")
    assert "where the chain goes" in text
    for name in ("step_size", "steps_between_draws", "burn_in"):
        assert re.search(rf"^    {name}: [0-9.e-]+", text, re.MULTILINE)
    assert set(here.rglob("*")) == before


def test_a_person_is_told_what_their_own_step_size_is(here, capsys):
    _write(here, "auto", "1.0e-6", "4")

    _run("calibrate", "--method", "bif")

    text = capsys.readouterr().out
    assert re.search(r"The file's step_size 1e-06 is 0% of the stability limit: stable, but \d+ times smaller", text)
    assert "# the file has 4" in text


def test_a_person_who_has_trained_nothing_is_told_the_command_that_does(here, capsys):
    shutil.rmtree("results/tiny/0/60")

    message = _error(capsys, "calibrate", "--method", "bif")

    assert "`snakemake results/tiny/0/60/checkpoints/0.safetensors` makes what is missing" in message


def test_a_method_without_a_calibration_is_an_error_for_a_person_and_an_empty_file_for_the_workflow(here, capsys):
    message = _error(capsys, "calibrate", "--method", "random")
    _run("calibrate", "--method", "random", "--write")

    assert "random (tdabench.attributors.baselines:Random) has no calibration" in message
    assert load_json(FILES.calibration("random"))["proposed"] == {}
    assert load_record(FILES.calibration("random"))["status"] == "nothing to calibrate"


@pytest.mark.parametrize(("stage", "more"), [("attribute", ()), ("sample", ("--chain", "0"))])
def test_a_job_of_a_method_with_auto_needs_the_calibration(here, capsys, stage, more):
    message = _error(capsys, stage, *CELL, "--method", "bif", *more)

    assert f"There is no result file {FILES.calibration('bif')}; the workflow makes it." in message


def test_another_word_than_auto_is_an_error(here, capsys):
    _write(here, "auto", "by itself", "4")

    message = _error(capsys, "calibrate", "--method", "bif")

    assert "methods.bif.step_size must be of type" in message
    assert "got 'by itself'" in message


def test_a_change_of_settings_concerns_the_calibration_only_where_it_matters(here):
    plain = load_experiment("experiments/tiny.yaml")
    changes = {
        "chains: 2": ("chains: 3", {"attribute", "vary", "properties"}),
        "draws: 5": ("draws: 6", {"attribute", "vary", "properties", "sample"}),
        "localization: 500": ("localization: 400", {"attribute", "vary", "properties", "sample", "calibrate"}),
        "step_size: auto": ("step_size: 1e-4", {"attribute", "vary", "properties", "sample", "calibrate"}),
    }

    for old, (new, expected) in changes.items():
        assert EXPERIMENT.count(old) == 1
        (here / "experiments" / "tiny.yaml").write_text(EXPERIMENT.replace(old, new), encoding="utf-8")
        changed = load_experiment("experiments/tiny.yaml")
        stages = ("train", "retrain", "attribute", "sample", "calibrate", "vary", "properties", "judge")
        assert {
            stage for stage in stages if stage_settings(changed, stage, "bif") != stage_settings(plain, stage, "bif")
        } == expected


@pytest.mark.timeout(300)
def test_the_workflow_calibrates_a_method_with_auto_once_before_its_chains_and_no_other(here):
    shutil.copy(REPOSITORY / "Snakefile", here)
    shutil.copytree(REPOSITORY / "profiles", here / "profiles")
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    environment.pop("PYTHONWARNINGS", None)

    done = subprocess.run(
        ["snakemake", "-n", "tiny", "--rerun-triggers", "mtime"],
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", done.stdout, re.MULTILINE)
    users = [(rule, text) for rule, text in jobs if "calibrate/bif.json" in text.partition("output:")[0]]
    assert [text.count("method=bif") for rule, text in jobs if rule == "calibrate"] == [1]
    assert sorted(rule for rule, _ in users) == ["attribute", "sample", "sample"]


def _write(folder: Path, old: str, *new: str) -> None:
    """Put values in the places of the file that say ``auto``, in order."""
    text = EXPERIMENT
    for value in new:
        text = text.replace(old, value, 1)
    (folder / "experiments" / "tiny.yaml").write_text(text, encoding="utf-8")
