"""Arrays of others (.npy, .npz, .safetensors, .csv), read without running anything that is in them."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdabench.bank.comma_separated import PADDING, parse_csv

KINDS = (".npy", ".mmap", ".npz", ".safetensors", ".csv")


def read_arrays(paths: Sequence[Path | str], *, ragged: str | None = None) -> dict[str, Tensor]:
    """Read every array of some files, by name: the file's for .npy, .mmap and .csv, the one inside for the others.

    An .mmap is what traker writes: an .npy by another name. Nothing is ever unpickled.

    Args:
        ragged: Name of the array that may have rows of different lengths in a .csv; they are filled up with -1.

    Returns:
        bool, int64, float32 or float64 tensors.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one can't be read, or a name stands twice.
    """
    arrays: dict[str, Tensor] = {}
    for path in map(Path, paths):
        found = _read_file(path, ragged)
        if twice := arrays.keys() & found.keys():
            raise ValueError(f"The array {min(twice)!r} of {path} is in another file too: rename one.")
        arrays |= found
    return arrays


def pick(arrays: dict[str, Tensor], name: str, option: str) -> Tensor:
    """Return the array of a name.

    Raises:
        ValueError: If there is none; the message lists the names and the option that chooses one.
    """
    if name not in arrays:
        known = ", ".join(map(repr, arrays)) or "none"
        raise ValueError(f"There is no array {name!r}; there are {known}: choose one with {option}.")
    return arrays[name]


def as_masks(values: Tensor, num_train: int | None) -> Tensor:
    """Make masks (subset, train) of a matrix of 0 and 1, or of lists of indices.

    Args:
        num_train: Number of training examples; only then the rows are lists of indices, from 0, filled up with -1.

    Raises:
        ValueError: If the values are neither.
    """
    if values.ndim != 2:
        raise ValueError(f"Masks must be a matrix (subset, train), got the shape {tuple(values.shape)}.")
    if num_train is not None:
        return _masks_of_indices(values, num_train)
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        if len(wrong.unique()) == 1 and not (values == 1).any():
            remedy = f"All others are 0: save masks == {wrong[0].item():g}."
        else:
            remedy = (
                "If the rows are lists of indices, say how many training examples there are with --num-train; counts "
                "of a bootstrap, which has an example twice, can't be scored."
            )
        raise ValueError(f"Masks must be 0 or 1, got {wrong[0].item()}. {remedy}")
    return values.bool()


def _masks_of_indices(values: Tensor, num_train: int) -> Tensor:
    if num_train < 1:
        raise ValueError(f"--num-train must be at least 1, got {num_train}.")
    wrong = ~((values >= PADDING) & (values < num_train) & (values == values.long()))
    if values.dtype == torch.bool or wrong.any():
        found = values[wrong][0].item() if wrong.any() else "true and false"
        from_one = " If they count from 1, subtract 1." if found == num_train else ""
        raise ValueError(
            f"With --num-train {num_train}, masks are lists of indices from 0 to {num_train - 1}, filled up with "
            f"{PADDING}; got {found}.{from_one}"
        )
    counts = torch.zeros(len(values), num_train + 1, dtype=torch.int64)  # the last column counts the padding
    counts.scatter_add_(1, values.long() % (num_train + 1), torch.ones_like(values, dtype=torch.int64))
    counts = counts[:, :num_train]
    if (counts > 1).any():
        subset, index = (counts > 1).nonzero()[0].tolist()
        raise ValueError(f"Subset {subset} lists the index {index} twice: a subset has an example or not.")
    return counts.bool()


def _read_file(path: Path, ragged: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix not in KINDS:
        raise ValueError(
            f"{path} is not one of {', '.join(KINDS)}. A pickle (.pt, .pkl) can run code and is never read: save its "
            "arrays with numpy.save."
        )
    try:
        return {name: _plain(values, name) for name, values in _parse(path, ragged).items()}
    except Exception as error:
        # A file of others may be anything, and the parsers fail in many ways: all mean that it can't be read.
        raise ValueError(f"{path} can't be read as {path.suffix}: {error or type(error).__name__}") from error


def _parse(path: Path, ragged: str | None) -> dict[str, Any]:
    if path.suffix in (".npy", ".mmap"):
        _require_start(path, b"\x93NUMPY")
        with path.open("rb") as file:
            _read_header(file)
        # Mapped, not read: a header can claim more than the file has.
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix == ".npz":
        _require_start(path, b"PK")
        return _read_npz(path)
    if path.suffix == ".csv":
        return {path.stem: parse_csv(path.read_text(encoding="utf-8-sig"), ragged=ragged == path.stem)}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _require_start(path: Path, magic: bytes) -> None:
    with path.open("rb") as file:
        if not file.read(len(magic)) == magic:
            raise ValueError("it is another kind of file; a pickle is never read.")


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type of an array, which may be no pickle."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"it has the version {version} of the format: numbers have 1.0 or 2.0.")
    shape, _, dtype = read_header[version](file)
    if dtype.hasobject:
        raise ValueError(
            "it has objects of Python, perhaps rows of different lengths: they are a pickle, which is never read. Save "
            f"a matrix of numbers; lists of indices are filled up with {PADDING}, and read with --num-train."
        )
    return shape, dtype


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, dtype = _read_header(file)
            # Before memory is taken: a header can claim more than the file has.
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(
                    f"{member.filename} is cut off: its header says {shape}, it has {member.file_size} bytes."
                )
        return {name: arrays[name] for name in arrays.files}


def _plain(values: Any, name: str) -> Tensor:
    """Bring an array to one of four types."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{name!r} has values of type {values.dtype}; numbers or true and false are read.")
        small = values.itemsize <= 4
        wide = {"b": np.bool_, "i": np.int64, "u": np.int64 if small else np.float64}
        wide["f"] = np.float32 if small else np.float64
        values = torch.from_numpy(np.array(values, dtype=wide[values.dtype.kind]))
    if values.dtype == torch.bool or values.dtype in (torch.float32, torch.float64):
        return values
    if values.is_complex():
        raise ValueError(f"{name!r} has complex values; numbers or true and false are read.")
    return values.float() if values.is_floating_point() else values.long()
