"""The command line, as a person meets it: help, lists, errors of one line, and the check of a method."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.stages.bench import load_data
from tdabench.storage.records import make_record, save_tensors

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "experiments" / "lds_digits.yaml"
STAGES = (
    "dataset", "split", "train", "retrain", "attribute", "vary", "evaluate", "compare", "agree", "properties", "keep",
    "calibrate", "diagnose", "grow", "sweep", "choose", "sample", "remove", "contrast", "detect", "report", "check",
    "power", "bank", "tokens",
)  # fmt: skip
SIMILARITY = """
import dataclasses

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    scale: float = 1.0

    def attribute(self, problem, *, generator):
        query, train = (part["image"].flatten(1) for part in (problem.query, problem.train))
        same = problem.query["label"][:, None] == problem.train["label"]
        return self.scale * (query @ train.T) * same
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in an empty folder; forget the plug-ins that were imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Run a command that must fail; return its only line on stderr."""
    status = cli.main(arguments)
    output, error = capsys.readouterr()
    assert status == 1
    assert output == ""
    assert "Traceback" not in error
    lines = error.splitlines()
    assert len(lines) == 1, error
    return lines[0]


# Help and lists


def test_the_installed_command_gives_help_without_importing_torch():
    command = Path(sys.executable).parent / "tdabench"
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}

    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    assert "Benchmark of training-data attribution" in done.stdout
    assert all(stage in done.stdout for stage in ("dataset", "split", "train", "retrain", "attribute", "evaluate"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tdabench.cli" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help(capsys, stage):
    with pytest.raises(SystemExit) as stop:
        cli.main([stage, "--help"])

    assert stop.value.code == 0
    assert f"usage: tdabench {stage}" in capsys.readouterr().out


def test_methods_lists_the_built_in_ones(capsys):
    status = cli.main(["methods"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[2:]] == [
        "bif", "bif_baoab", "bif_rmsprop", "bif_laplace", "ekfac", "kfac", "diagonal", "gradsim", "trak", "bm25",
        "random", "query_independent",
    ]  # fmt: skip


def test_a_stage_that_does_not_exist_is_refused_with_the_ones_that_do(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["retrian"])

    assert stop.value.code == 2
    assert "'retrain'" in capsys.readouterr().err


# Errors


def test_an_error_is_one_line_that_names_the_stage_and_the_file(capsys, here):
    line = _error(capsys, "split", "absent.yaml", "--repeat", "0", "--dataset", "d", "--output", "o")

    assert line.startswith("tdabench split: There is no experiment file absent.yaml")


def test_traceback_shows_where_an_error_came_from(here):
    with pytest.raises(FileNotFoundError, match="There is no experiment file"):
        cli.main(["split", "absent.yaml", "--repeat", "0", "--dataset", "d", "--output", "o", "--traceback"])


def test_an_absent_result_file_says_who_makes_it(capsys, here):
    line = _error(capsys, "split", str(DIGITS), "--repeat", "0", "--dataset", "absent.safetensors", "--output", "o")

    assert line == "tdabench split: There is no result file absent.safetensors; the workflow makes it."


@pytest.fixture
def loaded(here):
    """Return the paths of the digits' dataset and split, as arguments."""
    assert cli.main(["dataset", str(DIGITS), "--output", "dataset.safetensors"]) == 0
    split = ["split", str(DIGITS), "--repeat", "0", "--dataset", "dataset.safetensors", "--output", "split.safetensors"]
    assert cli.main(split) == 0
    return ["--repeat", "0", "--dataset", "dataset.safetensors", "--split", "split.safetensors"]


def test_the_names_of_the_labels_are_kept_with_the_dataset(loaded):
    assert load_data(Path("dataset.safetensors")).label_names == tuple("0123456789")


def test_a_dataset_of_an_earlier_version_has_no_names(here):
    labels = torch.zeros(2, dtype=torch.long)
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    parts = {"train_images": images, "test_images": images + 1, "train_labels": labels, "test_labels": labels + 1}
    save_tensors("old.safetensors", {**parts, "mean": torch.zeros(1), "deviation": torch.ones(1)}, make_record({}))

    assert load_data(Path("old.safetensors")).label_names == ()


