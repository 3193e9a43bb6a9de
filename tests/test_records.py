"""Result files: what a record holds, and that a file is whole or absent."""

import contextlib
import datetime
import errno
import hashlib
import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.figure import Figure
from safetensors.torch import save_file

from tdabench.cost import measure_cost, phase
from tdabench.experiment.sections import EvaluationSettings
from tdabench.storage import provenance as machine
from tdabench.storage import records
from tdabench.storage.files import hash_file, write_atomically
from tdabench.storage.records import (
    load_json,
    load_record,
    load_rows,
    load_table,
    load_tensors,
    make_record,
    open_matrices,
    save_figure,
    save_json,
    save_tensors,
    save_text,
)

TENSORS = {"scores": torch.arange(6.0).reshape(2, 3), "masks": torch.tensor([True, False])}


# What a file holds


def test_tensors_and_record_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "0" / "scores.safetensors"

    save_tensors(path, TENSORS, {"seed": 3, "stream": ("bif", 0)})

    loaded = load_tensors(path)
    assert {name: (value.dtype, value.tolist()) for name, value in loaded.items()} == {
        name: (value.dtype, value.tolist()) for name, value in TENSORS.items()
    }
    assert load_record(path) == {"seed": 3, "stream": ["bif", 0]}


def test_a_transposed_tensor_that_needs_a_gradient_comes_back_equal(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_().T

    save_tensors(tmp_path / "scores.safetensors", {"scores": tensor}, {})

    assert load_tensors(tmp_path / "scores.safetensors")["scores"].tolist() == tensor.tolist()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DTYPES = st.sampled_from(["?", "u1", "i4", "i8", "f4", "f8"])


@given(
    record=st.dictionaries(st.text(max_size=5), JSON, max_size=4),
    values=arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
)
@effort(max_examples=50)
def test_any_record_and_any_tensor_come_back_and_what_is_not_finite_in_a_record_is_null(
    tmp_path_factory, record, values
):
    folder = tmp_path_factory.getbasetemp()

    save_tensors(folder / "any.safetensors", {"values": torch.from_numpy(values)}, record)
    save_json(folder / "any.json", {"content": record}, record)

    loaded = load_tensors(folder / "any.safetensors")["values"].numpy()
    assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (values.dtype, values.shape, values.tobytes())
    assert load_record(folder / "any.safetensors") == _with_null(record)
    assert load_json(folder / "any.json") == {"content": _with_null(record), "record": _with_null(record)}


def _with_null(value):
    if isinstance(value, dict):
        return {key: _with_null(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def test_a_file_without_tensors_still_has_its_record(tmp_path):
    save_tensors(tmp_path / "scores.safetensors", {}, {"status": "unsupported: too few examples"})

    assert load_tensors(tmp_path / "scores.safetensors") == {}
    assert load_record(tmp_path / "scores.safetensors")["status"] == "unsupported: too few examples"


def test_numbers_and_record_come_back_from_json(tmp_path):
    path = tmp_path / "lds.json"

    save_json(path, {"mean": 0.25, "lds": [0.5, 0.0]}, {"status": "ok"})

    assert load_json(path) == {"mean": 0.25, "lds": [0.5, 0.0], "record": {"status": "ok"}}
    assert load_record(path) == {"status": "ok"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(tmp_path, value):
    save_json(tmp_path / "lds.json", {"mean": value, "lds": [value, 1.0]}, {"ceiling": value})

    read = load_json(tmp_path / "lds.json")

    assert read == {"mean": None, "lds": [None, 1.0], "record": {"ceiling": None}}
    assert "NaN" not in (tmp_path / "lds.json").read_text()


def test_a_record_of_a_tensor_file_has_no_nan_either(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {}, {"settings": {"loss": math.nan}})

    assert load_record(tmp_path / "a.safetensors") == {"settings": {"loss": None}}


def test_paths_dataclasses_and_devices_of_a_record_become_text_and_mappings(tmp_path):
    record = {"evaluation": EvaluationSettings(), "folder": Path("a/b"), "device": torch.device("cpu"), 3: (1, None)}

    save_json(tmp_path / "a.json", {}, record)

    assert load_record(tmp_path / "a.json") == {
        "evaluation": {"resamples": 1000, "confidence": 0.95, "top": 10, "memory_gib": None},
        "folder": "a/b",
        "device": "cpu",
        "3": [1, None],
    }


def test_the_same_tensors_and_record_give_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        save_tensors(tmp_path / f"{name}.safetensors", TENSORS, {"seed": 3})

    assert hash_file(tmp_path / "first.safetensors") == hash_file(tmp_path / "second.safetensors")


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])

    for name in ("first", "second"):
        save_figure(tmp_path / f"{name}.{suffix}", figure)

    assert hash_file(tmp_path / f"first.{suffix}") == hash_file(tmp_path / f"second.{suffix}")


# What a record says


def test_a_record_says_how_its_result_came_about(tmp_path):
    source = tmp_path / "input.npy"
    source.write_bytes(b"some bytes")
    with measure_cost(workspace=tmp_path) as cost, phase("fit"):
        pass

    record = make_record({"alpha": 0.1}, inputs=[source], cost=cost, seed=3, stream=("bif", 0))

    assert record["settings"] == {"alpha": 0.1}
    assert (record["seed"], record["stream"]) == (3, ("bif", 0))
    assert record["inputs"] == {str(source): hashlib.sha256(b"some bytes").hexdigest()}
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"tdabench", "kronfluence", "traker", "numpy", "safetensors"} <= set(record["versions"])
    assert record["cost"]["fit"]["seconds"] >= 0
    assert record["device"].startswith("cpu")
    assert {"commit", "dirty", "python", "platform", "processor"} <= set(record)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["date"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


def test_a_record_without_cost_and_seed_names_neither():
    record = make_record({})

    assert not {"cost", "device", "seed"} & set(record)
    assert record["inputs"] == {}


def test_a_record_names_the_commit_of_the_packages_repository():
    repository = Path(records.__file__).parents[1]
    git = ["git", "-C", str(repository)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        pytest.skip("the package does not lie in a git repository")

    record = make_record({})

    assert record["commit"] == head.stdout.strip()
    assert isinstance(record["dirty"], bool)


def test_a_package_outside_its_own_repository_claims_no_commit(tmp_path, monkeypatch):
    # Installed into a virtual environment inside somebody's repository: that commit is not ours.
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "venv" / "tdabench" / "machine.py"))
    (tmp_path / "venv" / "tdabench").mkdir(parents=True)

    commit = machine.find_commit.__wrapped__()

    assert commit == {"commit": None, "dirty": None}


def test_a_package_that_is_absent_is_said_to_be(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("no-such-package",))

    assert make_record({})["versions"]["no-such-package"] == "absent"


def test_an_absent_input_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        make_record({}, inputs=[tmp_path / "absent.safetensors"])


# Whole or absent


def _write_some(kind: str, path: Path) -> None:
    """Write one file of a kind; large enough to fill a small disk."""
    if kind == "tensors":
        save_tensors(path, {"scores": torch.zeros(5_000)}, {"seed": 1})
    elif kind == "json":
        save_json(path, {"lds": [0.5] * 5_000}, {})
    elif kind == "text":
        save_text(path, "0.5," * 5_000)
    else:
        figure = Figure()
        figure.figimage(torch.rand(100, 100, generator=torch.Generator().manual_seed(0)).numpy())
        save_figure(path, figure)


KINDS = {"tensors": "a.safetensors", "json": "a.json", "text": "a.csv", "figure": "a.pdf"}


@pytest.mark.parametrize("error", [RuntimeError("in the middle"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_writer_that_stops_in_the_middle_leaves_the_old_file_and_no_partial_one(tmp_path, error):
    path = tmp_path / "lds.csv"
    save_text(path, "old")

    def write(partial: Path) -> None:
        partial.write_text("half of the n")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["lds.csv"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "lds.csv"
    save_text(path, "old")
    seen = []

    def write(partial: Path) -> None:
        partial.write_text("new")
        seen.append(path.read_text())

    write_atomically(path, write)

    assert seen == ["old"]
    assert path.read_text() == "new"


def test_of_two_that_write_one_file_at_a_time_the_last_wins_and_the_file_is_whole(tmp_path):
    path = tmp_path / "lds.csv"

    def write(partial: Path) -> None:
        with partial.open("w") as file:
            file.write("the first half, ")
            file.flush()
            save_text(path, "short")
            file.write("the second half")

    write_atomically(path, write)

    assert path.read_text() == "the first half, the second half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["lds.csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_names_the_file_and_the_remedy_and_leaves_nothing(full_disk, kind):
    path = full_disk / KINDS[kind]

    with pytest.raises(OSError, match=rf"Can't write {path}: .*No space left.*Free some disk space .* and run again"):
        _write_some(kind, path)

    assert list(full_disk.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(full_disk):
    path = full_disk / "a.safetensors"
    save_tensors(path, {"scores": torch.ones(3)}, {"seed": 0})

    with pytest.raises(OSError, match="Can't write"):
        _write_some("tensors", path)

    assert load_record(path) == {"seed": 0}
    assert [entry.name for entry in full_disk.iterdir()] == ["a.safetensors"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of 8 KiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "lds.csv"
    save_text(path, "old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match=rf"Can't write {path}: .*No space left.*Free some disk space"):
        save_text(path, "new")

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["lds.csv"]


def test_a_folder_that_is_a_file_is_an_os_error_that_names_it(tmp_path):
    (tmp_path / "tables").write_text("in the way")

    with pytest.raises(OSError, match="tables"):
        save_text(tmp_path / "tables" / "lds.csv", "new")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_can_be_read_by_whom_the_umask_allows(tmp_path, kind):
    with _umask(0o022):
        _write_some(kind, tmp_path / KINDS[kind])

    assert oct((tmp_path / KINDS[kind]).stat().st_mode & 0o777) == oct(0o644)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# Damage


@pytest.mark.parametrize("keep", [0, 4, 60, -1], ids=["empty", "no header", "half a header", "a byte is missing"])
@pytest.mark.parametrize("load", [load_tensors, load_record])
def test_a_truncated_file_names_itself_and_the_remedy(tmp_path, load, keep):
    path = tmp_path / "scores.safetensors"
    save_tensors(path, TENSORS, {"seed": 3})
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\): delete it and run the workflow again"):
        load(path)


@pytest.mark.parametrize("load", [load_tensors, load_record])
def test_garbage_instead_of_tensors_names_itself_and_the_remedy(tmp_path, load):
    path = tmp_path / "scores.safetensors"
    path.write_bytes(bytes(range(256)) * 10)

    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\): delete it and run the workflow again"):
        load(path)


@pytest.mark.parametrize("content", [b"", b'{"mean": 0.', b"\xff\xfe", b"not json"])
@pytest.mark.parametrize("load", [load_json, load_record])
def test_damaged_json_names_itself_and_the_remedy(tmp_path, load, content):
    path = tmp_path / "lds.json"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\): delete it and run the workflow again"):
        load(path)


def test_a_tensor_file_of_somebody_else_has_no_record(tmp_path):
    path = tmp_path / "scores.safetensors"
    save_file({"scores": torch.zeros(2)}, path)

    with pytest.raises(ValueError, match=rf"{path} has no record: it was not written by tdabench"):
        load_record(path)


@pytest.mark.parametrize("content", [{"mean": 1}, [1, 2], None])
def test_a_json_file_of_somebody_else_has_no_record(tmp_path, content):
    path = tmp_path / "lds.json"
    path.write_text(json.dumps(content))

    with pytest.raises(ValueError, match=rf"{path} has no record: it was not written by tdabench"):
        load_record(path)


@pytest.mark.parametrize(("load", "name"), [(load_tensors, "a.safetensors"), (load_record, "a.safetensors")])
def test_an_absent_tensor_file_says_who_makes_it(tmp_path, load, name):
    with pytest.raises(FileNotFoundError, match=rf"There is no result file .*{name}; the workflow makes it"):
        load(tmp_path / name)


def test_an_absent_json_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lds\.json"):
        load_json(tmp_path / "lds.json")


def test_a_table_is_read_with_repeats_as_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("repeat,lds\n0,0.5\n1,\n")

    table = load_table(path)

    assert table["repeat"].tolist() == ["0", "1"]
    assert table["lds"].isna().tolist() == [False, True]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3\n1,2,3,4\n", b"a\n\xff\xfe\n"])
def test_what_is_no_table_names_itself_and_the_remedy(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"table.csv is no CSV table .*: delete it and run the workflow again"):
        load_table(path)


def test_rows_of_a_tensor_are_read_in_the_order_asked_for(tmp_path):
    scores = torch.arange(12.0).reshape(4, 3)
    save_tensors(tmp_path / "scores.safetensors", {"scores": scores}, {})

    rows = load_rows(tmp_path / "scores.safetensors", "scores", [3, 0])

    assert rows.tolist() == [[9, 10, 11], [0, 1, 2]]
    assert load_rows(tmp_path / "scores.safetensors", "others", [0]) is None


def test_rows_of_an_absent_file_are_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no result file .*absent"):
        load_rows(tmp_path / "absent.safetensors", "scores", [0])


def test_matrices_of_a_file_stay_there_until_their_rows_are_asked_for(tmp_path):
    path = tmp_path / "scores.safetensors"
    scores = torch.arange(12.0).reshape(4, 3)
    save_tensors(path, {"scores": scores, "self_influence": scores[:3].diagonal()}, {})

    matrices = open_matrices(path)

    assert {name: rows.shape for name, rows in matrices.items()} == {"scores": (4, 3)}
    assert [part.tolist() for part in matrices["scores"].split(3)] == [scores[:3].tolist(), scores[3:].tolist()]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no result file .*scores"):
        list(matrices["scores"].split(3))
