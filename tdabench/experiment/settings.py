"""Settings that declare what they may be: pydantic checks them, from a file and in Python alike. Imports no torch.

A range stands in the annotation: ``width: Annotated[int, Field(ge=1)]``. A class of somebody else's need only be a
dataclass: its annotations are what its settings in a file are checked against.
"""

import dataclasses
import functools
import json
import math
import typing
from collections.abc import Callable
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from tdabench.experiment.complaints import explain, hints_of

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(ge=0, lt=math.inf)]
Positive = Annotated[float, Field(gt=0, lt=math.inf)]
Share = Annotated[float, Field(ge=0, lt=1)]


def different(what: str, lowest: int | None = None) -> AfterValidator:
    """Declare a list as different values, at least one, none below the lowest; ``what`` names them in messages."""

    def check(values: tuple) -> tuple:
        if not values or len(set(values)) < len(values) or (lowest is not None and min(values) < lowest):
            raise PydanticCustomError("different", f"be different {what}")
        return values

    return AfterValidator(check)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(where: str) -> Callable[[type[T]], type[T]]:
    """Make a frozen, keyword-only dataclass that checks its fields against their annotations whenever it is built.

    What concerns several fields is for the class's own ``__post_init__``, which runs after that.

    Args:
        where: The place of the settings in an experiment file, for messages.
    """

    def decorate(cls: type[T]) -> type[T]:
        further = getattr(cls, "__post_init__", None)

        def __post_init__(self: Any) -> None:
            values = {name: getattr(self, name) for name in hints_of(type(self))}
            _check(type(self), where, values)
            if further is not None:
                further(self)

        cls.__post_init__ = __post_init__
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return decorate


def build(cls: type[T], settings: Any, *, where: str, **given: Any) -> T:
    """Build a dataclass of settings from a mapping that came from a file.

    A list serves as a tuple there, a whole number as a float, a mapping as a dataclass.

    Args:
        given: Values of further fields, which the mapping can't name.

    Raises:
        ValueError: If a key is unknown or missing, a value has the wrong type, or the class refuses it.
    """
    settings = require_mapping(settings, where or "The experiment")
    if not dataclasses.is_dataclass(cls):
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"{where}: {error}.") from error
    text = require_json(settings, where or "The experiment", finite=False)
    return cls(**given, **_check(cls, where, settings, text, frozenset(given)))


def require_mapping(content: Any, where: str) -> dict[str, Any]:
    """Return the content if it is a mapping.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping of keys to values, got {content!r}.")
    return content


def require_json(settings: Any, where: str, *, finite: bool = True) -> str:
    """Return settings as JSON.

    Raises:
        ValueError: If JSON has no such thing.
    """
    try:
        return json.dumps(settings, allow_nan=not finite)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} may hold finite numbers, texts, true, false, null, lists and mappings, as JSON can ({error})."
        ) from error


@functools.cache
def _shape(cls: type, given: frozenset[str]) -> TypeAdapter:
    """Return what checks the mapping of a class's settings."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in given}
    hints = {name: hint for name, hint in hints_of(cls).items() if name in fields}
    keys = {name: hint if _is_required(fields[name]) else NotRequired[hint] for name, hint in hints.items()}
    shape = TypedDict(cls.__name__, keys)
    shape.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    return TypeAdapter(shape)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check(
    cls: type, where: str, values: dict[str, Any], text: str | None = None, given: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Check values, or the JSON of them, and return what the class is built with."""
    try:
        shape = _shape(cls, given)
        return shape.validate_python(values) if text is None else shape.validate_json(text)
    except ValidationError as error:
        raise ValueError(explain(error, cls, where, values, given)) from error
