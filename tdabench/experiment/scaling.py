"""Scaling: one model in several sizes, of which each method's cost is measured. Imports no torch."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING

from tdabench.experiment.components import Component
from tdabench.experiment.sections import require_at_least

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment

# Sizes are parts of paths, and of the workflow's shell commands.
_SIZE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    repeats: int = 1
    minutes: float = 60.0
    memory_gib: float | None = None
    queries: tuple[int, ...] = ()
    queries_at: tuple[str | int, ...] | None = None
    predict: tuple[str | int, ...] = ()
    draws: int | None = None

    def __post_init__(self) -> None:
        require_at_least("scaling", self, repeats=1, **({} if self.draws is None else {"draws": 2}))
        if not self.sizes:
            raise ValueError("scaling.sizes must name at least one size.")
        sizes = [*self.sizes, *self.predict]
        if len({str(size) for size in sizes}) < len(sizes):
            raise ValueError(f"scaling.sizes and scaling.predict must be different sizes, got {sizes}.")
        for size in sizes:
            if not _SIZE.fullmatch(str(size)):
                raise ValueError(f"A size in scaling has only letters, digits, _ and ., got {size!r}.")
        if self.queries and (min(self.queries) < 1 or len(set(self.queries)) < len(self.queries)):
            raise ValueError(f"scaling.queries must be different numbers of at least 1, got {list(self.queries)}.")
        unknown = [size for size in self.queries_at or () if size not in self.sizes]
        if unknown:
            raise ValueError(f"scaling.queries_at names {unknown[0]!r}, which is not in scaling.sizes.")
        for name in ("minutes", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"scaling.{name} must be positive and finite, got {value}.")

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


def model_at(experiment: "Experiment", size: str) -> Component:
    """Return the model at a size, whether it is run or predicted.

    Raises:
        ValueError: If the experiment has no such size.
    """
    scaling = experiment.scaling
    sizes = {str(one): one for one in (*scaling.sizes, *scaling.predict)} if scaling else {}
    if size not in sizes:
        raise ValueError(f"{experiment.name} has no size {size!r}; there are {', '.join(sizes) or 'none'}.")
    settings = {**experiment.model.settings, scaling.setting: sizes[size]}
    return Component(path=experiment.model.path, settings=settings)


def models_of(experiment: "Experiment") -> dict[str, Component]:
    """Return every model of an experiment, by its place in the file."""
    if experiment.scaling is None:
        return {"model": experiment.model}
    names = (*experiment.scaling.names, *map(str, experiment.scaling.predict))
    own = {"model": experiment.model} if experiment.is_scored else {}
    return {**own, **{f"model at the size {name}": model_at(experiment, name) for name in names}}


def check_scaling(scaling: ScalingSettings, experiment: "Experiment") -> None:
    """Check the section against the rest of the experiment.

    Raises:
        ValueError: If they don't fit together.
    """
    if len(experiment.data.train_sizes) > 1:
        sizes = list(experiment.data.train_sizes)
        raise ValueError(f"scaling is about a single attribution set: data.train_sizes must be one size, got {sizes}.")
    if experiment.pretraining not in (None, "published") and not experiment.is_scored:
        raise ValueError("scaling trains no model: leave pretraining out, or say pretraining: published.")
    auto = [method for method in experiment.methods if experiment.has_calibration(method)]
    if auto:
        raise ValueError(f"scaling needs every setting of a method: methods.{auto[0]} has one that says auto.")
