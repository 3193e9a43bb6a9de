"""Result files: the only place that reads or writes them. Tensors and their record share one file, whole or absent."""

import dataclasses
import datetime
import functools
import json
import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tdabench.storage.files import hash_file, write_atomically
from tdabench.storage.matrix import Rows
from tdabench.storage.provenance import find_commit, find_processor, find_versions, name_device
from tdabench.storage.seals import BLANK, DamagedResult, check_seal, seal_tensors, seal_text


def make_record(
    settings: Mapping[str, Any], *, inputs: Sequence[Path | str] = (), cost: Any = None, **details: Any
) -> dict[str, Any]:
    """Describe how a result came about.

    Args:
        settings: What the result depends on, resolved.
        inputs: Files it was made from; they are checked, and their hashes are kept.
        cost: A ``tdabench.cost.Cost``, if it was measured.
        details: Anything else that belongs to the result (seed, stream, warnings, ...).

    Raises:
        DamagedResult: If an input is not what was written.
    """
    for path in inputs:
        check_seal(path)
    record: dict[str, Any] = {
        "settings": settings,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **details,
        "inputs": {str(path): hash_file(path) for path in inputs},
        "versions": find_versions(),
        **find_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": find_processor(),
    }
    if cost is not None:
        record["device"] = name_device(cost.device)
        record["cost"] = {name: dataclasses.asdict(part) for name, part in cost.phases.items()}
    return record


def save_tensors(path: Path | str, tensors: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write tensors and their record to one safetensors file, atomically."""
    if tensors:
        from safetensors.torch import save_file
    else:  # without importing torch
        from safetensors.numpy import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"record": json.dumps(plain({**record, "sha256": BLANK}))}

    def write(partial: Path) -> None:
        save_file(contiguous, partial, metadata=metadata)
        seal_tensors(partial)

    write_atomically(Path(path), write)


def load_tensors(path: Path | str, names: Collection[str] | None = None) -> dict[str, Any]:
    """Read the tensors of a result file.

    Args:
        names: Those to read, if not all; one that the file lacks is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedResult: If it is damaged.
    """
    with _open(path) as file:
        wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in wanted}


def load_rows(path: Path | str, name: str, rows: Sequence[int]) -> Any:
    """Read some rows of a tensor, and not the others; ``None`` if the file has no such tensor.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedResult: If it is damaged.
    """
    import torch

    with _open(path) as file:
        if name not in file.keys():  # noqa: SIM118
            return None
        tensor = file.get_slice(name)
        return torch.cat([tensor[row : row + 1] for row in rows])


def open_matrices(path: Path | str) -> dict[str, Rows]:
    """Return the matrices of a result file, which stay on disk: their rows are read when they are asked for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    with _open(path) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {
        name: Rows(read=functools.partial(_read_rows, path, name), shape=tuple(shape))
        for name, shape in shapes.items()
        if len(shape) == 2
    }


def _read_rows(path: Path | str, name: str, start: int, stop: int) -> Any:
    with _open(path) as file:  # each time anew: what is mapped of the file counts as memory until it is closed
        return file.get_slice(name)[start:stop]


def load_record(path: Path | str) -> dict[str, Any]:
    """Read the record of a result file, without its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedResult: If it is damaged.
        ValueError: If it has no record.
    """
    if Path(path).suffix == ".json":
        return load_json(path)["record"]
    with _open(path, framework="np") as file:
        metadata = file.metadata() or {}
    record = json.loads(metadata.get("record", "null"))
    if not isinstance(record, dict):
        raise ValueError(f"{path} has no record: it was not written by tdabench.")
    record.pop("sha256", None)
    return record


def create_mapped_tensor(path: Path | str, shape: tuple[int, ...]) -> Any:
    """Make a float32 tensor whose values lie on disk, not in memory: in a file without a name, which goes with it.

    Args:
        path: The file's name for the moment between its making and its mapping.

    Raises:
        OSError: If the disk has no room for it.
    """
    import torch

    path, count = Path(path), math.prod(shape)
    try:
        path.unlink(missing_ok=True)
        with open(path, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, max(4 * count, 1))  # else a full disk kills the process in mid-write
        return torch.from_file(str(path), shared=True, size=count, dtype=torch.float32).view(shape)
    except OSError as error:
        raise OSError(
            f"Can't make room for {4 * count:,} bytes in {path.parent}: {error}. Free some disk space, or leave out "
            "memory_gib."
        ) from error
    finally:
        path.unlink(missing_ok=True)


def save_json(path: Path | str, content: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write numbers and their record to one JSON file, atomically; NaN becomes null."""
    text = json.dumps(plain({**content, "record": record, "sha256": BLANK}), indent=1, allow_nan=False)
    write_atomically(Path(path), lambda partial: partial.write_text(seal_text(text + "\n"), encoding="utf-8"))


def load_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON result file.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedResult: If it is damaged.
        ValueError: If it has no record.
    """
    _require_file(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedResult(path, error) from error
    if not isinstance(content, dict) or "record" not in content:
        raise ValueError(f"{path} has no record: it was not written by tdabench.")
    content.pop("sha256", None)
    return content


def save_text(path: Path | str, text: str) -> None:
    """Write a table, atomically."""
    write_atomically(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def load_table(path: Path | str) -> Any:
    """Read a table as a ``pandas.DataFrame``; ``repeat`` is text, since it may be ``all``.

    Raises:
        ValueError: If it is no CSV table.
    """
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"repeat": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no CSV table ({str(error).strip()}): delete it and run the workflow again."
        ) from error


def save_figure(path: Path | str, figure: Any) -> None:
    """Write a matplotlib figure, atomically; the suffix says which format."""
    path = Path(path)
    kind = path.suffix[1:]
    # No date inside, so that the same figure is the same file.
    metadata = {"pdf": {"CreationDate": None}, "png": {"Software": None}}.get(kind)
    write_atomically(path, lambda partial: figure.savefig(partial, format=kind, metadata=metadata))


def _open(path: Path | str, framework: str = "pt") -> Any:
    _require_file(path)
    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise DamagedResult(path, error) from error


def _require_file(path: Path | str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no result file {path}; the workflow makes it.")


def plain(value: Any) -> Any:
    """Make JSON of anything a record holds: NaN becomes null, paths and types text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return str(value)
