"""The stages on text: pretrained once, then fine-tuned, retrained, attributed and judged as images are."""

from pathlib import Path

import pytest
import torch
import yaml

from tdabench import cli
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors, save_text

TEXT = "\n".join(
    f"{name} has a {thing}. The {thing} of {name} is {colour}, and {name} likes it very much."
    for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")
    for thing in ("boat", "kite", "house", "garden")
    for colour in ("red", "blue", "green")
)
RECIPE = {"optimizer": "adamw", "epochs": 1, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0}
EXPERIMENT = {
    "seed": 0,
    "data": {
        "source": "tdabench.data.sources:TextFiles",
        "options": {"files": ["text.txt"], "separator": "\n", "length": 16, "vocabulary": 300, "pretraining": 0.3},
        "train_sizes": [40],
        "queries": 10,
    },
    "model": {
        "builder": "tdabench.models.gpt_neox:Pythia", "hidden_size": 16, "layers": 1, "heads": 2, "vocabulary": 300,
        "positions": 16,
    },
    "pretraining": RECIPE,
    "training": RECIPE,
    "bank": {"subsets": 6, "fraction": 0.5, "retrains": 2, "shards": 2},
    "methods": {
        "random": {"attributor": "tdabench.attributors.baselines:Random"},
        "ekfac": {"attributor": "tdabench.attributors.kronfluence:Kronfluence", "strategy": "ekfac"},
    },
    "evaluation": {"resamples": 100, "top": 5},
}  # fmt: skip


CELL, PLACE = Cell(Path("results/tiny"), 0, 40), ("--repeat", "0", "--train-size", "40")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in a folder with the text, which is where the machine has its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_DATA", ".")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")


def test_text_goes_through_every_stage_of_an_lds(here):
    _make(EXPERIMENT)
    _run("train", *PLACE, "--checkpoint", "0")
    for shard in range(2):
        _run("retrain", *PLACE, "--shard", str(shard))
    for method in EXPERIMENT["methods"]:
        _run("attribute", *PLACE, "--method", method)
    _run("judge", *PLACE)

    bank, judgement = load_tensors(CELL.bank(2)[0]), load_json(CELL.judgement)
    assert bank["loss"].shape == (3, 2, 10)
    assert (bank["loss"] > 0).all()
    assert load_tensors(CELL.scores("ekfac"))["scores"].shape == (10, 40)
    assert load_record(CELL.scores("ekfac"))["status"].startswith("ok")
    assert all(-1 <= value <= 1 for value in judgement["lds"]["ekfac"]["lds"])
    assert len(judgement["agreement"]) == 1
    assert str(CELL.pretrained) in load_record(CELL.checkpoint(0))["inputs"]


def test_every_training_starts_from_the_pretrained_weights_which_are_the_same_when_made_again(here):
    _make(_changed("training", learning_rate=1e-12))
    _run("train", *PLACE, "--checkpoint", "0")
    start, end = load_tensors(CELL.pretrained), load_tensors(CELL.checkpoint(0))
    CELL.pretrained.unlink()

    _run("pretrain", "--data", ".")

    again = load_tensors(CELL.pretrained)
    for name, values in start.items():
        torch.testing.assert_close(end[name], values, rtol=0, atol=1e-8)
        assert torch.equal(again[name], values)


def test_published_weights_of_a_folder_are_fetched_once_and_attributed(here):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        transformers.LlamaForCausalLM(config).save_pretrained("folder")
    model = {"builder": "tdabench.models.causal_lm:CausalLM", "weights": "folder"}
    _make({**EXPERIMENT, "model": model, "pretraining": "published"})
    for path in Path("folder").iterdir():
        path.unlink()

    _run("train", *PLACE, "--checkpoint", "0")

    assert load_record(CELL.pretrained)["config"]["model_type"] == "llama"
    assert set(load_tensors(CELL.checkpoint(0))) == set(load_tensors(CELL.pretrained))


# Bad input


def _changed(section: str, **settings: object) -> dict:
    return {**EXPERIMENT, section: {**EXPERIMENT[section], **settings}}


def _with_options(**options: object) -> dict:
    return _changed("data", options={**EXPERIMENT["data"]["options"], **options})


NARROW = "The tokenizer has 300 tokens and the model's vocabulary 299"


@pytest.mark.parametrize(
    ("experiment", "stages", "message"),
    [
        (_changed("model", vocabulary=299), "dataset pretrain", NARROW),
        # Without pretraining too a model must know every token.
        ({**_changed("model", vocabulary=299), "pretraining": None}, "dataset split train", NARROW),
        (
            {**EXPERIMENT, "model": {"builder": EXPERIMENT["model"]["builder"], "weights": "hub"}},
            "dataset pretrain",
            "model.weights 'hub' are loaded with 'pretraining: published' only",
        ),
        (
            _with_options(pretraining=0.0),
            "dataset pretrain",
            "The data have nothing for pretraining: give data.options a share for it",
        ),
        (EXPERIMENT, "dataset split train", "There is no result file results/tiny/pretrained.safetensors"),
        (
            _changed("data", mislabelled=0.2),
            "dataset split",
            "data.mislabelled plants wrong labels in images; text has no labels",
        ),
        (
            _with_options(lenght=3),
            "dataset",
            "Unknown key data.options.lenght; the known ones are: length, shortest, tokenizer",
        ),
    ],
)
def test_the_stage_that_meets_what_cannot_be_says_so_in_one_line(here, capsys, experiment, stages, message):
    _write(experiment)
    *before, last = stages.split()
    for stage in before:
        _run(stage, *ARGUMENTS.get(stage, ()))
    capsys.readouterr()

    assert cli.main([last, "tiny", *ARGUMENTS.get(last, ())]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tdabench {last}: {message}")


ARGUMENTS = {"split": ("--repeat", "0"), "train": (*PLACE, "--checkpoint", "0")}


def _write(content: dict) -> None:
    save_text("experiments/tiny.yaml", yaml.safe_dump(content))


def _make(content: dict) -> None:
    """Make what every training needs."""
    _write(content)
    for stage in ("dataset", "split", "pretrain"):
        _run(stage, *ARGUMENTS.get(stage, ()))


def _run(stage: str, *arguments: str) -> None:
    assert cli.main([stage, "tiny", *arguments, "--traceback"]) == 0
