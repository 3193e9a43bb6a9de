"""Damaged files for the parsers: experiments and banks, as a person, a disk or somebody unkind could leave them.

Only success or a clear error will do: one that the command line tells in one line, with a message that names the file,
in at most 5 CPU seconds and 2 GiB. ``TDABENCH_FUZZ=10000 pytest -m nightly tests/test_fuzz.py`` tries more of them.
"""

import collections
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tdabench import cli
from tdabench.bank.bank import make_bank, save_bank
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.storage.records import make_record, save_tensors

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(0)]
COUNT = int(os.environ.get("TDABENCH_FUZZ", "400"))
CLEAR = (ValueError, TypeError, OSError, ImportError)
SECONDS, BYTES = 5, 2 * 2**30


class _TooSlow(BaseException):
    """Not an Exception, so that nobody takes it for a fault of the file."""


def _judge(call: Callable[[], None], name: str) -> str:
    """Say how a call ended: ``good``, or what is wrong."""
    started = time.process_time()
    try:
        with _at_most(SECONDS, BYTES):
            call()
        outcome = "good"
    except CLEAR as error:
        outcome = "good" if name in str(error) else f"NAMELESS {type(error).__name__}: {str(error)[:200]}"
    except (Exception, _TooSlow) as error:
        outcome = f"UNCLEAR {type(error).__name__}: {str(error)[:200]}"
    return outcome if time.process_time() - started <= SECONDS else f"SLOW ({outcome})"


@contextlib.contextmanager
def _at_most(seconds: float, more_bytes: int) -> Iterator[None]:
    """Interrupt the body after some CPU seconds, and refuse it more memory than this."""

    def stop(*_: object) -> None:
        raise _TooSlow

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


# Experiments

GOOD = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))
# As they would stand in a file.
VALUES = (
    "", "null", "~", "true", "no", "''", "' '", "-1", "0", "1", "-0.0", "1e308", "1e400", ".inf", ".nan", "9" * 19,
    "9" * 400, "0x" + "f" * 400, "0o7", "1:2:3", "[]", "{}", "[[]]", "[1, [2, [3]]]", "{a: {b: {c: 1}}}", "[1, 1]",
    "? [a]", "{[1]: 2}", "2020-01-01", "2020-13-45", "!!python/object:os.system {}", "!!binary '!'", "!!int ''",
    "!!float ''", "!!bool maybe", "!!timestamp x", "!!set {a, b}", "!!seq a", "!!map a", "!unknown x", "=", "<<", "*no",
    "&a [*a]", "../../etc/passwd", "a/b", "'; touch x; '", "$(touch x)", "\"\\0\"", "\"\\ud800\"", "\"\\n\"", "é", "𝟙",
    "a" * 5000, "tdabench.data.digits:Digits", "tdabench.attributors.bif:BIF", "sys:exit", "os.path:join", "__main__:X",
    "json.tool.x:Y", "..a:B", "auto", "all", "- a", "#", "|", ">", "%", "@", "`", "{", "[", "]", "}", ":", "a: b: c",
)  # fmt: skip
LINES = (
    "seed: 1", "bank: null", "removal: {counts: [1], queries: 2}", "variance: {}", "sweep: null",
    "sweep: {method: bif, grid: {step_size: [1, 2]}}", "sweep: {method: bif, grid: {a: [9e999, .nan, x, null]}}",
    "name: x", "evaluation: {top: 1}", "---", "...", "--- {}", "%YAML 9.9", "<<: {seed: 2}", "? seed\n: 3", "1: 2",
    "null: null", "true: x", "[a]: b",
)  # fmt: skip
ODD = (None, -1, 10**30, float("nan"), float("inf"), "", [], {}, True, "x" * 3000, ["a"] * 50)
NAMES = ("../x", "/x", "a\0b", "a\nb", ".a", "-a", "a;b", "$(a)", "a b", "é", "x" * 300, "", 1, None, True)


def _spoil_bytes(text: str, chance: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: chance.randrange(len(content))] if chance.random() < 0.1 else content)


