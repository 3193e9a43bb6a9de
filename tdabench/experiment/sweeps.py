"""A sweep: one method at every point of a grid of its settings. Imports no torch."""

import dataclasses
import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any

from tdabench.experiment.components import Component

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment

# Points name files, and the workflow's shell commands name points.
_VALUE = re.compile(r"[A-Za-z0-9_.+-]+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MOST_POINTS = 10_000
LONGEST_NAME = 200  # bytes; file systems allow 255, with what is added


@dataclasses.dataclass(frozen=True, kw_only=True)
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


def check_sweep(sweep: SweepSettings, experiment: "Experiment") -> None:
    """Check a sweep against the experiment that it belongs to.

    Raises:
        ValueError: If there is no such method, no bank, or fewer than 2 tuning queries.
    """
    if sweep.method not in experiment.methods:
        raise ValueError(
            f"There is no method {sweep.method} for sweep.method; there are {', '.join(experiment.methods)}."
        )
    if experiment.bank is None:
        raise ValueError("A sweep is judged by the LDS, and there is none without bank: give it one.")
    if experiment.data.tuning_queries < 2:  # an interval over a single query says nothing
        raise ValueError(
            "A sweep is judged on the tuning queries, never on the scored ones: data.tuning_queries must be at least "
            f"2, got {experiment.data.tuning_queries}."
        )


def component_at(experiment: "Experiment", point: str) -> Component:
    """Return the swept method with the settings of a point.

    Raises:
        ValueError: If the experiment has no sweep, or no such point.
    """
    if experiment.sweep is None:
        raise ValueError(f"{experiment.name} sweeps no settings: give it the key sweep.")
    points = experiment.sweep.points
    if point not in points:
        raise ValueError(f"The sweep of {experiment.name} has no point {point!r}; the first is {next(iter(points))!r}.")
    method = experiment.methods[experiment.sweep.method]
    return Component(path=method.path, settings={**method.settings, **points[point]})


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
