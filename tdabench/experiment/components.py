"""Import paths and settings: from a mapping to a checked object. Imports no torch."""

import dataclasses
import importlib
from typing import Any, Literal

from tdabench.experiment.plug_ins import hash_plug_in
from tdabench.experiment.settings import Count, build, require_json, require_mapping
from tdabench.experiment.yaml_file import read_yaml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A class by its import path (``package.module:Class``), and the settings to build it with."""

    path: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_import_path(self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodComponent:
    """A method's class and settings, and what is done with its scores, whichever method it is.

    Attributes:
        normalize: ``self`` divides each training example's scores by the root of its self-influence, the method's score
            of the example for itself (Barshan et al., 2020, arXiv:2003.11630).
        average: The scores are the mean over so many checkpoints, each normalised before.
    """

    path: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    normalize: Literal["none", "self"] = "none"
    average: Count = 1

    def __post_init__(self) -> None:
        _require_import_path(self.path)

    @property
    def likeness(self) -> dict[str, Any]:
        """What is done with the scores, where it is not the default: results from before there was it stay valid."""
        return {key: value for key, default in LIKENESS.items() if (value := getattr(self, key)) != default}


# Keys of a method's line that are no settings of its class, and their defaults.
LIKENESS = {"normalize": "none", "average": 1}


def _require_import_path(path: str) -> None:
    module, _, name = str(path).partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError(f"An import path has the form package.module:Class, got {path!r}.")


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


def instantiate(component: Component | MethodComponent, where: str) -> Any:
    """Import a component's class and build it with its settings, checked by name and type.

    Args:
        where: The component's place in the experiment file, for messages.

    Raises:
        ImportError: If the class can't be imported.
        ValueError: If a setting is unknown, missing, wrongly typed or out of range; or if a method has one of its own
            under a name that means the same for every method.
    """
    cls = import_class(component.path)
    fields = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    taken = [name for name in fields if name in LIKENESS] if isinstance(component, MethodComponent) else []
    if taken:
        raise ValueError(
            f"{where}: {component.path} has a setting {taken[0]}, a key that means the same for every method: give the "
            "setting another name."
        )
    return build(cls, component.settings, where=where)


def describe(component: Component | MethodComponent) -> dict[str, Any]:
    """Describe a component by path, settings and, for a plug-in, the hash of its files."""
    module = component.path.partition(":")[0]
    described: dict[str, Any] = {"path": component.path, "settings": component.settings}
    if module.split(".")[0] != __name__.split(".")[0]:
        described["source"] = hash_plug_in(module)
    return described


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


def parse_method(content: Any, where: str) -> dict[str, Any]:
    """Read a method's line: what ``MethodComponent`` is built with, not yet checked.

    Raises:
        ValueError: As ``parse_component``.
    """
    line = require_mapping(content, where)
    require_json(line, where)
    own = {key: value for key, value in line.items() if key not in LIKENESS}
    likeness = {key: line[key] for key in LIKENESS if key in line}
    return {**dataclasses.asdict(parse_component(own, "attributor", where)), **likeness}


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
