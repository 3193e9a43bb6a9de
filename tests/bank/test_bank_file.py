"""The format of a bank: what a file holds, and what is refused."""

import hashlib
import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tdabench import cli
from tdabench.bank.bank import check_tensors, hash_tensors, load_bank, make_bank, save_bank
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors, save_tensors


def _tensors(subsets: int = 6, retrains: int = 2) -> dict[str, Tensor]:
    generator = make_generator(0, "bank-file")
    return {
        "masks": torch.rand(subsets, 8, generator=generator) < 0.5,
        "loss": torch.randn(subsets, retrains, 5, generator=generator),
        "margin": torch.randn(subsets, retrains, 5, generator=generator),
    }


def _saved(path, tensors=None, **record):
    bank = make_bank(tensors or _tensors(), {"source": "arrays", **record})
    save_bank(path, bank)
    return path


# What a file holds


def test_a_bank_comes_back_as_it_was_written(tmp_path):
    tensors = _tensors()
    tensors["loss"][1, 0] = torch.nan

    bank = load_bank(_saved(tmp_path / "bank.safetensors", tensors, averaged=3))

    assert all(bank.tensors[name].equal(tensors[name]) for name in ("masks", "margin"))
    assert torch.equal(bank.loss.nan_to_num(7.0), tensors["loss"].nan_to_num(7.0))
    assert (bank.record["format"], bank.record["version"]) == ("tdabench-bank", 1)
    assert (bank.record["averaged"], bank.num_scored) == (3, 5)


def test_the_last_queries_are_for_tuning():
    bank = make_bank(_tensors(), {}, tuning_queries=2)

    assert bank.record["queries"] == {"scored": 3, "tuning": 2}


def test_the_contents_hash_is_what_its_description_says():
    masks, loss = torch.tensor([[True, False]]), torch.tensor([1.5, -2.0])

    expected = hashlib.sha256(
        b'["loss", "torch.float32", [2]]\n' + b"\x00\x00\xc0\x3f\x00\x00\x00\xc0"
        b'["masks", "torch.bool", [1, 2]]\n' + b"\x01\x00"
    ).hexdigest()

    assert hash_tensors({"masks": masks, "loss": loss}) == expected


def test_the_contents_hash_depends_on_names_types_shapes_and_values_and_not_on_their_order_in_memory():
    values = torch.arange(6.0).reshape(2, 3)

    others = [{"b": values}, {"a": values.double()}, {"a": values.T}, {"a": values.reshape(3, 2)}, {"a": -values}]

    assert hash_tensors({"a": values.T.contiguous().T}) == hash_tensors({"a": values})
    assert len({hash_tensors(tensors) for tensors in [{"a": values}, *others]}) == 6


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("masks"), "needs the tensor 'masks'; there are 'loss', 'margin'"),
        (lambda t: t.update(masks=t["masks"].float()), r"Masks must be true or false, .* torch.float32, \(6, 8\)"),
        (lambda t: t.update(loss=t["loss"][:, 0]), r"Losses must be numbers, \(subset, retrain, query\).*\(6, 5\)"),
        (lambda t: t.update(loss=t["loss"].int()), "Losses must be numbers, .* torch.int32"),
        (lambda t: t.update(loss=t["loss"][:5]), r"6 subsets and 'loss' has the shape \(5, 2, 5\).* Transpose"),
        (lambda t: t.update(margin=t["margin"][:, :1]), r"Margins \(6, 1, 5\) and losses \(6, 2, 5\) differ"),
        (lambda t: t.update({k: v[:1] for k, v in t.items()}), "at least 3 subsets, got 1"),
        (lambda t: t.update(masks=t["masks"][:, :0]), r"can't be empty: masks have the shape \(6, 0\)"),
        (lambda t: t.update(masks=t["masks"][:1].expand(6, 8)), "All 6 subsets are the same"),
        (lambda t: t["loss"].fill_(torch.nan), "12 of 12 retrained models diverged .*loss nan of subset 0, retrain 0"),
        (lambda t: t["loss"][1:5, :, 2].fill_(torch.inf), "8 of 12 .*loss inf of subset 1.*leaves 2 subsets, and 3"),
        (lambda t: t["loss"].copy_(torch.arange(5.0)), "All 5 queries have the same loss whatever the subset"),
    ],
)
def test_tensors_that_are_no_bank_are_refused_with_what_is_wrong(change, message):
    tensors = _tensors()
    change(tensors)

    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        check_tensors(tensors)


