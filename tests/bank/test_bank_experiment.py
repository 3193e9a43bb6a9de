"""A bank of an experiment: its shards become a file, the file becomes shards again, and scores are compared with it."""

import csv
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tdabench import cli
from tdabench.bank.bank import load_bank
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors, save_tensors, save_text

EXPERIMENT = """\
seed: 0
repeats: 2
data: {source: "tdabench.data.digits:Digits", train_sizes: [60, 50], queries: 20, tuning_queries: 5}
model: {builder: "plug_in:Small", width: 4}
training: {optimizer: adamw, epochs: 1, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 5, fraction: 0.5, retrains: 2, shards: 2}
methods:
  random: {attributor: "tdabench.attributors.baselines:Random"}
evaluation: {resamples: 100}
"""
MODEL = """\
import dataclasses

from tdabench.models.small_cnn import SmallCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
    width: int

    def build(self, images, *, generator):
        return SmallCNN(width=self.width).build(images, generator=generator)
"""
CELL = "results/mine/0/60"
MINE = Cell(Path("results/mine"), 0, 60)
SHARDS = list(map(str, MINE.bank(2)))
INTO = ("--into", CELL, "--experiment", "experiments/mine.yaml")
PLACE = ("--repeat", "0", "--train-size", "60")
SCORES = ("--scores", f"{CELL}/scores/random.safetensors")


def _run(*arguments: str) -> None:
    assert cli.main(list(arguments)) == 0


def _data(folder: Path) -> None:
    """Write an experiment, its dataset and its split."""
    _write(EXPERIMENT)
    (folder / "plug_in.py").write_text(MODEL)
    _run("dataset", "mine")
    _run("split", "mine", "--repeat", "0")


