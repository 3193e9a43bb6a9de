import os
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.storage.files import put_aside
from tdabench.storage.records import load_json, load_record, make_record, save_json, save_tensors
from tdabench.storage.seals import DamagedResult, check_seal

TENSORS = {"scores": torch.arange(6.0).reshape(2, 3), "mask": torch.tensor([True, False])}
RECORD = {"status": "ok", "of": "0" * 64}


@pytest.fixture
def files(tmp_path):
    save_tensors(tmp_path / "scores.safetensors", TENSORS, RECORD)
    save_tensors(tmp_path / "empty.safetensors", {}, RECORD)
    save_json(tmp_path / "lds.json", {"mean": 0.5, "per_query": [0.25, 0.75]}, RECORD)
    return tmp_path


@pytest.mark.parametrize("name", ["scores.safetensors", "empty.safetensors", "lds.json"])
def test_a_file_that_is_whole_passes_and_its_record_is_as_it_was(files, name):
    check_seal(files / name)

    assert load_record(files / name) == RECORD


@pytest.mark.parametrize("name", ["scores.safetensors", "lds.json"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_damaged(files, name, share):
    path = files / name
    os.truncate(path, int(share * path.stat().st_size))

    with pytest.raises(DamagedResult, match=f"{name} is damaged"):
        make_record({}, inputs=[path])


def test_one_byte_of_the_data_that_changed_is_found(files):
    path = files / "scores.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    with pytest.raises(DamagedResult, match=r"its contents have the hash [0-9a-f]{12}\.\.\., and it says [0-9a-f]{12}"):
        check_seal(path)


def test_one_digit_of_a_json_file_that_changed_is_found(files):
    path = files / "lds.json"
    path.write_text(path.read_text().replace("0.75", "0.85"))

    with pytest.raises(DamagedResult, match="its contents have the hash"):
        check_seal(path)


def test_a_file_of_before_there_were_hashes_passes(tmp_path):
    (tmp_path / "old.json").write_text('{"mean": 0.5, "record": {}}')

    check_seal(tmp_path / "old.json")

    assert load_json(tmp_path / "old.json")["mean"] == 0.5


def test_a_damaged_file_that_is_put_aside_twice_is_put_aside_once(files):
    for _ in range(2):
        aside = put_aside(files / "lds.json")

    assert aside.is_file()
    assert not (files / "lds.json").exists()


def _cut_off_shard(path: Path) -> str:
    """Write a shard without its last bytes; return its path as an argument."""
    save_tensors(path, TENSORS, RECORD)
    os.truncate(path, path.stat().st_size - 2)
    return str(path)


def test_a_stage_puts_a_damaged_result_aside_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path("results/tiny/0/250/bank/0.safetensors")

    status = cli.main(["bank", "export", _cut_off_shard(path), "--output", "out.safetensors"])

    assert status == 1
    assert "It was put aside as 0.safetensors.damaged: run the workflow again." in capsys.readouterr().err
    assert not path.exists()
    assert path.with_name("0.safetensors.damaged").is_file()


def test_a_damaged_file_that_was_named_by_hand_stays_where_it_is(tmp_path, capsys):
    path = tmp_path / "0.safetensors"

    assert cli.main(["bank", "export", _cut_off_shard(path), "--output", str(tmp_path / "out.safetensors")]) == 1

    assert path.exists()
    assert "delete it and run the workflow again" in capsys.readouterr().err