def test_an_unknown_method_names_the_known_ones(capsys, loaded):
    line = _error(
        capsys, "attribute", str(DIGITS), *loaded, "--train-size", "250", "--method", "biff", "--checkpoints", "c",
        "--output", "o",
    )  # fmt: skip

    assert line.startswith("tdabench attribute: There is no method biff in ")
    assert line.endswith("there are bif, bif_laplace, ekfac, kfac, diagonal, gradsim, trak, random, query_independent.")


def test_an_unknown_size_names_the_known_ones(capsys, loaded):
    line = _error(
        capsys, "retrain", str(DIGITS), *loaded, "--train-size", "251", "--shard", "0", "--output", "o"
    )  # fmt: skip

    assert line.startswith("tdabench retrain: There is no train_size 251 in ")
    assert line.endswith("there are 250, 500.")


def test_an_unknown_shard_names_the_known_ones(capsys, loaded):
    line = _error(capsys, "retrain", str(DIGITS), *loaded, "--train-size", "250", "--shard", "2", "--output", "o")

    assert line == "tdabench retrain: There are shards 0 to 1, got 2."


def test_a_size_that_is_added_later_must_fit_into_the_split(capsys, loaded):
    # The split does not depend on the sizes, so that it is not made again: its check has passed long ago.
    grown = Path("grown.yaml")
    grown.write_text(DIGITS.read_text().replace("train_sizes: [250, 500]", "train_sizes: [250, 5000]"))

    line = _error(capsys, "train", "grown.yaml", *loaded, "--train-size", "5000", "--checkpoint", "0", "--output", "o")

    assert "5000" in line
    assert "1297" in line


def test_a_method_that_is_not_varied_says_so(capsys, loaded):
    plain = Path("plain.yaml")
    plain.write_text(re.sub(r"(?m)^variance:.*\n", "", DIGITS.read_text()))

    line = _error(
        capsys, "vary", "plain.yaml", *loaded, "--train-size", "250", "--method", "bif", "--checkpoints", "c",
        "--output", "o",
    )  # fmt: skip

    assert line.startswith("tdabench vary: plain.yaml does not vary bif: it has no section variance, or ")


def test_a_comparison_without_a_methods_scores_names_it(capsys, here):
    line = _error(
        capsys, "compare", str(DIGITS), "--repeat", "0", "--train-size", "250", "--split", "s", "--bank", "b",
        "--scores", "scores/bif.safetensors", "scores/random.safetensors", "--output", "o",
    )  # fmt: skip

    missing = "bif_laplace, ekfac, kfac, diagonal, gradsim, trak, query_independent"
    assert line.startswith(f"tdabench compare: --scores has no file of {missing}: ")
    assert line.endswith("give one a method, named by its key.")


# Planning


def test_a_plan_from_values_marks_the_cheapest_bank_that_suffices(capsys):
    values = ["--agreement", "0.5", "--lds", "0.4", "--queries", "50", "--subsets", "50", "400", "--retrains", "1"]

    status = cli.main(["power", "--half-width", "0.05", *values])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert lines[0] == "LDS, from planning values; 50 queries, wished half-width 0.05 at 95%"
    assert lines[2].split() == ["subsets", "retrains", "ceiling", "LDS", "half-width", "models"]
    assert [line.split()[:2] for line in lines[3:5]] == [["50", "1"], ["*", "400"]]
    assert lines[-1] == "* the cheapest that suffices"


def test_a_plan_that_no_bank_fulfils_says_what_would_help(capsys):
    values = ["--agreement", "0.5", "--lds", "0.4", "--queries", "50", "--subsets", "50", "--against", "another"]

    cli.main(["power", "--half-width", "1e-4", *values])

    output = capsys.readouterr().out
    assert output.startswith("Difference of two methods, from planning values")
    assert "None of these suffices; the narrowest is 0." in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Without a pilot, --agreement, --lds, --queries must be given: what you expect."),
        (["--agreement", "0.5", "--lds", "0.4", "--queries", "9", "--method", "bif"], "--method bif is for a pilot"),
        (["absent.json", "--lds", "0.4"], "--lds is known from the pilot: leave it out, or plan without a pilot."),
        (["absent.json"], "absent.json is no comparison of a finished run: give results/NAME/"),
    ],
)
def test_a_plan_without_what_it_needs_is_one_line(capsys, here, arguments, message):
    line = _error(capsys, "power", *arguments, "--half-width", "0.02")

    assert line.startswith(f"tdabench power: {message}")


