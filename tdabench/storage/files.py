"""Files on disk: written whole or not at all, and nowhere but where they belong. Imports no torch."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def check_place(path: Path | str) -> None:
    """Refuse a path ``results/...``, as the workflow has them all, that a link below ``results`` leads elsewhere.

    Results may come from somebody else, links included. ``results`` itself may be a link, to a disk with room; and a
    path that begins in another way was named by hand, and may lead anywhere.

    Raises:
        ValueError: If it lies outside.
    """
    place, root = Path(path).parent.resolve(), Path("results").resolve()
    if Path(path).parts[:1] == ("results",) and not place.is_relative_to(root):
        raise ValueError(
            f"{path} leads out of results/, to {place}, and nothing is written there: remove the link, or make results "
            "itself one."
        )


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let a function write a partial file, then give it its name.

    Raises:
        OSError: If it can't be written.
        ValueError: If a link leads it out of ``results``.
    """
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: a job that a killed Snakemake left running may write the same file at the same time.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors makes files that only their owner may read
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Can't write {path}: {error}. Free some disk space or mend the folder, and run again; finished "
            "files are kept."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def put_aside(path: Path | str) -> Path:
    """Rename a damaged result, so that the workflow makes it anew; return its new name."""
    aside = Path(path).with_name(f"{Path(path).name}.damaged")
    with contextlib.suppress(FileNotFoundError):  # another job has found it too
        os.replace(path, aside)
    return aside


def remove_file(path: Path | str) -> None:
    """Remove a file that is needed no more, if it is there."""
    Path(path).unlink(missing_ok=True)


def hash_file(path: Path | str) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_named_files(settings: Mapping[str, Any], root: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the hash of every file that a setting names, by its path; of a folder, its tokenizer's files.

    Args:
        settings: Texts, and sequences of them; what is no name of a file that can be read counts for nothing.
        known: Hashes of before, for what the settings name and is not there.
    """
    values = [value if isinstance(value, list | tuple) else [value] for value in settings.values()]
    texts = [text for value in values for text in value if isinstance(text, str) and text.strip("./")]
    found = {}
    for text in texts:
        # os.path and not pathlib: a text that is no path at all is no error.
        if not os.path.exists(root / text):
            found |= {name: old for name, old in (known or {}).items() if name == text or name.startswith(f"{text}/")}
            continue
        names = [text]
        if os.path.isdir(root / text):
            names = [f"{text}/{file}" for file in sorted(os.listdir(root / text)) if "tokenizer" in file]
        readable = [name for name in names if os.path.isfile(root / name) and os.access(root / name, os.R_OK)]
        found |= {name: hash_file(root / name) for name in readable}
    return found
