"""Banks and arrays that are damaged: bytes, lengths, headers, types, shapes, records."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tdabench.bank.bank import make_bank, save_bank
from tdabench.storage.records import make_record, save_tensors

RANDOM = np.random.default_rng(0)
MASKS = RANDOM.random((6, 8)) < 0.5
LOSSES = RANDOM.normal(size=(6, 5))
ARRAYS = ("npy", "npz", "csv", "arrays.safetensors")
NUMBERS = ("0", "-1", "7", "4294967295", "9223372036854775807", "99999999999999999999999", "1e99", "null", "[]", "'x'")


def make_good_banks(folder: Path) -> Path:
    """Write a bank in every format that can be imported; return its folder."""
    folder.mkdir(parents=True)
    np.save(folder / "masks.npy", MASKS)
    np.save(folder / "losses.npy", LOSSES)
    np.savez_compressed(folder / "both.npz", masks=MASKS, losses=LOSSES)
    np.savetxt(folder / "masks.csv", MASKS, delimiter=",", fmt="%d")
    np.savetxt(folder / "losses.csv", LOSSES, delimiter=",", fmt="%.6e")
    tensors = {"masks": torch.from_numpy(MASKS), "loss": torch.from_numpy(LOSSES)[:, None].contiguous()}
    save_tensors(folder / "both.safetensors", {"masks": tensors["masks"], "losses": torch.from_numpy(LOSSES)}, {})
    save_bank(folder / "bank.safetensors", make_bank(tensors, make_record({}, source="arrays", measure="loss")))
    return folder


def spoil_bank(good: Path, place: Path, chance: random.Random) -> tuple[str, list[str]]:
    """Copy a good bank into a folder and damage it; return the kind of damage and the arguments of `bank import`."""
    form = chance.choice(["bank", "kronfluence", *ARRAYS])
    names = {
        "bank": ["bank.safetensors"],
        "kronfluence": ["masks.npy", "losses.npy"],
        "npy": ["masks.npy", "losses.npy"],
        "npz": ["both.npz"],
        "csv": ["masks.csv", "losses.csv"],
        "arrays.safetensors": ["both.safetensors"],
    }[form]
    for name in names:
        shutil.copy(good / name, place / name)
    kind = chance.choice(sorted(KINDS))
    path = place / chance.choice(names)
    KINDS[kind](path, chance)
    if form == "bank":
        return f"bank, {kind}", [str(place / names[0])]
    if form == "kronfluence":
        return f"kronfluence, {kind}", [str(place), "--format", "kronfluence"]
    more = ["--num-train", chance.choice(["1", "8", "99999"])] if chance.random() < 0.2 else []
    return f"{form}, {kind}", [*(str(place / name) for name in names), "--format", "arrays", *more]


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    reach = len(content) if chance.random() < 0.5 else min(200, len(content))  # headers stand first
    for _ in range(chance.randint(1, 6)):
        content[chance.randrange(reach)] = chance.randrange(256)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    parts = [content[:start], content[start:], content[:start] + content[end:], content + content[start:end], b""]
    path.write_bytes(chance.choice(parts))


def _claim(path: Path, chance: random.Random) -> None:
    """Put another number where a header has one, of the same length or not."""
    content = path.read_bytes()
    found = list(re.finditer(rb"\d+", content[:4000]))
    hit = chance.choice(found)
    number = chance.choice(NUMBERS).encode()
    if chance.random() < 0.5:  # the header's length stays right
        number = (number + b"9" * 40)[: len(hit[0])]
    path.write_bytes(content[: hit.start()] + number + content[hit.end() :])


def _type(path: Path, chance: random.Random) -> None:
    """Write other values, types and shapes, in the same format."""
    values = chance.choice(
        [np.zeros(0), np.zeros((6, 0)), np.array(1.0), np.full((6, 5), np.nan), np.full((6, 5), np.inf),
         np.array([["a"]]), np.array([[None, {}]], dtype=object), np.zeros((6, 5), complex), np.zeros((2, 2, 2, 2)),
         np.array(["2020"], dtype="M8"), np.zeros(3, dtype=[("a", int)]), np.full((6, 8), 2**63, np.uint64),
         np.full((6, 8), 1e308), np.ones((6, 8)), LOSSES.T, MASKS, LOSSES, np.zeros((6, 8), np.longdouble)]
    )  # fmt: skip
    name = chance.choice(["masks", "losses", "loss", "", "a/../b", "é", "\0"])
    if path.suffix == ".npy":
        np.save(path, values, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez(path, **{name or "x": values, chance.choice(["masks", "losses"]): MASKS})
    elif path.suffix == ".csv":
        cells = [
            "",
            "nan",
            "inf",
            "-1",
            "1e999",
            "true",
            "x",
            "=1+1",
            "0x1",
            "1_0",
            "٣",
            "9" * 5000,
            "\0",
            '"1"',
            "1;2",
        ]
        rows = [
            ",".join(chance.choice(cells) for _ in range(chance.randint(0, 9))) for _ in range(chance.randint(0, 9))
        ]
        path.write_text("\n".join(rows), encoding="utf-8")
    elif values.dtype.kind in "bif" and values.itemsize <= 8:
        save_tensors(path, {name or "x": torch.from_numpy(values.copy()), "masks": torch.from_numpy(MASKS)}, {})
    else:
        path.write_bytes(values.tobytes())


def _record(path: Path, chance: random.Random) -> None:
    """Put something else into the record of a file of ours; make any other file a bank in disguise."""
    if path.suffix != ".safetensors":
        path.write_bytes(
            chance.choice([b"\x80\x04N.", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY\x01\0\xff\xff", b"\0" * 99])
        )
        return
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    record = json.loads(header["__metadata__"]["record"])
    odd: list[Any] = [
        None,
        -1,
        1e400,
        "x",
        [],
        {},
        [[]],
        {"content": 1},
        {"scored": True, "tuning": 0},
        "\ud800",
        10**40,
    ]
    keys = [*record, "settings", "source", "seed", "stream", "commits", "bank", "averaged", "measure"]
    for _ in range(chance.randint(1, 3)):
        record[chance.choice(keys)] = chance.choice(odd)
    texts = [json.dumps(record), "[" * 5000, "", "null", "[]", '"x"', json.dumps(record)[:-5], "{" + '"a":{' * 900]
    header["__metadata__"]["record"] = chance.choice([texts[0]] * 6 + texts)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "bytes": _flip,
    "lengths": _cut,
    "claims": _claim,
    "types": _type,
    "records": _record,
}
