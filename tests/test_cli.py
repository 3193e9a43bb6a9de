"""The command line, as a person meets it: help, lists, errors of one line, and the check of a method."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.planning.settings import hash_settings
from tdabench.stages import STAGES, command_line
from tdabench.stages.bench import load_data
from tdabench.storage.records import make_record, save_tensors

REPOSITORY = Path(__file__).parents[1]
DIGITS = (REPOSITORY / "experiments" / "lds_digits.yaml").read_text()
CELL = ("--repeat", "0", "--train-size", "250")
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
    """Run in a folder with the experiment ``tiny``; forget the plug-ins that were imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "experiments").mkdir()
    _write(DIGITS)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _write(text: str) -> None:
    Path("experiments/tiny.yaml").write_text(text)


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
    assert all(f"  {stage} " in done.stdout for stage in STAGES)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tdabench.cli" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help_that_explains_all_that_it_takes(capsys, stage):
    with pytest.raises(SystemExit) as stop:
        cli.main([*stage.split(), "--help"])

    assert stop.value.code == 0
    assert f"usage: tdabench {stage}" in capsys.readouterr().out
    parser = command_line.make_parser(stage, command_line.load_stage(stage))
    assert [action.dest for action in parser._actions if not action.help] == []


def test_a_signature_becomes_a_command_line():
    parser = command_line.make_parser("check", command_line.load_stage("check"))

    parsed = parser.parse_args(["a:B", "--set", "x=1", "y=2", "--text", "--set", "z=3"])

    assert (parsed.path, parsed.set_, parsed.text) == ("a:B", ["x=1", "y=2", "z=3"], True)
    assert (parsed.uninformative, parsed.traceback) == (False, False)


def test_a_text_of_several_lines_explains_one_argument():
    def stage(first: int, second: float = 0.5) -> None:
        """Do it.

        Args:
            first: one thing,
                of 5%.
            second: another.

        Raises:
            ValueError: never.
        """

    assert command_line._explanations(stage) == {"first": "one thing, of 5%%", "second": "another"}


def test_methods_lists_the_built_in_ones(capsys):
    status = cli.main(["methods"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[2:]] == [
        "bif", "bif_baoab", "bif_rmsprop", "bif_laplace", "ekfac", "kfac", "diagonal", "gradsim", "trak", "bm25",
        "random", "query_independent",
    ]  # fmt: skip


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])

    assert stop.value.code == 0
    assert re.fullmatch(r"tdabench \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["retrian"], ["bank"], ["bank", "exprot"]])
def test_a_stage_that_does_not_exist_is_refused_with_the_ones_that_do(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)

    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"invalid choice: '{arguments[0]}'" in error
    assert "'retrain'" in error
    assert "'bank export'" in error


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("split absent.yaml --repeat 0", "There is no experiment file absent.yaml"),
        ("split absent --repeat 0", "There is no experiment file experiments/absent.yaml"),
        (
            "split experiments/tiny.yaml --repeat 0",
            "There is no result file results/tiny/dataset.safetensors; the workflow makes it.",
        ),
        (
            "retrain tiny --repeat 0 --train-size 251 --shard 0",
            "There is no train_size 251 in tiny; there are 250, 500.",
        ),
        ("judge tiny --repeat 3 --train-size 250", "tiny has the repeats 0 to 2, got 3."),
        ("judge tiny --repeat -1 --train-size 250", "tiny has the repeats 0 to 2, got -1."),
        ("calibrate tiny --method bif --train-size 251", "There is no train_size 251 in tiny; there are 250, 500."),
        ("calibrate tiny --method bif --repeat 3", "tiny has the repeats 0 to 2, got 3."),
        (
            "attribute tiny --repeat 0 --train-size 250 --method biff",
            "There is no method biff in tiny; there are bif, bif_laplace, ekfac, kfac, diagonal, gradsim, trak, "
            "random, query_independent.",
        ),
        (
            "vary tiny --repeat 0 --train-size 250 --method bif",
            "tiny does not vary bif: it has no section variance, or the section's methods leave it out.",
        ),
        ("pretrain tiny", "tiny has no section pretraining: there is nothing to do."),
        ("bank import a --output b --into c", "Say where to: either --output BANK, or --into FOLDER"),
    ],
)
def test_an_error_is_one_line_that_names_the_stage_the_value_and_the_remedy(capsys, here, arguments, message):
    _write(re.sub(r"(?m)^variance:.*\n", "", DIGITS))
    words = arguments.split()

    line = _error(capsys, *words)

    assert line.startswith(f"tdabench {'bank import' if words[0] == 'bank' else words[0]}: {message}")


def test_traceback_shows_where_an_error_came_from(here):
    with pytest.raises(FileNotFoundError, match="There is no experiment file"):
        cli.main(["split", "absent.yaml", "--repeat", "0", "--traceback"])


@pytest.fixture
def loaded(here):
    """Make the digits' dataset and split."""
    assert cli.main(["dataset", "tiny"]) == 0
    assert cli.main(["split", "tiny", "--repeat", "0"]) == 0


def test_the_names_of_the_labels_are_kept_with_the_dataset(loaded):
    assert load_data(Path("results/tiny/dataset.safetensors")).label_names == tuple("0123456789")


