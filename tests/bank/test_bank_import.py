"""Banks of others: which arrays are read, which are refused, and that nothing in them is run."""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from tdabench import cli
from tdabench.bank.arrays import KINDS, as_masks, read_arrays
from tdabench.bank.bank import Bank, load_bank, make_bank
from tdabench.bank.foreign import read_foreign
from tdabench.bank.measured import Measured
from tdabench.bank.score import read_scores, score_bank
from tdabench.evaluation.lds import average_retrains, linear_datamodeling_score
from tdabench.experiment.sections import EvaluationSettings

RANDOM = np.random.default_rng(0)
MASKS = RANDOM.random((6, 8)) < 0.5
LOSSES = RANDOM.normal(size=(6, 5)) ** 2


def _import(*arguments: str | Path) -> int:
    return cli.main(["bank", "import", *map(str, arguments)])


def _error(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    assert _import(*arguments) == 1
    return capsys.readouterr().err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is read


def _write(kind: str, folder: Path, losses: np.ndarray = LOSSES) -> list[Path]:
    """Write masks and losses in one kind of file; return the paths."""
    if kind == "npy":
        np.save(folder / "masks.npy", MASKS)
        np.save(folder / "losses.npy", losses)
    elif kind == "npz":
        np.savez_compressed(folder / "both.npz", masks=MASKS.astype(np.uint8), losses=losses)
        return [folder / "both.npz"]
    elif kind == "safetensors":
        save_file({"masks": MASKS, "losses": losses}, folder / "both.safetensors")
        return [folder / "both.safetensors"]
    else:
        np.savetxt(folder / "masks.csv", MASKS, delimiter=",", fmt="%d")
        np.savetxt(folder / "losses.csv", losses, delimiter=",", fmt="%.18e")
    return [folder / f"masks.{kind}", folder / f"losses.{kind}"]


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "csv"])
def test_every_kind_of_file_gives_the_same_bank(here, kind):
    paths = _write(kind, here)

    assert _import(*paths, "--format", "arrays", "--output", "bank.safetensors") == 0

    bank = load_bank("bank.safetensors")
    assert bank.masks.tolist() == MASKS.tolist()
    assert bank.loss.tolist() == LOSSES[:, None].tolist()
    assert bank.record["source"] == "arrays"
    assert bank.record["averaged"] == 1
    assert list(bank.record["inputs"]) == [path.name for path in paths]


def test_arrays_have_the_names_that_are_given(here):
    np.savez("both.npz", kept=MASKS, measured=np.stack([LOSSES, LOSSES + 1], axis=1))

    names = ("--masks", "kept", "--losses", "measured", "--averaged", "3", "--tuning-queries", "2")
    assert _import("both.npz", "--format", "arrays", *names, "--output", "bank.safetensors") == 0

    bank = load_bank("bank.safetensors")
    assert tuple(bank.loss.shape) == (6, 2, 5)
    assert bank.loss[:, 1].tolist() == (LOSSES + 1).tolist()
    assert bank.record["averaged"] == 3
    assert bank.record["queries"] == {"scored": 3, "tuning": 2}