def _spoil_lines(text: str, chance: random.Random) -> bytes:
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        place, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        new = chance.choice([[], [lines[other]], [chance.choice(LINES), lines[place]], [" " * other + lines[place]]])
        lines[place : place + 1] = new
        lines = lines or [""]
    return "\n".join(lines).encode()


def _spoil_scalars(text: str, chance: random.Random) -> bytes:
    """Put an odd value behind a colon or a comma, as text: it need not be YAML."""
    for _ in range(chance.randint(1, 2)):
        places = [index for index, sign in enumerate(text) if sign in ":," and text[index + 1 : index + 2] in " \n"]
        start = chance.choice(places or [0]) + 1
        end = min((text.find(sign, start) for sign in ",}\n" if sign in text[start:]), default=len(text))
        text = f"{text[:start]} {chance.choice(VALUES)}{text[end:]}"
    return text.encode()


def _spoil_values(text: str, chance: random.Random) -> bytes:
    """Put an odd value, or one from elsewhere, into the parsed file; or rename a key."""
    content = yaml.safe_load(text)
    places = list(_places(content))
    for _ in range(chance.randint(1, 3)):
        (holder, key), (other, wanted) = chance.choice(places), chance.choice(places)
        if isinstance(holder, dict) and key in holder and chance.random() < 0.2:
            holder[chance.choice(NAMES)] = holder.pop(key)
        elif isinstance(other, dict) and wanted in other:
            holder[key] = chance.choice([*ODD, other[wanted]])
    try:
        return yaml.safe_dump(content, sort_keys=False).encode()
    except RecursionError:
        return b"a: &a [*a]"


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _plan(path: Path) -> None:
    """Do what the workflow does with an experiment before its first job."""
    experiment = load_experiment(path)
    point = next(iter(experiment.sweep.points)) if experiment.sweep else None
    for method in experiment.methods:
        for stage in ("dataset", "split", "train", "retrain", "attribute", "sample", "calibrate", "report", "sweep"):
            stage_settings(experiment, stage, method, point)
        range(experiment.num_chains(method))
        experiment.has_calibration(method)


@pytest.mark.parametrize("spoil", [_spoil_bytes, _spoil_lines, _spoil_scalars, _spoil_values])
def test_damaged_experiment_files_are_read_or_refused_with_their_name(tmp_path, spoil):
    chance, good = random.Random(0), [path.read_text(encoding="utf-8") for path in GOOD]
    found = collections.Counter()
    for index in range(COUNT):
        path = tmp_path / f"e{index}.yaml"
        path.write_bytes(spoil(chance.choice(good), chance))
        found[_judge(lambda path=path: _plan(path), path.stem)] += 1

    assert set(found) == {"good"}, found


# Banks

RANDOM = np.random.default_rng(0)
MASKS, LOSSES = RANDOM.random((6, 8)) < 0.5, RANDOM.normal(size=(6, 5))
NUMBERS = (b"0", b"-1", b"7", b"4294967295", b"9223372036854775807", b"9" * 23, b"1e99", b"null", b"[]", b"'x'")
FORMS = {
    "bank": (["bank.safetensors"], []),
    "kronfluence": (["masks.npy", "losses.npy"], ["--format", "kronfluence"]),
    "npy": (["masks.npy", "losses.npy"], ["--format", "arrays"]),
    "npz": (["both.npz"], ["--format", "arrays"]),
    "csv": (["masks.csv", "losses.csv"], ["--format", "arrays"]),
    "safetensors": (["both.safetensors"], ["--format", "arrays"]),
}
STRANGE = (
    np.zeros(0), np.zeros((6, 0)), np.array(1.0), np.full((6, 5), np.nan), np.full((6, 5), np.inf), np.array([["a"]]),
    np.array([[None, {}]], dtype=object), np.zeros((6, 5), complex), np.zeros((2, 2, 2, 2)), np.ones((6, 8)), LOSSES.T,
    np.zeros(3, dtype=[("a", int)]), np.full((6, 8), 2**63, np.uint64), MASKS, LOSSES, np.zeros((6, 8), np.longdouble),
)  # fmt: skip
CELLS = ("", "nan", "inf", "-1", "1e999", "true", "x", "=1+1", "0x1", "1_0", "٣", "9" * 5000, "\0", '"1"', "1;2")


