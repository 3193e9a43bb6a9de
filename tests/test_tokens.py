"""The stage ``tokens``: from text and a checkpoint to what a page of tokens needs."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tdabench import cli
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.questions.tokens.stage import choose_top
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_record, load_tensors, save_tensors, save_text

TEXT = "\n".join(
    f"{name} has a {thing}. The {thing} of {name} is {colour}."
    for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")
    for thing in ("boat", "kite", "house", "garden")
    for colour in ("red", "blue")
)
EXPERIMENT: dict[str, Any] = {
    "seed": 0,
    "data": {
        "source": "tdabench.data.sources:TextFiles",
        "options": {"files": ["text.txt"], "separator": "\n", "length": 12, "shortest": 5, "vocabulary": 300},
        "train_sizes": [20],
        "queries": 6,
    },
    "model": {
        "builder": "tdabench.models.gpt_neox:Pythia", "hidden_size": 16, "layers": 1, "heads": 2, "vocabulary": 300,
        "positions": 12,
    },
    "training": {"optimizer": "adamw", "epochs": 1, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0},
    "bank": {"subsets": 6, "fraction": 0.5},
    "methods": {
        "bif": {
            "attributor": "tdabench.attributors.bif:BIF", "step_size": 1.0e-5, "inverse_temperature": 100.0,
            "localization": 100.0, "chains": 2, "draws": 5, "batch_size": 4,
        },
        "gradsim": {"attributor": "tdabench.attributors.kronfluence:Kronfluence", "strategy": "identity"},
        "random": {"attributor": "tdabench.attributors.baselines:Random"},
    },
    "tokens": {"queries": 3, "top": 4, "methods": ["bif", "gradsim"]},
    "evaluation": {"resamples": 100, "top": 5},
}  # fmt: skip
QUERIES, TOP, LENGTH = 3, 4, 12
CELL, PLACE = Cell(Path("results/tiny"), 0, 20), ("--repeat", "0", "--train-size", "20")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Make a folder with a checkpoint and the scores of every method."""
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        _write(EXPERIMENT)
        _run("dataset", "--data", ".")
        _run("split", "--repeat", "0")
        _run("train", *PLACE, "--checkpoint", "0")
        for chain in range(2):
            _run("sample", *PLACE, "--method", "bif", "--chain", str(chain))
        for method in EXPERIMENT["methods"]:
            _run("attribute", *PLACE, "--method", method)
    return folder


@pytest.fixture
def here(scored, monkeypatch):
    """Run in that folder."""
    monkeypatch.chdir(scored)
    _write(EXPERIMENT)


@pytest.mark.parametrize(
    ("method", "name", "shape"),
    [
        ("bif", "token_scores", (QUERIES, LENGTH, 2 * TOP, LENGTH)),
        ("gradsim", "train_token_scores", (QUERIES, 2 * TOP, LENGTH)),
    ],
)
def test_the_file_has_all_that_a_page_needs_and_its_scores_sum_to_those_of_sequences(here, method, name, shape):
    _tokens(method)

    found = load_tensors(CELL.tokens(method))
    assert {key: tuple(values.shape) for key, values in found.items()} == {
        "queries": (QUERIES,), "query_ids": (QUERIES, LENGTH), "query_counts": (QUERIES, LENGTH),
        "train": (QUERIES, 2 * TOP), "train_ids": (QUERIES, 2 * TOP, LENGTH),
        "train_counts": (QUERIES, 2 * TOP, LENGTH), "scores": (QUERIES, 2 * TOP), name: shape,
    }  # fmt: skip
    data, split = load_tensors(CELL.dataset), load_tensors(CELL.split)
    assert torch.equal(found["queries"], torch.arange(QUERIES))
    assert torch.equal(found["query_ids"], data["test_tokens"][split["query"][:QUERIES]].long())
    assert torch.equal(found["train_ids"], data["train_tokens"][split["pool"][found["train"]]].long())
    scores = load_tensors(CELL.scores(method))["scores"][:QUERIES]
    assert torch.equal(found["scores"], scores.gather(1, found["train"]))
    assert torch.equal(found["scores"][:, :TOP], scores.sort(descending=True).values[:, :TOP])
    assert torch.equal(found["scores"][:, TOP:], scores.sort().values[:, :TOP])
    record = load_record(CELL.tokens(method))
    assert record["status"].startswith("ok")
    assert str(CELL.scores(method)) in record["inputs"]
    assert record["cost"]["score"]["seconds"] > 0
    assert not CELL.workspace(f"tokens-{method}").exists()
    if method == "bif":
        counts = found["query_counts"][:, :, None, None] & found["train_counts"][:, None]
        assert (found["token_scores"][~counts] == 0).all()
        assert (found["token_scores"][counts] != 0).all()
        summed = found["token_scores"].sum(dim=(1, 3))
    else:
        summed = found["train_token_scores"].sum(dim=2)
    assert (summed - found["scores"]).abs().max() < 1e-4 * found["scores"].abs().max()