def test_a_dataset_of_an_earlier_version_has_no_names(here):
    labels = torch.zeros(2, dtype=torch.long)
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    parts = {"train_images": images, "test_images": images + 1, "train_labels": labels, "test_labels": labels + 1}
    save_tensors("old.safetensors", {**parts, "mean": torch.zeros(1), "deviation": torch.ones(1)}, make_record({}))

    assert load_data(Path("old.safetensors")).label_names == ()


def test_what_the_files_show_to_be_wrong_is_one_line_too(capsys, loaded):
    line = _error(capsys, "retrain", "tiny", *CELL, "--shard", "2")

    assert line == "tdabench retrain: There are shards 0 to 1, got 2."
    # The split does not depend on the sizes, so that it is not made again: its check has passed long ago.
    _write(DIGITS.replace("train_sizes: [250, 500]", "train_sizes: [250, 5000]"))

    line = _error(capsys, "train", "tiny", "--repeat", "0", "--train-size", "5000", "--checkpoint", "0")

    assert line.startswith("tdabench train: The split has 1297 examples, too few for train_size 5000")


def test_the_home_folder_of_the_datas_place_is_found(here, monkeypatch):
    def stage(data: Path = Path("data")) -> None:
        """Look at it."""

    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TDABENCH_DATA", "~/data")
    parsed = argparse.Namespace(data=None, planned=None)

    assert command_line._values("dataset", stage, parsed) == {"data": Path("/home/someone/data")}


# Settings that were planned


@pytest.mark.parametrize(
    ("stage", "options", "edit"),
    [
        ("split", {"repeat": 0}, (" queries: 200", " queries: 199")),
        ("train", {"repeat": 0, "train_size": 250, "checkpoint": 0}, ("epochs: 12", "epochs: 13")),
        ("retrain", {"repeat": 0, "train_size": 250, "shard": 0}, ("shards: 2", "shards: 5")),
        ("attribute", {"repeat": 0, "train_size": 250, "method": "bif"}, ("draws: 100", "draws: 101")),
        ("judge", {"repeat": 0, "train_size": 250}, ("methods:", "evaluation: {confidence: 0.9}\nmethods:")),
    ],
)
def test_a_job_runs_with_the_settings_that_were_planned_and_with_no_others(capsys, here, stage, options, edit):
    found = {name: options[name] for name in ("method", "train_size") if name in options}
    _write(re.sub(r"(?m)^evaluation:.*\n", "", DIGITS))
    planned = hash_settings(command_line.find_experiment("tiny"), stage, **found)
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    # An edit that does not concern the job, then one that does.
    text = re.sub(r"(?m)^evaluation:.*\n", "", DIGITS).replace("weight_decay: 0.01", "weight_decay: 0.01  # 1%")
    _write(text)
    accepted = _error(capsys, stage, "tiny", *words, "--planned", planned)
    assert text.count(edit[0]) == 1
    _write(text.replace(*edit))
    refused = _error(capsys, stage, "tiny", *words, "--planned", planned)

    assert "There is no result file results/tiny/" in accepted
    assert refused == (
        f"tdabench {stage}: The settings of tiny were edited after this run was planned, so that its results would be "
        "of two recipes: run the workflow again. What is finished and not concerned by the edit is kept."
    )


# Planning


def test_a_plan_from_values_marks_the_cheapest_bank_that_suffices(capsys):
    values = ["--agreement", "0.5", "--lds", "0.4", "--queries", "50", "--subsets", "50", "--subsets", "400"]

    status = cli.main(["power", "--half-width", "0.05", *values, "--retrains", "1"])

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


KNOWN = ("--agreement", "0.5", "--lds", "0.4", "--queries", "9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Without a pilot, --agreement, --lds, --queries must be given: what you expect."),
        ([*KNOWN, "--method", "bif"], "--method bif is for a pilot"),
        (["absent.json", "--lds", "0.4"], "--lds is known from the pilot: leave it out, or plan without a pilot."),
        (["absent.json"], "absent.json is no judgement of a finished run: give results/NAME/"),
        (["experiments/tiny.yaml"], "experiments/tiny.yaml is no judgement of a finished run: give results/NAME/"),
        ([*KNOWN, "--half-width", "-1"], "--half-width must be positive, got -1.0."),
        ([*KNOWN, "--half-width", "nan"], "--half-width must be positive, got nan."),
        ([*KNOWN, "--queries", "0"], "--queries must be at least 2, got 0."),
        ([*KNOWN, "--subsets", "50", "2"], "--subsets must be from 3 to 1,000,000, got 2."),
        ([*KNOWN, "--retrains", "0"], "--retrains must be from 1 to 1,000,000, got 0."),
    ],
)
def test_what_cannot_be_planned_is_one_line_before_anything_is_simulated(capsys, here, arguments, message):
    line = _error(capsys, "power", "--half-width", "0.02", *arguments)

    assert line.startswith(f"tdabench power: {message}")
    assert "bootstrap" not in line


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
    assert error.startswith("tdabench check: 'scale=[1' is not valid YAML: line 1, column 3: ")
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
