"""What is wrong with settings: pydantic's errors, as place in the file, value and remedy. Imports no torch."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationError

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
# What a value must be, where pydantic's own words are not ours.
_TYPES = {
    "int_type": "of type int",
    "float_type": "of type float",
    "string_type": "of type str",
    "bool_type": "of type bool",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
}
Path = tuple[str | int, ...]  # keys, and places in lists


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return what each setting of a class may be."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def explain(error: ValidationError, cls: type, where: str, values: Any, given: frozenset[str]) -> str:
    """Say all that is wrong with settings: their keys first, then their values."""
    unknown: dict[Path, list[str]] = {}
    wrong: dict[Path, list[str]] = {}
    missing, sentences, said = [], [], []
    for one in error.errors(include_url=False):
        path = _path(one, values)
        if one["type"] in _UNKNOWN:
            unknown.setdefault(path[:-1], []).append(_name(where, path))
        elif one["type"] == "missing" and isinstance(path[-1], str):
            missing.append(path)
        elif one["type"] == "value_error":  # a class's own check
            sentences.append(str(one["ctx"]["error"]))
        else:
            path = path[:-1] if one["type"] == "missing" else path
            wrong.setdefault(path, []).append(_need(one, _hint(cls, path)))
    for parent, names in unknown.items():
        known = ", ".join(key for key in _keys(_hint(cls, parent)) if parent or key not in given)
        said.append(f"Unknown key{_list(names)}; the known ones are: {known or 'none'}.")
    if missing:
        names = [_name(where, path) for path in missing]
        said.append(f"The key{_list(names)} {'is' if len(names) == 1 else 'are'} missing.")
    parents = [*unknown, *(path[:-1] for path in (*missing, *wrong))]
    for path, needs in wrong.items():
        if not any(parent[: len(path)] == path for parent in parents):  # else another member of a union is meant
            value = functools.reduce(lambda inner, key: inner[key], path, values)
            null = " or null" if type(None) in _members(_hint(cls, path)) else ""
            must = " or ".join(dict.fromkeys(needs)).replace(" or be ", " or ")
            said.append(f"{_name(where, path)} must {must}{null}, got {value!r}.")
    return " ".join([*said, *sentences])


def _path(error: Mapping[str, Any], values: Any) -> Path:
    """Return where in the settings an error is: pydantic's place without the names that it gives a union's members."""
    path: list[str | int] = []
    for key in error["loc"]:
        places = range(len(values)) if isinstance(values, list | tuple) else values if isinstance(values, dict) else ()
        if key in places:
            path.append(key)
            values = values[key]
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _name(where: str, path: Path) -> str:
    return ".".join([*([where] if where else []), *(key for key in path if isinstance(key, str))])


def _list(names: list[str]) -> str:
    """Return names as what follows a noun: `` one``, or ``s one, other``."""
    return ("s " if len(names) > 1 else " ") + ", ".join(names)


def _need(error: Mapping[str, Any], hint: Any) -> str:
    """Return what follows "must" for a value that an error is about."""
    kind = error["type"]
    if kind == "tuple_type" and isinstance(error["input"], list):
        return "be a tuple"  # in Python; a file has lists
    if kind in _TYPES:
        return f"be {_TYPES[kind]}"
    if kind in _OUTSIDE and (bounds := _bounds(hint)):
        return _say_range(bounds)
    if kind == "missing":
        return f"have {len(typing.get_args(_bare(hint)))} entries"
    if kind == "too_long":
        return f"have at most {error['ctx']['max_length']} entries"
    if kind == "too_short":
        return f"have at least {error['ctx']['min_length']}"
    if kind in ("literal_error", "enum"):
        return f"be {error['ctx']['expected']}"
    message = error["msg"]
    return message.removeprefix("Input should ") if message.startswith(("Input", "be")) else f"be valid ({message})"


def _say_range(bounds: Mapping[str, Any]) -> str:
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if low is None:
        return f"be at most {high}" if "le" in bounds else f"be below {high}"
    least = f"be at least {low}" if "ge" in bounds else f"be above {low}" if low else "be positive"
    if high is None or high == math.inf:
        return least if high is None else f"{least} and finite"
    return f"lie in {'[' if 'ge' in bounds else '('}{low}, {high}{']' if 'le' in bounds else ')'}"


def _bounds(hint: Any) -> dict[str, Any]:
    """Return the range that an annotation declares."""
    declared = [meta for member in _members(hint) for meta in getattr(member, "__metadata__", ())]
    parts = [part for meta in declared for part in (meta, *getattr(meta, "metadata", ()))]
    names = ("gt", "ge", "lt", "le")
    return {name: getattr(part, name) for part in parts for name in names if getattr(part, name, None) is not None}


def _hint(cls: type, path: Path) -> Any:
    """Return the annotation of a place in a class's settings, ``Any`` where there is none."""
    hint: Any = cls
    for key in path:
        below = (_below(_bare(member), key) for member in _members(hint))
        hint = next((found for found in below if found is not Any), Any)
    return hint


def _below(hint: Any, key: str | int) -> Any:
    if dataclasses.is_dataclass(hint):
        return hints_of(hint).get(key, Any)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and arguments[-1] is not ... and isinstance(key, int):
        return arguments[min(key, len(arguments) - 1)]
    return arguments[origin is dict] if arguments and origin in (dict, list, tuple) else Any


def _keys(hint: Any) -> list[str]:
    """Return the names of the settings of a class, or of the classes of a union."""
    members = map(_bare, _members(hint))
    return [key for member in members if dataclasses.is_dataclass(member) for key in hints_of(member)]


def _members(hint: Any) -> list[Any]:
    """Return the members of a union; anything else is its own."""
    if typing.get_origin(_bare(hint)) in (types.UnionType, typing.Union):
        return [hint, *(member for one in typing.get_args(_bare(hint)) for member in _members(one))]
    return [hint]


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