def test_lists_of_indices_become_masks(here):
    rows = [np.flatnonzero(mask).tolist() for mask in MASKS]
    Path("masks.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    padded = np.full((6, 8), -1)
    for row, indices in zip(padded, rows, strict=True):
        row[: len(indices)] = indices
    np.save("padded.npy", padded)
    np.save("losses.npy", LOSSES)

    assert len({len(row) for row in rows}) > 1
    for name in ("masks.csv", "padded.npy"):
        options = ("--masks", Path(name).stem, "--num-train", "8", "--output", f"{name}.safetensors")
        assert _import(name, "losses.npy", "--format", "arrays", *options) == 0
        assert load_bank(f"{name}.safetensors").masks.tolist() == MASKS.tolist()


def test_an_empty_cell_of_a_csv_is_a_diverged_retrain(here, caplog):
    _write("csv", here)
    lines = Path("losses.csv").read_text().splitlines()
    Path("losses.csv").write_text("\n".join([",,,,", *lines[1:]]))

    assert _import("masks.csv", "losses.csv", "--format", "arrays", "--output", "bank.safetensors") == 0

    assert load_bank("bank.safetensors").loss[:, 0, 0].isnan().tolist() == [True] + [False] * 5
    assert "1 retrained models have losses that are not finite" in caplog.text


def test_the_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_number(here):
    Path("values.csv").write_bytes(b"\xef\xbb\xbf1.5,0\r\n2,3\r\n")

    assert read_arrays(["values.csv"])["values"].tolist() == [[1.5, 0], [2, 3]]


def test_lists_of_indices_may_begin_as_a_header_does(here):
    Path("masks.csv").write_text("0,1,2\n5\n")

    assert read_arrays(["masks.csv"], ragged="masks")["masks"].tolist() == [[0, 1, 2], [5, -1, -1]]


def test_a_memory_mapped_file_of_traker_is_read_and_its_scores_turned(here):
    scores = np.linspace(-1, 1, 40).reshape(8, 5).astype(np.float16)  # (train, query)
    mapped = np.lib.format.open_memmap("quickstart.mmap", mode="w+", dtype=np.float16, shape=(8, 5))
    mapped[:] = scores
    mapped.flush()
    bank = make_bank({"masks": torch.from_numpy(MASKS), "loss": torch.from_numpy(LOSSES)[:, None]}, {})

    read = read_scores([Path("quickstart.mmap")], bank, name="scores", negate=False)

    assert read["quickstart"].tolist() == scores.T.tolist()


# What was measured


MARGINS = -(MASKS @ RANDOM.normal(size=(8, 5))) + 20
TWICE = np.stack([LOSSES, LOSSES + 0.1], axis=1)


@pytest.mark.parametrize(
    ("name", "values", "options", "loss", "measure"),
    [
        ("margins", MARGINS, "", -MARGINS[:, None], "minus margin"),
        ("margins", MARGINS, "--margins margins", -MARGINS[:, None], "minus margin"),
        ("outputs", MARGINS - 20, "--margins outputs", 20 - MARGINS[:, None], "minus margin"),
        ("margins", TWICE, "--retrains 2", -TWICE, "minus margin"),
        ("test_loss", LOSSES, "--losses test_loss", LOSSES[:, None], "loss"),
        ("losses", LOSSES - 3, "--negative", LOSSES[:, None] - 3, "loss"),
        ("losses", TWICE - 3, "--negative --retrains 2", TWICE - 3, "loss"),
        ("losses", TWICE, "", TWICE, "loss"),
        ("losses", LOSSES - 1e-4 * (LOSSES.min() == LOSSES), "", None, "loss"),
    ],
)
def test_a_name_or_an_option_says_what_was_measured_and_the_record_keeps_it(here, name, values, options, loss, measure):
    np.savez("both.npz", masks=MASKS, **{name: values})

    assert _import("both.npz", "--format", "arrays", *options.split(), "--output", "bank.safetensors") == 0

    bank = load_bank("bank.safetensors")
    assert bank.record["measure"] == measure
    assert loss is None or bank.loss.tolist() == loss.tolist()


def test_scores_are_compared_with_margins_by_the_right_sign_and_a_turned_bank_is_told_of(here, caplog):
    effects = RANDOM.normal(size=(5, 30))
    masks = RANDOM.random((40, 30)) < 0.5
    np.savez("both.npz", masks=masks, outputs=masks @ effects.T)
    np.save("scores.npy", effects)
    found = []
    for options in (("--margins", "outputs"), ("--losses", "outputs", "--negative")):
        bank = f"{options[0][2:]}.safetensors"
        assert _import("both.npz", "--format", "arrays", *options, "--output", bank) == 0
        arguments = [bank, "--scores", "scores.npy", "--resamples", "100", "--output", f"{bank}.csv"]
        assert cli.main(["bank", "score", *arguments]) == 0
        found.append(float(Path(f"{bank}.csv").read_text().splitlines()[1].split(",")[1]))

    assert found == [1, -1]
    assert caplog.text.count("scores predicts the opposite of what was measured. Turn the scores (--negate)") == 1


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", "<i4", ">i8", "<u2", "<u8"])
def test_numbers_of_every_type_are_read_by_value(here, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    np.save("values.npy", values)

    read = read_arrays(["values.npy"])["values"]

    assert read.double().tolist() == np.arange(6.0).reshape(2, 3).tolist()
    assert read.dtype in (torch.int64, torch.float32, torch.float64)


@pytest.mark.parametrize(("name", "sign", "measure"), [("losses", 1, "loss"), ("margins", -1, "minus margin")])
def test_a_folder_of_kronfluence_has_losses_or_margins(here, name, sign, measure):
    # Its margins are high where a model is right: scores are compared with minus the loss, so with plus the margin.
    np.save("masks.npy", MASKS)
    np.save(f"{name}.npy", LOSSES.astype(np.float32))

    assert _import(".", "--format", "kronfluence", "--output", "bank.safetensors") == 0

    bank = load_bank("bank.safetensors")
    assert bank.loss.tolist() == (sign * LOSSES.astype(np.float32)[:, None]).tolist()
    assert (bank.record["measure"], bank.record["averaged"]) == (measure, 5)


# What is refused


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"masks": MASKS * 2 + 1, "losses": LOSSES}, (), r"Masks must be 0 or 1, got 3\. .*say how many .*--num-train"),
        ({"masks": MASKS * np.nan, "losses": LOSSES}, (), "Masks must be 0 or 1, got nan"),
        ({"masks": MASKS[0], "losses": LOSSES}, (), r"Masks must be a matrix \(subset, train\), got the shape \(8,\)"),
        ({"masks": MASKS[:5], "losses": LOSSES}, (), r"Masks have 5 subsets and 'loss' has the shape \(6, 1, 5\)"),
        ({"masks": MASKS, "losses": LOSSES[0]}, (), r"Losses must be .*got the shape \(5,\)"),
        ({"masks": MASKS, "losses": LOSSES > 0}, (), "Losses must be numbers, got true and false: .*swapped"),
        ({"masks": MASKS, "losses": LOSSES * np.nan}, (), "6 of 6 retrained models diverged"),
        ({"masks": MASKS[:1], "losses": LOSSES[:1]}, (), "at least 3 subsets, got 1"),
        ({"masks": MASKS, "losses": LOSSES * 0}, (), "All 5 queries have the same loss"),
        (
            {"masks": MASKS, "losses": LOSSES - 3},
            (),
            r"negative values \(-.*a cross-entropy never.*--margins.*--negative",
        ),
        (
            {"masks": MASKS, "margins": LOSSES},
            ("--losses", "margins"),
            "'margins' has no losses.*say --margins margins",
        ),
        ({"masks": MASKS, "Logits": LOSSES}, ("--losses", "Logits"), "'Logits' has no losses.*make losses of logits"),
        ({"masks": MASKS, "losses": LOSSES}, ("--margins", "losses"), "'losses' has losses: say --losses losses"),
        ({"masks": MASKS, "margins": TWICE}, (), r"\(6, 2, 5\) \(subset, retrain, query\)\? .*--retrains 2.*class"),
        ({"masks": MASKS, "losses": TWICE}, ("--negative",), "--retrains 2"),
        ({"masks": MASKS, "losses": TWICE / TWICE.sum(axis=2, keepdims=True)}, (), "--retrains 2.*is the class"),
        ({"masks": MASKS, "losses": TWICE}, ("--retrains", "5"), "has 2 retrains, not 5"),
        ({"masks": MASKS, "a": LOSSES}, ("--losses", "a", "--margins", "a"), "Say --losses or --margins, not both"),
        ({"masks": MASKS, "a": LOSSES}, ("--margins", "a", "--negative"), "--negative is for losses"),
        ({"masks": MASKS * 255, "losses": LOSSES}, (), r"got 255\. All others are 0: save masks == 255"),
        ({"masks": MASKS * 8, "losses": LOSSES}, ("--num-train", "8"), "If they count from 1, subtract 1"),
        ({"masks": MASKS, "other": LOSSES}, (), "There is no array 'losses'; there are 'masks', 'other': .*--losses"),
        ({"masks": MASKS, "losses": LOSSES}, ("--masks", "kept"), "There is no array 'kept'; .*--masks"),
        ({"masks": MASKS, "losses": LOSSES}, ("--num-train", "8"), "lists of indices from 0 to 7.*got true and false"),
        ({"masks": MASKS * 8, "losses": LOSSES}, ("--num-train", "8"), "from 0 to 7, filled up with -1; got 8"),
        ({"masks": MASKS * 0.5, "losses": LOSSES}, ("--num-train", "8"), "from 0 to 7, filled up with -1; got 0.5"),
        ({"masks": MASKS * 1, "losses": LOSSES}, ("--num-train", "8"), "Subset 0 lists the index 0 twice"),
        ({"masks": MASKS, "losses": LOSSES}, ("--num-train", "0"), "--num-train must be at least 1, got 0"),
        ({"masks": MASKS, "losses": LOSSES}, ("--averaged", "0"), "--averaged must be at least 1, got 0"),
        ({"masks": MASKS, "losses": LOSSES}, ("--tuning-queries", "5"), "fewer than all 5 queries, got 5"),
        ({"masks": MASKS, "losses": LOSSES + 1j}, (), "'losses' has values of type complex128"),
        ({"masks": MASKS.astype(str), "losses": LOSSES}, (), "'masks' has values of type <U5"),
    ],
)
def test_arrays_that_are_no_bank_are_refused_and_nothing_is_written(here, capsys, files, options, message):
    np.savez("both.npz", **files)

    error = _error(capsys, "both.npz", "--format", "arrays", *options, "--output", "bank.safetensors")

    assert re.search(message, error), error
    assert "Traceback" not in error
    assert [path.name for path in here.iterdir()] == ["both.npz"]