def _write(experiment: str, name: str = "mine") -> None:
    save_text(f"experiments/{name}.yaml", experiment)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Run the stages up to a judgement, and export the bank; return the folder, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        _data(folder)
        for shard in range(2):
            _run("retrain", "mine", *PLACE, "--shard", str(shard))
        scores = torch.randn(25, 60, generator=torch.Generator().manual_seed(0))
        record = {"status": "ok", "settings": load_record(SHARDS[0])["settings"]}
        save_tensors(MINE.scores("random"), {"scores": scores}, record)
        _run("judge", "mine", *PLACE)
        _run("bank", "export", *SHARDS, "--output", "bank.safetensors")
    sys.modules.pop("plug_in")  # it would hide the ones of other folders
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Iterator[Path]:
    """Work in a copy of what was made."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("plug_in", None)


@pytest.fixture
def colleague(made, tmp_path, monkeypatch) -> Iterator[Path]:
    """Work in a folder with the same experiment, its dataset and split made anew, and the exported bank."""
    folder = tmp_path / "colleague"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    _data(folder)
    shutil.copy(made / "bank.safetensors", folder)
    sys.modules.pop("plug_in")
    yield folder
    sys.modules.pop("plug_in", None)


def _error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["bank", *arguments]) == 1
    return capsys.readouterr().err


# Export


def test_an_exported_bank_has_every_subset_in_order_and_says_where_it_comes_from(here):
    shards = [load_tensors(path) for path in SHARDS]

    bank = load_bank("bank.safetensors")

    for name in ("masks", "loss", "margin"):
        assert bank.tensors[name].equal(torch.cat([shard[name] for shard in shards]))
    record = load_record(SHARDS[0])
    assert bank.record["settings"] == record["settings"]
    assert bank.record["bank"] == {"subsets": 5, "fraction": 0.5, "sampling": "fixed", "retrains": 2, "shards": 2}
    assert (bank.record["seed"], bank.record["stream"]) == (0, ["bank", 0, 60])
    assert bank.record["queries"] == {"scored": 20, "tuning": 5}
    assert bank.record["commits"] == [str(record["commit"])]
    assert [shard["cost"] for shard in bank.record["shards"]] == [load_record(path)["cost"] for path in SHARDS]
    assert {name for name, value in bank.record["hashes"].items() if value} == {"content", "dataset", "split", "model"}


def test_the_order_in_which_shards_are_named_changes_nothing(here):
    _run("bank", "export", *reversed(SHARDS), "--output", "again.safetensors")

    one, other = (load_record(Path(name)) for name in ("bank.safetensors", "again.safetensors"))
    assert {**one, "date": None} == {**other, "date": None}
    one, other = (load_tensors(Path(name)) for name in ("bank.safetensors", "again.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_bank_is_shown_with_its_agreement_ceiling_and_settings(here, capsys):
    capsys.readouterr()
    loss = load_bank("bank.safetensors").loss[..., :20]
    agreement = retrain_agreement(loss)

    _run("bank", "show", "bank.safetensors")

    shown = capsys.readouterr().out
    ceiling = lds_ceiling(agreement, 2)
    assert re.search(rf"agreement +\| {agreement:.3f}", shown)
    assert re.search(rf"ceiling +\| {'—' if ceiling != ceiling else f'{ceiling:.3f}'}", shown)
    assert re.search(r"queries +\| 25 \(20 scored, 5 for tuning\)", shown)
    assert '"epochs": 1' in shown


@pytest.mark.parametrize(
    ("spoil", "shards", "message"),
    [
        (None, SHARDS[:1], "A bank of 2 shards is 0.safetensors to 1.safetensors, each once; 1.safetensors is mi"),
        (None, [SHARDS[0], *SHARDS], "each once; 0.safetensors is missing or too much"),
        (lambda: shutil.copy(SHARDS[0], f"{CELL}/bank/2.safetensors"), [*SHARDS, f"{CELL}/bank/2.safetensors"],
         "each once; 2.safetensors is missing or too much"),
        (lambda: shutil.copy(f"{CELL}/scores/random.safetensors", SHARDS[1]), SHARDS,
         "1.safetensors is no shard of a bank .its record has no bank.: give files of `retrain`"),
        (lambda: _change(SHARDS[1], lambda r: r["settings"]["training"].update(epochs=2)), SHARDS,
         "don't belong together: training.epochs is 1 in one and 2 in the other"),
        (lambda: _change(SHARDS[1], lambda r: r.update(stream=["bank", 1, 60])), SHARDS, "stream is .*0.* and .*1"),
        (lambda: _change(SHARDS[1], lambda r: r.update(inputs={})), SHARDS,
         "Shard 1 was not made from .*dataset.safetensors.*--dataset"),
        (lambda: Path("results/mine/0/split.safetensors").unlink(), SHARDS, "no result file .*split.safetensors"),
        (lambda: Path(SHARDS[1]).unlink(), SHARDS, "no result file .*1.safetensors"),
        (lambda: shutil.copy(SHARDS[1], SHARDS[0]), SHARDS, "0.safetensors has 3 subsets; shard 0 has 2"),
    ],
)  # fmt: skip
def test_shards_that_are_no_whole_bank_are_refused_and_nothing_is_written(here, capsys, spoil, shards, message):
    if spoil is not None:
        spoil()

    error = _error(capsys, "export", *shards, "--output", "new.safetensors")

    assert re.search(message, error), error
    assert not Path("new.safetensors").exists()


def test_a_shard_that_is_a_copy_of_another_is_refused(here, capsys):
    # Of equal sizes, so that only the contents give it away.
    for path in SHARDS:
        _change(path, lambda record: record["bank"].update(subsets=4))
    shutil.copy(SHARDS[0], SHARDS[1])

    error = _error(capsys, "export", *SHARDS, "--output", "new.safetensors")

    assert "1.safetensors has the same contents as results/mine/0/60/bank/0.safetensors: one is a copy" in error


def _change(path: str, change) -> None:
    tensors, record = load_tensors(path), load_record(path)
    change(record)
    save_tensors(path, tensors, record)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: _change(SHARDS[1], lambda r: r["settings"]["training"].update(epochs=2)),
         "0.safetensors and .*1.safetensors don't belong together: training.epochs is 1 in one and 2 in the"),
        (lambda: _change(SHARDS[1], lambda r: r.update(seed=1)), "don't belong together: seed is 0 in one and 1 in"),
        (lambda: _change(SHARDS[1], lambda r: r.pop("stream")), "1.safetensors is no shard .*has no stream"),
        (lambda: Path(SHARDS[1]).unlink(), "no result file .*1.safetensors"),
        (lambda: _change(str(MINE.scores("random")), lambda r: r["settings"]["training"].update(epochs=2)),
         "The bank and the scores of random are of two recipes: training.epochs is 1 in the bank and 2 in the scores"),
    ],
)  # fmt: skip
def test_what_is_of_two_recipes_is_not_judged(here, capsys, spoil, message):
    MINE.judgement.unlink()
    spoil()
    capsys.readouterr()

    assert cli.main(["judge", "mine", *PLACE]) == 1

    assert re.search(message, capsys.readouterr().err)
    assert not MINE.judgement.exists()


def test_a_judgement_is_a_pilot(here, capsys):
    capsys.readouterr()

    _run("power", str(MINE.judgement), "--half-width", "0.5", "--subsets", "20", "--retrains", "1")

    assert capsys.readouterr().out.startswith(f"LDS of random, from {MINE.judgement}; 20 queries")


# Back into an experiment


def test_a_colleague_gets_the_shards_that_were_exported(colleague, made, capsys):
    capsys.readouterr()

    _run("bank", "import", "bank.safetensors", *INTO)

    for path in SHARDS:
        restored, original = load_tensors(path), load_tensors(made / path)
        assert restored.keys() == original.keys()
        assert all(values.equal(original[name]) for name, values in restored.items())
        record = load_record(path)
        assert record.pop("imported") == load_bank("bank.safetensors").record["hashes"]
        assert record == load_record(made / path)
    assert f"snakemake --touch --force {' '.join(SHARDS)}" in capsys.readouterr().out
    _run("bank", "import", "bank.safetensors", *INTO)  # again
    _run("bank", "export", *SHARDS, "--output", "again.safetensors")
    again, first = (load_bank(f"{name}.safetensors").record for name in ("again", "bank"))
    assert (again["hashes"], again["shards"]) == (first["hashes"], first["shards"])


def test_a_judgement_with_restored_shards_is_the_same(here):
    before = load_json(MINE.judgement)
    for path in SHARDS:
        Path(path).unlink()
    _run("bank", "import", "bank.safetensors", *INTO)

    _run("judge", "mine", *PLACE)

    again = load_json(MINE.judgement)
    assert {**again, "record": None} == {**before, "record": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 1", "epochs: 2"), "training.epochs is 1 in the bank and 2 in the experiment mine"),
        (("fraction: 0.5", "fraction: 0.4"), "bank.fraction is 0.5 in the bank and 0.4"),
        (("shards: 2", "shards: 1"), "bank.shards is 2 in the bank and 1"),
        (("seed: 0", "seed: 1"), "seed is 0 in the bank and 1"),
        (("width: 4", "width: 8"), "model.settings.width is 4 in the bank and 8"),
        ((" queries: 20", " queries: 19"), "data.queries is 20 in the bank and 19"),
        (("[60, 50]", "[50]"), "There is no train_size 60 in mine; there are 50"),
    ],
)
def test_other_settings_are_refused_with_their_name_and_both_values(colleague, capsys, change, message):
    _write(EXPERIMENT.replace(*change))

    error = _error(capsys, "import", "bank.safetensors", *INTO)

    assert re.search(message, error), error
    assert not Path(CELL).exists()


def test_settings_that_do_not_concern_the_bank_may_differ(colleague):
    changed = EXPERIMENT.replace("[60, 50]", "[60, 40, 50]").replace("resamples: 100", "resamples: 200")
    _write(changed.replace("  random:", "  chance:"), "theirs")
    shutil.copytree("results/mine", "results/theirs")

    into = ("--into", "results/theirs/0/60", "--experiment", "experiments/theirs.yaml")
    _run("bank", "import", "bank.safetensors", *into)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Path("plug_in.py").write_text(MODEL + "# Edited.\n"), "model code is [0-9a-f]{64} in the bank and"),
        (lambda: Path("results/mine/0/split.safetensors").unlink(),
         "There is no results/mine/0/split.safetensors: run `snakemake results/mine/0/split.safetensors` first"),
        (lambda: Path("results/mine/dataset.safetensors").unlink(), "There is no results/mine/dataset.safetensors"),
        (lambda: _add_one("results/mine/dataset.safetensors", "train_labels"),
         "contents of results/mine/dataset.safetensors have the hash .* made from a dataset with .*of other data"),
        (lambda: _add_one("results/mine/0/split.safetensors", "query"), "the bank was made from a split with"),
        (lambda: _change("bank.safetensors", lambda record: record.update(source="arrays")),
         "The bank is from 'arrays', not from an experiment: .*`tdabench bank score`"),
    ],
)  # fmt: skip
def test_other_data_or_code_is_refused(colleague, capsys, spoil, message):
    spoil()

    error = _error(capsys, "import", "bank.safetensors", *INTO)

    assert re.search(message, error), error
    assert not Path(CELL).exists()


def _add_one(path: str, name: str) -> None:
    tensors, record = load_tensors(path), load_record(path)
    save_tensors(path, {**tensors, name: tensors[name] + 1}, record)


@pytest.mark.parametrize("folder", ["results/mine/1/60", "results/mine/0/50", "results/other/0/60"])
def test_a_bank_goes_into_its_own_folder_only(colleague, capsys, folder):
    error = _error(capsys, "import", "bank.safetensors", "--into", folder, *INTO[2:])

    assert f"The bank is of repeat 0 and train_size 60, and belongs into results/mine/0/60; got {folder}" in error
    assert "--into needs --experiment FILE" in _error(capsys, "import", "bank.safetensors", "--into", folder)


def test_other_shards_that_are_there_are_kept(here, capsys):
    _add_one(SHARDS[1], "loss")
    Path(SHARDS[0]).unlink()
    before = Path(SHARDS[1]).read_bytes()

    error = _error(capsys, "import", "bank.safetensors", *INTO)

    assert f"{SHARDS[1]} exists already with other contents and isn't overwritten: move it away first" in error
    assert Path(SHARDS[1]).read_bytes() == before
    assert not Path(SHARDS[0]).exists()


# Scores


def _score(*arguments: str) -> list[dict[str, str]]:
    _run("bank", "score", "bank.safetensors", "--resamples", "100", "--output", "table.csv", *arguments)
    with open("table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_have_the_numbers_that_the_workflow_gives_them(here, capsys):
    shutil.copy(f"{CELL}/scores/random.safetensors", "theirs.safetensors")
    expected = load_json(MINE.judgement)["lds"]["random"]
    capsys.readouterr()

    row, random = _score("--scores", "theirs.safetensors")

    assert (row["method"], random["method"]) == ("theirs", "random")
    names = {"lds": "mean", **{name: name for name in row if name not in ("method", "lds")}}
    for column, name in names.items():
        value = expected[name]
        assert row[column] == ("" if value is None else str(value) if isinstance(value, int) else f"{value:.6f}")
    printed = capsys.readouterr().out
    assert re.search(rf"theirs +\| {expected['mean']:.3f} ", printed)
    assert len(printed.splitlines()) == 4


def test_every_file_of_scores_has_a_row_and_equal_names_are_told_apart(here):
    scores = load_tensors(f"{CELL}/scores/random.safetensors")["scores"]
    Path("a").mkdir()
    np.save("plain.npy", scores.numpy())
    np.save("a/plain.npy", scores.double().numpy())
    np.savez("several.npz", other=scores[:1].numpy(), scores=scores.numpy())

    rows = _score(
        "--scores", "plain.npy", "a/plain.npy", "--scores", "several.npz", f"{CELL}/scores/random.safetensors"
    )

    names = ["plain.npy", "a/plain.npy", "several", f"{CELL}/scores/random.safetensors", "random"]
    assert [row["method"] for row in rows] == names
    assert len({row["lds"] for row in rows[:4]}) == 1


def test_negated_scores_have_the_opposite_lds_and_another_seed_moves_the_interval_alone(here):
    plain, random = _score(*SCORES)
    negated, _ = _score(*SCORES, "--negate")
    other, other_random = _score(*SCORES, "--seed", "1")

    assert float(negated["lds"]) == -float(plain["lds"]) != 0
    assert other["lds"] == plain["lds"]
    assert other["low"] != plain["low"]
    assert other_random["lds"] != random["lds"]


def test_queries_with_constant_scores_are_counted_and_left_out(here):
    bank = load_bank("bank.safetensors")
    scores = load_tensors(f"{CELL}/scores/random.safetensors")["scores"].numpy()
    scores[3] = 1
    np.save("some.npy", scores)

    row, _ = _score("--scores", "some.npy")

    lds = linear_datamodeling_score(torch.from_numpy(scores), bank.masks, bank.loss.double().mean(dim=1))[:20]
    assert (row["queries"], row["nan_queries"]) == ("20", "1")
    assert float(row["lds"]) == pytest.approx(lds.nanmean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (np.zeros((60, 25)), r"has the shape \(60, 25\); this bank needs .* = \(25, 60\): transpose them"),
        (np.zeros((20, 60)), r"has the shape \(20, 60\); this bank needs scores \(query, train\) = \(25, 60\)\."),
        (np.full((25, 60), np.nan), r"has a score nan \(query 0, train 0, from 0\); scores must be finite"),
    ],
)
def test_scores_that_do_not_fit_the_bank_are_refused(here, capsys, arrays, message):
    np.save("scores.npy", arrays)

    error = _error(capsys, "score", "bank.safetensors", "--scores", "scores.npy", "--output", "table.csv")

    assert re.search(rf"scores.npy {message}", error), error
    assert not Path("table.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scores", "none.safetensors"), "none.safetensors has no scores: the method couldn't run. Leave it out"),
        (("--scores", "other.npz"), "There is no array 'scores'; there are 'a', 'b': choose one with --name"),
        (("--scores", "absent.npy"), "There is no file absent.npy"),
        ((*SCORES, "--resamples", "9"), "resamples must be at least 100, got 9"),
        ((*SCORES, "--confidence", "2"), "confidence must lie in (0, 1), got 2"),
    ],
)
def test_what_cannot_be_scored_is_a_clear_error(here, capsys, options, message):
    save_tensors("none.safetensors", {}, {"status": "unsupported: too few examples"})
    np.savez("other.npz", a=np.zeros((25, 60)), b=np.zeros((25, 60)))

    assert message in _error(capsys, "score", "bank.safetensors", *options)
