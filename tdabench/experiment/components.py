"""Import paths and settings: from a mapping to a checked object. Imports no torch."""

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any

from tdabench.experiment.yaml_file import read_yaml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A class by its import path (``package.module:Class``), and the settings to build it with."""

    path: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, name = str(self.path).partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), name]):
            raise ValueError(f"An import path has the form package.module:Class, got {self.path!r}.")


def import_class(path: str) -> type:
    """Import the class of an import path.

    Raises:
        ImportError: If the module or the class in it is missing.
    """
    module, _, name = Component(path=path).path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Can't import {path!r}: {error}. Install it, or put its file into the folder that you run from."
        ) from error
    if not isinstance(found, type):
        raise ImportError(f"The module {module} has no class {name}.")
    return found


def instantiate(component: Component, where: str) -> Any:
    """Import a component's class and build it with its settings, checked by name and type.

    Args:
        where: The component's place in the experiment file, for messages.

    Raises:
        ImportError: If the class can't be imported.
        ValueError: If a setting is unknown, missing, wrongly typed or out of range.
    """
    return build(import_class(component.path), component.settings, where=where)


def build(cls: type, settings: Any, *, where: str) -> Any:
    """Build a dataclass of settings from a mapping.

    Raises:
        ValueError: If a key is unknown or missing, a value has the wrong type, or the class refuses it.
    """
    settings = require_mapping(settings, where)
    prefix = f"{where}." if where else ""
    if not dataclasses.is_dataclass(cls):
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"{where}: {error}.") from error
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [f"{prefix}{key}" for key in settings if key not in fields]
    if unknown:
        known = ", ".join(key for key in fields if key != "name") or "none"
        raise ValueError(f"Unknown key{_list(unknown)}; the known ones are: {known}.")
    missing = [f"{prefix}{key}" for key, field in fields.items() if _is_required(field) and key not in settings]
    if missing:
        raise ValueError(f"The key{_list(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(value, hints[key], f"{prefix}{key}") for key, value in settings.items()})


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _list(names: list[str]) -> str:
    """Return names as what follows a noun: `` one``, or ``s one, other``."""
    return ("s " if len(names) > 1 else " ") + ", ".join(names)


def describe(component: Component) -> dict[str, Any]:
    """Describe a component by path, settings and, for a plug-in, the hash of its file."""
    module = component.path.partition(":")[0]
    described: dict[str, Any] = {"path": component.path, "settings": component.settings}
    if module.split(".")[0] != __name__.split(".")[0]:
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        origin = Path(spec.origin) if spec and spec.origin else None
        described["source"] = hashlib.sha256(origin.read_bytes()).hexdigest() if origin and origin.is_file() else None
    return described


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check a value from YAML against a type hint; lists become tuples, whole numbers serve as floats."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            try:
                return _convert(value, option, where)
            except ValueError:
                continue
        raise ValueError(f"{where} must be of type {hint}, got {value!r}.")
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint) or isinstance(value, bool):
            raise ValueError(f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, got {value!r}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}.")
        options = typing.get_args(hint)
        options = options[:1] * len(value) if options[1:] == (...,) else options
        if len(options) != len(value):
            raise ValueError(f"{where} must have {len(options)} entries, got {value!r}.")
        return tuple(_convert(entry, option, where) for entry, option in zip(value, options, strict=True))
    expected = typing.get_origin(hint) or hint
    wrong = isinstance(expected, type) and not isinstance(value, expected)
    if wrong or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be of type {expected.__name__}, got {value!r}.")
    return value


def require_mapping(content: Any, where: str) -> dict[str, Any]:
    """Return the content back if it is a mapping.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping of keys to values, got {content!r}.")
    return content


def parse_component(content: Any, key: str, where: str) -> Component:
    """Read a component from a mapping: its import path is under a key, all others are its settings.

    Raises:
        ValueError: If there is no such key, or a setting is nothing that JSON has.
    """
    settings = dict(require_mapping(content, where))
    if key not in settings:
        raise ValueError(f"{where} needs the key {key}: an import path such as package.module:Class.")
    require_json(settings, where)
    return Component(path=settings.pop(key), settings=settings)


def require_json(settings: Any, where: str) -> None:
    """Check that settings can be kept in a record.

    Raises:
        ValueError: If JSON has no such thing.
    """
    try:
        json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} may hold finite numbers, texts, true, false, null, lists and mappings, as JSON can ({error})."
        ) from error


def parse_settings(assignments: list[str]) -> dict[str, Any]:
    """Read ``key=value`` texts, values as in YAML.

    Raises:
        ValueError: If one has no equals sign, or its value is not valid YAML.
    """
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"A setting has the form key=value, got {assignment!r}.")
        try:
            settings[key] = read_yaml(value)
        except ValueError as error:
            raise ValueError(f"{assignment!r} is not valid YAML: {error}") from error
    return settings
