"""The stages on text: pretrained once, then fine-tuned, retrained, attributed and judged as images are."""

from pathlib import Path

import pytest
import torch
import yaml

from tdabench import cli
from tdabench.storage.records import load_json, load_record, load_tensors

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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in a folder with the experiment and its text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_text_goes_through_every_stage_of_an_lds(here):
    cell = Path("cell")
    _make(EXPERIMENT)
    options = ["--repeat", "0", "--train-size", "40", *_files()]
    _run("train", *options, "--checkpoint", "0", "--output", "cell/checkpoints/0.safetensors")
    for shard in ("0", "1"):
        _run("retrain", *options, "--shard", shard, "--output", f"cell/bank/{shard}.safetensors")
    for method in EXPERIMENT["methods"]:
        output = f"cell/scores/{method}.safetensors"
        _run("attribute", *options, "--method", method, "--checkpoints", cell / "checkpoints/0.safetensors",
             "--output", output)  # fmt: skip
        _run("evaluate", *options[:4], "--split", "split.safetensors", "--scores", output, "--bank",
             "cell/bank/0.safetensors", "cell/bank/1.safetensors", "--output", f"cell/lds/{method}.json")  # fmt: skip

    bank = load_tensors("cell/bank/0.safetensors")
    assert bank["loss"].shape == (3, 2, 10)
    assert (bank["loss"] > 0).all()
    assert load_tensors("cell/scores/ekfac.safetensors")["scores"].shape == (10, 40)
    assert load_record("cell/scores/ekfac.safetensors")["status"].startswith("ok")
    assert all(-1 <= value <= 1 for value in load_json("cell/lds/ekfac.json")["lds"])
    assert "pretrained.safetensors" in load_record("cell/checkpoints/0.safetensors")["inputs"]


def test_every_training_starts_from_the_pretrained_weights(here):
    _make(_changed("training", learning_rate=1e-12))
    _run("train", "--repeat", "0", "--train-size", "40", *_files(), "--checkpoint", "0", "--output", "0.safetensors")

    start, end = load_tensors("pretrained.safetensors"), load_tensors("0.safetensors")

    for name, values in start.items():
        torch.testing.assert_close(end[name], values, rtol=0, atol=1e-8)


def test_pretraining_twice_gives_the_same_weights(here):
    _make(EXPERIMENT)
    _run("pretrain", "--dataset", "dataset.safetensors", "--data", ".", "--output", "again.safetensors")

    first, second = (load_tensors(f"{name}.safetensors") for name in ("pretrained", "again"))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_published_weights_of_a_folder_are_fetched_once_and_attributed(here, capsys):
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

    _run("train", "--repeat", "0", "--train-size", "40", *_files(), "--checkpoint", "0", "--output", "0.safetensors")

    assert load_record("pretrained.safetensors")["config"]["model_type"] == "llama"
    assert set(load_tensors("0.safetensors")) == set(load_tensors("pretrained.safetensors"))


# Bad input


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_an_error(here, capsys):
    _write(_changed("model", vocabulary=299))
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")

    error = _fail(capsys, "pretrain", "--dataset", "dataset.safetensors", "--data", ".", "--output", "p.safetensors")

    assert "The tokenizer has 300 tokens and the model's vocabulary 299" in error


def test_without_pretraining_too_a_model_must_know_every_token(here, capsys):
    changed = _changed("model", vocabulary=299)
    del changed["pretraining"]
    _write(changed)
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")
    _run("split", "--repeat", "0", "--dataset", "dataset.safetensors", "--output", "split.safetensors")
    files = ["--dataset", "dataset.safetensors", "--split", "split.safetensors"]

    error = _fail(
        capsys, "train", "--repeat", "0", "--train-size", "40", *files, "--checkpoint", "0", "--output", "0.safetensors"
    )

    assert "The tokenizer has 300 tokens and the model's vocabulary 299" in error


def test_published_weights_are_not_silently_replaced_by_random_ones(here, capsys):
    builder = {"builder": EXPERIMENT["model"]["builder"], "weights": "hub"}
    _write({**EXPERIMENT, "model": builder})
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")

    error = _fail(capsys, "pretrain", "--dataset", "dataset.safetensors", "--data", ".", "--output", "p.safetensors")

    assert "model.weights 'hub' are loaded with 'pretraining: published' only" in error


def test_pretraining_without_text_for_it_is_an_error(here, capsys):
    _write({**EXPERIMENT, "data": {**EXPERIMENT["data"], "options": {**_options(), "pretraining": 0.0}}})
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")

    error = _fail(capsys, "pretrain", "--dataset", "dataset.safetensors", "--data", ".", "--output", "p.safetensors")

    assert "The data have nothing for pretraining: give data.options a share for it" in error


def test_a_stage_that_is_not_told_where_the_pretrained_weights_are_says_so(here, capsys):
    _make(EXPERIMENT)
    files = ["--dataset", "dataset.safetensors", "--split", "split.safetensors"]

    error = _fail(
        capsys, "train", "--repeat", "0", "--train-size", "40", *files, "--checkpoint", "0", "--output", "0.safetensors"
    )

    assert "experiment has pretraining: name the file of `tdabench pretrain` by --pretrained" in error


def test_wrong_labels_cant_be_planted_in_text(here, capsys):
    _write({**EXPERIMENT, "data": {**EXPERIMENT["data"], "mislabelled": 0.2}})
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")

    error = _fail(capsys, "split", "--repeat", "0", "--dataset", "dataset.safetensors", "--output", "s.safetensors")

    assert "data.mislabelled plants wrong labels in images; text has no labels" in error


def test_an_unknown_option_of_the_text_names_the_known_ones(here, capsys):
    _write({**EXPERIMENT, "data": {**EXPERIMENT["data"], "options": {**_options(), "lenght": 3}}})

    error = _fail(capsys, "dataset", "--data", ".", "--output", "dataset.safetensors")

    assert "Unknown key data.options.lenght; the known ones are: length, shortest, tokenizer" in error


def _options() -> dict:
    return EXPERIMENT["data"]["options"]


def _changed(section: str, **settings: object) -> dict:
    return {**EXPERIMENT, section: {**EXPERIMENT[section], **settings}}


def _files() -> list[str]:
    return [part for name in ("dataset", "split", "pretrained") for part in (f"--{name}", f"{name}.safetensors")]


def _write(content: dict) -> None:
    Path("experiment.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _make(content: dict) -> None:
    """Make what every training needs."""
    _write(content)
    _run("dataset", "--data", ".", "--output", "dataset.safetensors")
    _run("split", "--repeat", "0", "--dataset", "dataset.safetensors", "--output", "split.safetensors")
    _run("pretrain", "--dataset", "dataset.safetensors", "--data", ".", "--output", "pretrained.safetensors")


def _run(stage: str, *arguments: object) -> None:
    assert cli.main([stage, "experiment.yaml", *map(str, arguments), "--traceback"]) == 0


def _fail(capsys: pytest.CaptureFixture, stage: str, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main([stage, "experiment.yaml", *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