class _Trap:
    """Pickled, it makes a file when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_a_pickle_is_never_read(here, capsys):
    trap = np.array([_Trap()], dtype=object)
    np.save("masks.npy", trap, allow_pickle=True)
    np.savez("both.npz", masks=trap)
    for name in ("plain.npy", "masks.pt", "plain.npz", "plain.csv", "plain.safetensors"):
        Path(name).write_bytes(pickle.dumps(_Trap()))

    for path in sorted(here.iterdir()):
        error = _error(capsys, path.name, "--format", "arrays", "--output", "bank.safetensors")
        assert path.name in error

    for name in ("masks.npy", "both.npz"):
        message = "it has objects of Python, perhaps rows of different lengths: they are a pickle"
        assert message in _error(capsys, name, "--format", "arrays", "--output", "b")
    assert "A pickle (.pt, .pkl) can run code" in _error(capsys, "masks.pt", "--format", "arrays", "--output", "b")
    assert not Path("sprung").exists()


def test_the_pickles_that_kronfluence_publishes_are_refused_with_the_remedy(here, capsys):
    Path("masks.pt").write_bytes(b"")

    error = _error(capsys, ".", "--format", "kronfluence", "--output", "bank.safetensors")

    assert "masks.pt is a pickle, which can run code and is never read" in error
    assert "numpy.save('masks.npy', torch.load('masks.pt', weights_only=False))" in error


ONE_FOLDER = "one folder, with masks.npy and losses.npy (or margins.npy); got "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("masks.npy --format kronfluence --output b", f"{ONE_FOLDER}masks.npy"),
        (". . --format kronfluence --output b", f"{ONE_FOLDER}., ."),
        (". --format kronfluence --output b", "There is no file losses.npy"),
        ("absent.npy --format arrays --output b", "There is no file absent.npy"),
        ("absent.safetensors --output b", "There is no bank absent.safetensors"),
        (
            "masks.npy both.npz --format arrays --output b",
            "The array 'masks' of both.npz is in another file too",
        ),
        ("a.safetensors b.safetensors --output c", "One bank at a time, got 2: a.safetensors, b.safetensors"),
        ("a.safetensors", "either --output BANK, or --into FOLDER"),
        ("a.safetensors --output b --into results/tiny/0/120", "either --output BANK, or --into FOLDER"),
    ],
)
def test_what_cannot_be_imported_is_a_clear_error(here, capsys, arguments, message):
    np.save("masks.npy", MASKS)
    np.savez("both.npz", masks=MASKS)

    assert message in _error(capsys, *arguments.split())


def test_an_unknown_format_names_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        _import("a.npy", "--format", "csv", "--output", "b")

    assert "'csv' (choose from" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no format 'csv'; there are tdabench, kronfluence, arrays"):
        read_foreign("csv", [])


def test_files_that_are_cut_off_or_claim_more_than_they_have_are_refused(here, capsys):
    np.save("masks.npy", MASKS)
    Path("cut.npy").write_bytes(Path("masks.npy").read_bytes()[:-1])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    Path("huge.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile("huge.npz", "w") as archive:
        archive.writestr("masks.npy", header.getvalue())

    for name in ("cut.npy", "huge.npy", "huge.npz"):
        error = _error(capsys, name, "--format", "arrays", "--output", "b")
        assert re.search(rf"{name} can't be read as .np[yz]: .+", error)
    assert "its header says (10000000000000,)" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0\n1\n", "its rows have from 1 to 2 values; all must have as many"),
        ("query_0,query_1\n1,0\n", "line 1 has 'query_0'; it must have numbers only, and no header"),
        ("1;0\n", "not separated by commas: save it with commas between them and points in the numbers"),
        ("1\t0\n", "not separated by commas"),
        (",0,1,2\n0,1,0,1\n", "its first line counts the columns: save it without the header (pandas: header=False)"),
        ("1,2,3\n1,0,1\n", "its first line counts the columns"),
        ("0,1,0\n1,1,1\n2,0,0\n", "its first column counts the rows: save it without the index (pandas: index=False)"),
        ("1,0.5\n2,0.25\n3,0.5\n", "its first column counts the rows"),
    ],
)
def test_a_csv_has_numbers_only(here, capsys, text, message):
    Path("masks.csv").write_text(text)

    assert message in _error(capsys, "masks.csv", "--format", "arrays", "--output", "b")


# Anything at all


def _attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return what a call returns, or the text of its ValueError; anything else that is raised fails the test."""
    try:
        return call(*arguments), ""
    except ValueError as error:
        return None, str(error)