@pytest.fixture
def good_banks(tmp_path: Path) -> Path:
    """Write a bank in every format that can be imported."""
    folder = tmp_path / "good"
    folder.mkdir()
    np.save(folder / "masks.npy", MASKS)
    np.save(folder / "losses.npy", LOSSES)
    np.savez_compressed(folder / "both.npz", masks=MASKS, losses=LOSSES)
    np.savetxt(folder / "masks.csv", MASKS, delimiter=",", fmt="%d")
    np.savetxt(folder / "losses.csv", LOSSES, delimiter=",", fmt="%.6e")
    masks, losses = torch.from_numpy(MASKS), torch.from_numpy(LOSSES)
    save_tensors(folder / "both.safetensors", {"masks": masks, "losses": losses}, {})
    made = {"masks": masks, "loss": losses[:, None].contiguous()}
    save_bank(folder / "bank.safetensors", make_bank(made, make_record({}, source="arrays", measure="loss")))
    return folder


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
    hit = chance.choice(list(re.finditer(rb"\d+", content[:4000])))
    number = chance.choice(NUMBERS)
    if chance.random() < 0.5:  # the header's length stays right
        number = (number + b"9" * 40)[: len(hit[0])]
    path.write_bytes(content[: hit.start()] + number + content[hit.end() :])


def _retype(path: Path, chance: random.Random) -> None:
    """Write other values, types and shapes, in the same format."""
    values, name = chance.choice(STRANGE), chance.choice(["masks", "losses", "loss", "x", "a/../b", "é", "\0"])
    if path.suffix == ".npy":
        np.save(path, values, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez(path, **{name: values, chance.choice(["masks", "losses"]): MASKS})
    elif path.suffix == ".csv":
        rows = [[chance.choice(CELLS) for _ in range(chance.randint(0, 9))] for _ in range(chance.randint(0, 9))]
        path.write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    elif values.dtype.kind in "bif" and values.itemsize <= 8:
        save_tensors(path, {name: torch.from_numpy(values.copy()), "masks": torch.from_numpy(MASKS)}, {})
    else:
        path.write_bytes(values.tobytes())


def _rerecord(path: Path, chance: random.Random) -> None:
    """Put something else into the record of a file of ours; make any other file a bank in disguise."""
    if path.suffix != ".safetensors":
        path.write_bytes(chance.choice([b"\x80\x04N.", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY\x01\0\xff\xff", b"\0"]))
        return
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    record = json.loads(header["__metadata__"]["record"])
    keys = [*record, "settings", "source", "seed", "stream", "commits", "bank", "averaged", "measure"]
    odd = [None, -1, 1e400, "x", [], {}, [[]], {"content": 1}, {"scored": True, "tuning": 0}, "\ud800", 10**40]
    for _ in range(chance.randint(1, 3)):
        record[chance.choice(keys)] = chance.choice(odd)
    whole = json.dumps(record)
    header["__metadata__"]["record"] = chance.choice([whole] * 6 + ["[" * 5000, "", "null", '"x"', whole[:-5]])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _import(arguments: list[str], place: Path) -> None:
    """Import a bank and show it as from the command line; raise what the command says where it fails."""
    output = place / "imported.safetensors"
    for command in (["import", *arguments, "--output", str(output)], ["show", str(output)]):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(["bank", *command])
        if status:
            raise ValueError(said.getvalue())


@pytest.mark.parametrize("spoil", [_flip, _cut, _claim, _retype, _rerecord])
def test_damaged_banks_are_read_or_refused_with_their_name(tmp_path, good_banks, spoil):
    chance, found = random.Random(0), collections.Counter()
    for index in range(COUNT // 8):
        place = tmp_path / f"b{index}"
        place.mkdir()
        form = chance.choice(sorted(FORMS))
        names, options = FORMS[form]
        for name in names:
            shutil.copy(good_banks / name, place)
        spoil(place / chance.choice(names), chance)
        files = [str(place)] if form == "kronfluence" else [str(place / name) for name in names]
        found[_judge(lambda given=[*files, *options], place=place: _import(given, place), place.name)] += 1

    assert set(found) == {"good"}, found