def test_a_method_that_scores_no_tokens_says_so_in_its_file(here):
    experiment = copy.deepcopy(EXPERIMENT)
    experiment["tokens"]["methods"] = None
    _write(experiment)

    _tokens("random")

    assert load_tensors(CELL.tokens("random")) == {}
    status = load_record(CELL.tokens("random"))["status"]
    assert status == "unsupported: it scores whole examples, not their tokens"


def test_a_method_without_scores_gives_its_reason_again(here, tmp_path, monkeypatch):
    shutil.copytree("results", tmp_path / "results")
    shutil.copytree("experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    save_tensors(CELL.scores("bif"), {}, {"status": "unsupported: too large"})

    _tokens("bif")

    assert load_tensors(CELL.tokens("bif")) == {}
    assert load_record(CELL.tokens("bif"))["status"] == "unsupported: too large"


def test_a_method_that_the_section_leaves_out_is_an_error(here, capsys):
    assert cli.main(["tokens", "tiny", *PLACE, "--method", "random"]) == 1

    assert "tiny shows no tokens of random: it has no section tokens, or" in capsys.readouterr().err


def test_the_top_is_the_most_helpful_and_then_the_most_harmful_with_the_extremes_first():
    scores = torch.tensor([[0.5, -2.0, 3.0, 0.0, -1.0], [1.0, 2.0, 3.0, 4.0, 5.0]])

    assert choose_top(scores, 2).tolist() == [[2, 0, 1, 4], [4, 3, 0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "tokens.queries must be at least 1, got 0"),
        ({"top": 0}, "tokens.top must be at least 1, got 0"),
        ({"queries": 7}, "tokens.queries must be at most data.queries (6), got 7"),
        ({"top": 11}, "tokens.top must be at most half the smallest of data.train_sizes (20), so that none is both"),
        ({"methods": []}, "tokens.methods must be different methods or null, got []"),
        ({"methods": ["bif", "bif"]}, "tokens.methods must be different methods or null, got ['bif', 'bif']"),
        ({"methods": ["trak"]}, "There is no method trak for tokens.methods; there are bif, gradsim, random"),
    ],
)
def test_a_section_that_cannot_be_is_an_error(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    _write({**EXPERIMENT, "tokens": {**EXPERIMENT["tokens"], **change}})

    with pytest.raises(ValueError, match=re.escape(message)):
        load_experiment("experiments/tiny.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value", "concerned"),
    [
        ("tokens", "queries", 2, {"tokens"}),
        ("tokens", "top", 3, {"tokens"}),
        ("tokens", "methods", None, set()),
        ("methods", "bif", {**EXPERIMENT["methods"]["bif"], "draws": 6}, {"tokens", "attribute"}),
    ],
)
def test_a_change_of_the_section_concerns_that_stage_alone(tmp_path, monkeypatch, section, key, value, concerned):
    monkeypatch.chdir(tmp_path)
    settings = []
    for experiment in (EXPERIMENT, {**EXPERIMENT, section: {**EXPERIMENT[section], key: value}}):
        _write(experiment)
        read = load_experiment("experiments/tiny.yaml")
        settings.append({stage: stage_settings(read, stage, "bif") for stage in ("tokens", "attribute", "retrain")})

    assert {stage for stage in settings[0] if settings[0][stage] != settings[1][stage]} == concerned


def _write(experiment: dict[str, Any]) -> None:
    save_text("experiments/tiny.yaml", yaml.safe_dump(experiment))


def _run(stage: str, *arguments: str) -> None:
    assert cli.main([stage, "tiny", *arguments]) == 0


def _tokens(method: str) -> None:
    _run("tokens", *PLACE, "--method", method)
