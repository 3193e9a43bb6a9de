"""Sections that run one thing at many settings: a sweep's points, a model's sizes. Imports no torch."""

import itertools
import json
import math
import re
from typing import Annotated, Any

from pydantic import Field

from tdabench.experiment.settings import Count, Positive, settings

# Sizes and points are parts of paths, and of the workflow's shell commands.
_SIZE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
_VALUE = re.compile(r"[A-Za-z0-9_.+-]+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MOST_POINTS = 10_000
LONGEST_NAME = 200  # bytes; file systems allow 255, with what is added


@settings("sweep")
class SweepSettings:
    """One method at every point of a grid of its settings, judged on the tuning queries alone.

    Attributes:
        method: Key of the method; the grid's settings take the place of its own.
        grid: Values by setting: numbers, texts, true, false or null. In the figures the last setting goes across, the
            one before it upwards, and each combination of the others has a panel.
    """

    method: str
    grid: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.grid:
            raise ValueError("sweep.grid must name at least one setting with its values.")
        for key, values in self.grid.items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise ValueError(f"sweep.grid needs names of settings, got {key!r}.")
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"sweep.grid.{key} must be a list of different values, got {values!r}.")
            names = [_name_value(key, value) for value in values]
            if len(set(names)) < len(names):
                raise ValueError(f"sweep.grid.{key} must be a list of different values, got {list(values)}.")
        count = math.prod(len(values) for values in self.grid.values())
        if count > MOST_POINTS:
            raise ValueError(f"sweep.grid has {count:,} points, each a job; {MOST_POINTS:,} are the most.")
        if len(longest := max(self.points, key=len)) > LONGEST_NAME:
            raise ValueError(f"A point names a file of at most {LONGEST_NAME} characters, got {longest!r}.")

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """Settings of each point by its name, the grid's last setting changing fastest.

        A name, such as ``localization=1000,step_size=0.0001``, has the settings in alphabetical order: neither further
        values nor another order of the grid change it, so that finished points stay valid.
        """
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return {",".join(f"{key}={_name_value(key, point[key])}" for key in sorted(point)): point for point in points}


@settings("scaling")
class ScalingSettings:
    """Cost against model size (the paper's Fig. 5). Every run of a method is a process of its own, with limits.

    Weights are random, or with ``pretraining: published`` the builder's: cost does not depend on them.

    Attributes:
        sizes: Of the model.
        setting: The setting of the model's builder that a size is a value of.
        repeats: Runs of each method at each size.
        minutes: Most time of a run.
        memory_gib: Most resident memory of a run in GiB; ``null`` for no limit.
        queries: Further numbers of queries, besides data.queries, to find from how many on a method that is fitted
            first is cheaper. More than there are, are the same ones again: cost does not depend on what they say.
        queries_at: The sizes at which those are run; ``null`` means all.
        predict: Sizes that are not run; their cost is predicted.
        draws: Draws, of all chains together, that the cost of a method that samples is predicted for too; ``null``: for
            its own alone.
    """

    sizes: tuple[str | int, ...]
    setting: str = "size"
    repeats: Count = 1
    minutes: Positive = 60.0
    memory_gib: Positive | None = None
    queries: tuple[Count, ...] = ()
    queries_at: tuple[str | int, ...] | None = None
    predict: tuple[str | int, ...] = ()
    draws: Annotated[int, Field(ge=2)] | None = None

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("scaling.sizes must name at least one size.")
        sizes = [*self.sizes, *self.predict]
        if len({str(size) for size in sizes}) < len(sizes):
            raise ValueError(f"scaling.sizes and scaling.predict must be different sizes, got {sizes}.")
        for size in sizes:
            if not _SIZE.fullmatch(str(size)):
                raise ValueError(f"A size in scaling has only letters, digits, _ and ., got {size!r}.")
        if len(set(self.queries)) < len(self.queries):
            raise ValueError(f"scaling.queries must be different numbers, got {list(self.queries)}.")
        unknown = [size for size in self.queries_at or () if size not in self.sizes]
        if unknown:
            raise ValueError(f"scaling.queries_at names {unknown[0]!r}, which is not in scaling.sizes.")

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes that are run, as they stand in paths and tables."""
        return tuple(map(str, self.sizes))

    def runs_at(self, size: str, queries: int) -> tuple[tuple[int, int], ...]:
        """Return the runs of a method at a size, in their order: number of queries, repeat.

        Args:
            queries: The experiment's.
        """
        at = self.sizes if self.queries_at is None else self.queries_at
        further = sorted(set(self.queries) - {queries}) if size in map(str, at) else []
        return tuple((count, repeat) for count in (queries, *further) for repeat in range(self.repeats))


def _name_value(key: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, str) and _VALUE.fullmatch(value):
        return value
    raise ValueError(
        f"sweep.grid.{key} may hold numbers, true, false, null and texts of letters, digits and _.+-, got {value!r}."
    )