# The check of a method


def test_a_good_plug_in_passes_the_check(capsys, here):
    (here / "good.py").write_text(SIMILARITY)

    status = cli.main(["check", "good:Mine", "--set", "scale=2"])

    assert status == 0
    assert capsys.readouterr().out == (
        "good:Mine passes: shape, sign, finiteness, repeatability, nothing touched.\n"
    )  # fmt: skip


def test_a_plug_in_with_the_wrong_sign_fails_the_check_which_says_so(capsys, here):
    (here / "turned.py").write_text(SIMILARITY)

    line = _error(capsys, "check", "turned:Mine", "--set", "scale=-1")

    assert line.startswith("tdabench check: Mine gives an example a mean score of -")
    assert "Positive means helpful" in line
    assert line.endswith("Is the sign the wrong way round?")


def test_a_baseline_passes_the_check_when_it_is_said_to_be_uninformative(capsys, here):
    path = "tdabench.attributors.baselines:Random"

    assert cli.main(["check", path, "--uninformative"]) == 0
    assert f"{path} passes" in capsys.readouterr().out


def test_a_method_that_says_that_it_cannot_run_gives_its_reason_in_one_line(capsys, here):
    line = _error(capsys, "check", "tdabench.attributors.trak:TRAK", "--set", "proj_dim=512")

    assert line.startswith("tdabench check: tdabench.attributors.trak:TRAK can't run on the check's small images: TRAK")
    assert "(144)" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("alpha", "A setting has the form key=value, got 'alpha'."),
        ("alpha=1", "Unknown key plug_in:Mine.alpha; the known ones are: scale."),
        ("scale=fast", "plug_in:Mine.scale must be of type float, got 'fast'."),
        ("scale=", "plug_in:Mine.scale must be of type float, got None."),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(capsys, here, setting, message):
    (here / "plug_in.py").write_text(SIMILARITY)

    line = _error(capsys, "check", "plug_in:Mine", "--set", setting)

    assert line.startswith(f"tdabench check: {message}")


def test_a_setting_that_is_no_yaml_shows_the_place(capsys, here):
    (here / "plug_in.py").write_text(SIMILARITY)

    status = cli.main(["check", "plug_in:Mine", "--set", "scale=[1"])

    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("tdabench check: 'scale=[1' is not valid YAML: line 1, column 3: expected ',' or ']'")
    assert "Traceback" not in error


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Mine", "Can't import 'no_such_module:Mine': No module named 'no_such_module'. Install it"),
        ("tdabench.experiment.read:Mine", "The module tdabench.experiment.read has no class Mine."),
        (
            "tdabench.experiment.read",
            "An import path has the form package.module:Class, got 'tdabench.experiment.read'.",
        ),
        ("argparse:Namespace", "Namespace has no method attribute(problem, *, generator)."),
    ],
)
def test_a_path_that_leads_to_no_method_is_one_line(capsys, here, path, message):
    line = _error(capsys, "check", path)

    assert line.startswith(f"tdabench check: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--half-width", "-1"], "--half-width must be positive, got -1.0."),
        (["--half-width", "nan"], "--half-width must be positive, got nan."),
        (["--queries", "0"], "--queries must be at least 2, got 0."),
        (["--subsets", "50", "2"], "--subsets must be from 3 to 1,000,000, got 2."),
        (["--retrains", "0"], "--retrains must be from 1 to 1,000,000, got 0."),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_simulated(capsys, here, arguments, message):
    line = _error(capsys, "power", "--half-width", "0.02", "--agreement", "0.5", "--lds", "0.5", *arguments)

    assert line.startswith(f"tdabench power: {message}")
    assert "bootstrap" not in line


def test_a_file_of_another_kind_is_no_pilot_and_is_not_called_damaged(capsys, here):
    (here / "tiny.yaml").write_text("seed: 0")

    line = _error(capsys, "power", "tiny.yaml", "--half-width", "0.02")

    assert line.startswith("tdabench power: tiny.yaml is no comparison of a finished run: give results/NAME/")