def test_some_diverged_retrains_and_constant_queries_are_no_error():
    tensors = _tensors()
    tensors["loss"][0] = torch.nan
    tensors["loss"][3, 1] = torch.nan
    tensors["loss"][:, :, 4] = 1.0

    check_tensors(tensors)


@pytest.mark.parametrize("tuning", [-1, 5])
def test_tuning_queries_must_leave_scored_ones(tuning):
    with pytest.raises(ValueError, match=f"fewer than all 5 queries, got {tuning}"):
        make_bank(_tensors(), {}, tuning_queries=tuning)


def test_a_bank_that_exists_is_not_overwritten(tmp_path):
    path = _saved(tmp_path / "bank.safetensors")
    before = path.read_bytes()

    with pytest.raises(ValueError, match=r"bank.safetensors exists already and isn't overwritten: give another name"):
        _saved(path)

    assert path.read_bytes() == before


def test_a_bank_that_is_missing_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no bank .*absent.safetensors; `tdabench bank export`"):
        load_bank(tmp_path / "absent.safetensors")


def test_files_of_other_kinds_are_no_banks(tmp_path):
    whole = _saved(tmp_path / "whole.safetensors").read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "short": whole[:5],
        "text": b"subset,train\n",
        "pickle": pickle.dumps({"masks": [1]}),
        "empty": b"",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)

        with pytest.raises(ValueError, match=rf"{name}.safetensors is no bank, or cut off \(.+\). Get it again"):
            load_bank(path)


def test_another_safetensors_file_is_no_bank(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    save_tensors(tmp_path / "scores.safetensors", {"scores": torch.ones(2, 2)}, {"status": "ok"})

    with pytest.raises(ValueError, match=r"model.safetensors is no bank.*has no record"):
        load_bank(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"scores.safetensors: The format is None, not 'tdabench-bank'"):
        load_bank(tmp_path / "scores.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "The format is 'other', not 'tdabench-bank'"),
        ({"version": 2}, "The format's version is 2, known is 1: update tdabench"),
        ({"queries": 5}, "queries must be numbers of scored and tuning ones, got 5"),
        ({"queries": {"scored": 0, "tuning": 5}}, "queries must be numbers of scored and tuning ones, got .*0"),
        ({"queries": {"scored": 5, "tuning": 1}}, "It has 5 queries, its record says"),
        ({"hashes": None}, "hashes must name the content's, got None"),
        (
            {"hashes": {"content": "abc"}},
            "The hash of its tensors is [0-9a-f]{64}, its record says abc: it was damaged",
        ),
        ({"settings": "x"}, "settings must be of type dict, got 'x'"),
        ({"commits": None}, "commits must be of type list, got None"),
        ({"seed": 1.5}, "seed must be of type int, got 1.5"),
        ({"source": "tdabench"}, "The record of an experiment's bank must have settings"),
        (
            {"source": "tdabench", "settings": {}, "seed": 0, "stream": [], "bank": {}, "commits": [], "shards": []},
            r"The record of an experiment's bank must have hashes\.dataset",
        ),
    ],
)
def test_a_record_that_disagrees_is_refused(tmp_path, change, message):
    bank = make_bank(_tensors(), {})
    save_tensors(tmp_path / "bank.safetensors", bank.tensors, {**bank.record, **change})

    with pytest.raises(ValueError, match=f"bank.safetensors: .*{message}"):
        load_bank(tmp_path / "bank.safetensors")


def test_a_bank_with_one_loss_changed_is_refused(tmp_path):
    path = _saved(tmp_path / "bank.safetensors")
    tensors, record = load_tensors(path), load_record(path)
    tensors["loss"][0, 0, 0] += 1
    save_tensors(path, tensors, record)

    with pytest.raises(ValueError, match=r"it was damaged or changed\. Get it again"):
        load_bank(path)


def test_a_record_that_is_no_mapping_is_refused(tmp_path):
    for text in ("[1]", "{", "3", json.dumps({"format": "tdabench-bank", "version": True, "queries": {}})):
        save_file(_tensors(), tmp_path / "bank.safetensors", metadata={"record": text})

        with pytest.raises(ValueError, match=r"bank\.safetensors"):
            load_bank(tmp_path / "bank.safetensors")


def test_the_command_shows_a_bank(tmp_path, capsys):
    path = _saved(tmp_path / "bank.safetensors")

    assert cli.main(["bank", "show", str(path)]) == 0

    shown = capsys.readouterr().out
    assert "6 of 8 training examples" in shown
    assert "5 (5 scored, 0 for tuning)" in shown
    assert hash_tensors(load_tensors(path)) in shown
