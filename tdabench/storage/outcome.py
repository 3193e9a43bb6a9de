"""How a job ended, as tables and records say it: one word, a reason, and warnings."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

WARNING = "warning: "


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        kind: ``ok``, or why there is no result: ``unsupported`` (the method says so), ``failed`` (an operator has no
            rule), ``diverged``, ``out of memory``, ``not run``, ...
        reason: What is told of it.
        warnings: What is told of a result that there is.

    Example:
        >>> str(Outcome("ok", warnings=("a chain diverged",)))
        'ok; warning: a chain diverged'
        >>> Outcome.parse("unsupported: no Linear layer").reason
        'no Linear layer'
    """

    kind: str = "ok"
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether there is a result, with warnings or without."""
        return self.kind == "ok"

    def __str__(self) -> str:
        first = f"{self.kind}: {self.reason}" if self.reason else self.kind
        return "; ".join([first, *(f"{WARNING}{warning}" for warning in self.warnings)])

    @classmethod
    def ok(cls, warnings: Iterable[str] = ()) -> "Outcome":
        """Return the outcome of a job with a result."""
        return cls("ok", warnings=tuple(warnings))

    @classmethod
    def parse(cls, status: str) -> "Outcome":
        """Read an outcome from the text in a table or record."""
        if status == "ok" or status.startswith("ok; "):
            return cls.ok(part for part in status.removeprefix("ok").split(f"; {WARNING}") if part)
        kind, _, reason = status.partition(": ")
        return cls(kind, reason)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Outcome":
        """Read the outcome from the record of a result."""
        return cls.parse(record["status"])
