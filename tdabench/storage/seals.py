"""The hash that a result file carries of its own contents, so that damage is found. Imports no torch."""

import hashlib
import json
import re
from pathlib import Path
from typing import BinaryIO

# What stands in the place of the hash while it is computed.
BLANK = "0" * 64
# In JSON, and in JSON that is a text in JSON.
_SEAL = re.compile(rb'"sha256\\?": \\?"([0-9a-f]{64})')
_CHUNK = 2**22


class DamagedResult(ValueError):
    """Raised for a result file that is not what was written.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path | str, reason: object) -> None:
        self.path, self.reason = Path(path), str(reason)
        super().__init__(f"{path} is damaged ({reason}): delete it and run the workflow again.")


def seal_tensors(path: Path) -> None:
    """Write the hash of a safetensors file's data into its header, where ``BLANK`` stands."""
    with open(path, "r+b") as file:
        seal = _find_seal(file.read(int.from_bytes(file.read(8), "little")))
        digest = _hash_rest(file)
        file.seek(8 + seal.start(1))
        file.write(digest.encode())


def seal_text(text: str) -> str:
    """Put the hash of a text into it, where ``BLANK`` stands as the value of ``sha256``."""
    content = text.encode()
    seal = _find_seal(content)
    digest = hashlib.sha256(content).hexdigest()
    return (content[: seal.start(1)] + digest.encode() + content[seal.end(1) :]).decode()


def check_seal(path: Path | str) -> None:
    """Check a result file against the hash that it carries; one without a hash passes.

    Raises:
        DamagedResult: If they differ, or the file is cut off.
    """
    path = Path(path)
    wanted, found = _tensor_hashes(path) if path.suffix == ".safetensors" else _text_hashes(path)
    if wanted is not None and found != wanted:
        raise DamagedResult(path, f"its contents have the hash {found[:12]}..., and it says {wanted[:12]}...")


def _tensor_hashes(path: Path) -> tuple[str | None, str]:
    """Return the hash that a file's header says, and that of its data."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise DamagedResult(path, "it is cut off")
        try:
            metadata = json.loads(file.read(length)).get("__metadata__", {})
            said = json.loads(metadata.get("record", "{}")).get("sha256")
        except (ValueError, AttributeError) as error:
            raise DamagedResult(path, f"its header is no JSON: {error}") from error
        return said, _hash_rest(file) if said else ""


def _text_hashes(path: Path) -> tuple[str | None, str]:
    """Return the hash that a text says, and that of the text with a blank in its place."""
    if path.suffix != ".json":
        return None, ""
    content = path.read_bytes()
    try:
        json.loads(content)
    except ValueError as error:
        raise DamagedResult(path, error) from error
    seal = _find_seal(content)
    if seal is None:
        return None, ""
    blank = content[: seal.start(1)] + BLANK.encode() + content[seal.end(1) :]
    return seal[1].decode(), hashlib.sha256(blank).hexdigest()


def _find_seal(content: bytes) -> re.Match[bytes] | None:
    """Find the hash: the last one, since a record is written last and its hash is the last of its entries."""
    return next(reversed(list(_SEAL.finditer(content))), None)


def _hash_rest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