MAGIC = st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])


@given(content=st.binary(max_size=300), kind=st.sampled_from(KINDS), magic=MAGIC)
def test_arbitrary_bytes_give_nothing_but_a_clear_error_or_arrays(tmp_path_factory, content, kind, magic):
    path = tmp_path_factory.getbasetemp() / f"masks{kind}"
    path.write_bytes(magic + content)

    arrays, refusal = _attempt(read_arrays, [path])

    assert arrays is not None or f"masks{kind} can't be read as {kind}: " in refusal
    assert all(isinstance(values, torch.Tensor) for values in (arrays or {}).values())
    with pytest.raises(ValueError, match=f"masks{kind}"):
        load_bank(path)


@given(data=st.data(), position=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_bank_or_array_with_any_byte_changed_is_refused_or_whole(tmp_path_factory, whole, data, position, value):
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / f"changed-{name}"
    path.write_bytes(content)

    read, refusal = _attempt(load_bank, path) if name == "bank.safetensors" else _attempt(read_arrays, [path])

    assert read is not None or f"changed-{name}" in refusal
    if isinstance(read, Bank):  # a byte of the record was changed, or none
        assert read.masks.tolist() == MASKS.tolist()
        assert read.loss.tolist() == LOSSES[:, None].tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Return the bytes of good files."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["--format", "arrays", "--output", folder / "bank.safetensors"]
    assert _import(*_write("npy", folder), *arguments) == 0
    _write("npz", folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.stem != "losses"}


NUMBERS = st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.complex_number_dtypes())
ANYTHING = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
SIDE = st.integers(1, 4)


