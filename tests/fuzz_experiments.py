"""Experiment files that are damaged in every way that a person, a disk or somebody unkind could."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tdabench.experiment.yaml_file import read_yaml, write_yaml

GOOD_EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))

# As they would stand in a file.
VALUES = (
    "", "null", "~", "true", "no", "''", "' '", "-1", "0", "1", "2", "-0.0", "1e308", "1e-308", "1e400", "-1e400",
    ".inf", "-.inf", ".nan", "9" * 19, "9" * 400, "9" * 5000, "0x" + "f" * 4000, "0b" + "1" * 100, "0o7", "1:2:3",
    "1:" * 50 + "1", "1" * 309 + ".0", "[]", "{}", "[[]]", "[1, [2, [3]]]", "{a: {b: {c: 1}}}", "[1, 1]", "? [a]",
    "{[1]: 2}", "2020-01-01", "2020-13-45", "0001-01-01 00:00:00 +23:59", "!!python/object:os.system {}",
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary '!'", "!!binary aGk=",
    "!!int ''", "!!int a", "!!float ''", "!!bool maybe", "!!null x", "!!timestamp x", "!!set {a, b}",
    "!!omap [a: 1]", "!!pairs [a: 1, a: 2]", "!!str [a]", "!!seq a", "!!map a", "!unknown x", "! x", "=", "<<", "*no",
    "&a [*a]", "&a {b: *a}", "../../etc/passwd", "/etc/passwd", "a/b", "'; touch x; '", "$(touch x)", "'`touch x`'",
    "\"\\0\"", "\"\\ud800\"", "\"\\e[2J\"", "\"\\n\"", "é", "𝟙", "a" * 5000, "tdabench.data.digits:Digits",
    "tdabench.attributors.bif:BIF", "sys:exit", "os.path:join", "__main__:X", "json.tool.x:Y", "..a:B", "auto", "all",
    "- a", "#", "|", ">", "%", "@", "`", "{", "[", "]", "}", ":", "a: b: c", "\t",
)  # fmt: skip
LINES = (
    "seed: 1", "bank: null", "removal: {counts: [1], queries: 2}", "variance: {}", "variance: null", "sweep: null",
    "sweep: {method: bif, grid: {step_size: [1, 2]}}", "sweep: {method: bif, grid: {a: [9e999, .nan, x, null]}}",
    "sweep: {method: bif, grid: {é: [1]}}", "name: x", "evaluation: {top: 1}", "---", "...", "--- {}", "%YAML 9.9",
    "%TAG ! tag:x,2000:", "<<: {seed: 2}", "? seed\n: 3", "1: 2", "null: null", "true: x", "[a]: b",
)  # fmt: skip


def spoil_experiment(good: Sequence[str], chance: random.Random) -> tuple[str, bytes]:
    """Return the kind of damage, and a damaged file."""
    kind = chance.choice(sorted(KINDS))
    text = chance.choice(good)
    return kind, KINDS[kind](text, chance)


def _bytes(text: str, chance: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    start = chance.randrange(len(content))
    return bytes(content[:start] if chance.random() < 0.1 else content)


def _lines(text: str, chance: random.Random) -> bytes:
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        place, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        change = chance.randrange(5)
        if change == 0 and len(lines) > 1:
            del lines[place]
        elif change == 1:
            lines.insert(other, lines[place])
        elif change == 2:
            lines[place], lines[other] = lines[other], lines[place]
        elif change == 3:
            lines.insert(place, chance.choice(LINES))
        else:
            lines[place] = " " * chance.randint(0, 4) + lines[place].lstrip()
    return "\n".join(lines).encode()


def _scalars(text: str, chance: random.Random) -> bytes:
    """Put an odd value behind a colon or a comma, as text: it need not be YAML."""
    for _ in range(chance.randint(1, 2)):
        places = [index for index, sign in enumerate(text) if sign in ":," and text[index + 1 : index + 2] in " \n"]
        start = chance.choice(places or [0]) + 1
        end = min((text.find(sign, start) for sign in ",}\n" if sign in text[start:]), default=len(text))
        text = f"{text[:start]} {chance.choice(VALUES)}{text[end:]}"
    return text.encode()


def _values(text: str, chance: random.Random) -> bytes:
    """Put an odd value, or one from elsewhere, into the parsed file."""
    content = read_yaml(text)
    places = list(_places(content))
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(places)
        other, wanted = chance.choice(places)
        odd = [None, -1, 10**30, float("nan"), float("inf"), "", [], {}, True, "x" * 3000, ["a"] * 50, other[wanted]]
        holder[key] = chance.choice(odd)
    try:
        return write_yaml(content).encode()
    except RecursionError:
        return b"a: &a [*a]"


def _places(content: Any) -> list[tuple[Any, Any]]:
    places = []
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        places.append((content, key))
        if isinstance(value, dict | list):
            places += _places(value)
    return places


def _nested(text: str, chance: random.Random) -> bytes:
    depth = chance.choice([5, 30, 100, 300, 1000, 20_000])
    opening, closing = chance.choice([("[", "]"), ("{a: ", "}"), ("[", ""), ("- ", ""), ("? ", "")])
    return _with_method(text, opening * depth + closing * depth)


def _names(text: str, chance: random.Random) -> bytes:
    """Rename a method, or a setting."""
    content = read_yaml(text)
    section = chance.choice([content, content["methods"], content["model"], content["data"]])
    key = chance.choice(list(section))
    odd = ["../x", "a/b", "a\0b", "a\nb", ".a", "-a", "a;b", "$(a)", "a b", "'a'", "é", "x" * 300, "", 1, None, True]
    section[chance.choice(odd)] = section.pop(key)
    return write_yaml(content).encode()


def _long(text: str, chance: random.Random) -> bytes:
    count = chance.choice([100, 1000])
    return chance.choice(
        [
            _with_method(text, "{" + ", ".join(f"k{index}: {index}" for index in range(count)) + "}"),
            _with_method(text, "[" + "1, " * count + "]"),
            _with_method(text, "a" * 3 * count),
            f"{text}\n#{'x' * 3 * count}".encode(),
            (text + "\n" * count).encode(),
            f"{text}\nsweep: {{method: bif, grid: {{{_grid(count // 10)}}}}}".encode(),
        ]
    )


def _grid(count: int) -> str:
    return ", ".join(f"a{index}: [1, 2, 3, 4]" for index in range(count))


def _with_method(text: str, value: str) -> bytes:
    """Return one more method whose setting has this value."""
    return text.replace("methods:\n", f"methods:\n  odd: {{attributor: 'a:B', x: {value}}}\n", 1).encode()


KINDS: dict[str, Callable[[str, random.Random], bytes]] = {
    "bytes": _bytes,
    "lines": _lines,
    "scalars": _scalars,
    "values": _values,
    "nesting": _nested,
    "names": _names,
    "length": _long,
}