@st.composite
def _almost_banks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    subsets = draw(st.integers(2, 6))
    masks = draw(hnp.arrays(bool, (subsets, draw(SIDE)), fill=st.nothing()))
    middle = draw(st.sampled_from([(), (1,), (2,)]))
    values = st.integers(-1, 20).map(lambda value: np.nan if value < 0 else value)
    return masks, draw(hnp.arrays(float, (subsets, *middle, draw(SIDE)), elements=values, fill=st.nothing()))


@given(arrays=st.one_of(_almost_banks(), st.tuples(ANYTHING, ANYTHING)), num_train=st.sampled_from([None, None, 4]))
def test_arbitrary_arrays_give_nothing_but_a_clear_error_or_a_valid_bank(tmp_path_factory, arrays, num_train):
    path = tmp_path_factory.getbasetemp() / "arbitrary.npz"
    np.savez(path, masks=arrays[0], losses=arrays[1])

    read, refusal = _attempt(
        lambda: read_foreign("arrays", [path], measured=Measured(negative=True), num_train=num_train)[:2]
    )
    bank, refusal = _attempt(make_bank, *read) if read else (None, refusal)

    assert (bank is None) == bool(refusal)
    event("refused" if bank is None else "a bank")
    if bank is not None:
        assert len(bank.masks) == len(bank.loss) >= 3
        assert bank.loss.isfinite().all(dim=2).any(dim=1).sum() >= 3
        score_bank(bank, {}, EvaluationSettings(resamples=100), _evaluate_quickly)


def _evaluate_quickly(scores, masks, losses, settings, *, num_scored, generator):
    """Score without the bootstrap."""
    truth = average_retrains(masks, losses)
    return {"mean": linear_datamodeling_score(scores, truth.masks, truth.losses).nanmean().item()}


@given(values=hnp.arrays(st.sampled_from([bool, np.int64, np.float64]), hnp.array_shapes(max_dims=3, max_side=4)))
def test_a_matrix_of_0_and_1_and_nothing_else_is_masks(values):
    tensor = torch.from_numpy(values)

    masks, refusal = _attempt(as_masks, tensor, None)

    assert (masks is not None) == (values.ndim == 2 and bool(np.isin(values, (0, 1)).all())), refusal
    assert masks is None or masks.tolist() == (values == 1).tolist()
