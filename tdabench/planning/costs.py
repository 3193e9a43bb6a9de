"""Costs measured at small sizes, and what they say of other sizes. Imports no torch."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tdabench.storage.records import load_json

QUANTITIES = ("seconds", "host_bytes", "device_bytes", "disk_bytes")
# Of these the largest phase counts, each fitted for itself: `host_bytes:fit`. Beside batches they don't grow.
MEMORY = ("host_bytes", "device_bytes")
# Where what `measure` found lies in an experiment's folder.
COSTS_FILE = Path("measure") / "costs.json"
# What is measured: large enough for a batch and for what TRAK projects to, small enough for minutes.
TRAIN, QUERY, DRAWS = 256, 32, 3
MEASURED_EPOCHS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What the cost of a job grows with.

    Attributes:
        train: Training examples: those that are scored, or those that a training run sees, each time that it does.
        query: Queries.
        reference: Examples that define the loss landscape.
        draws: Draws of a sampler; 0 for a method without them, or whose draws were not varied.
    """

    train: int = 0
    query: int = 0
    reference: int = 0
    draws: int = 0

    def in_memory(self, batches: Mapping[str, int] | None) -> "Size":
        """Return what is in memory at once, by the most examples of each part; all of it where none is told."""
        if batches is None:
            return self
        most = {part: min(getattr(self, part), batches.get(part, math.inf)) for part in ("train", "query", "reference")}
        return Size(**most, draws=self.draws)  # a method may hold a vector a draw

    def features(self) -> dict[str, float]:
        """Return the terms of the linear model of a cost: every pass over data, every pair, and every draw's losses."""
        return {
            "one": 1.0,
            "train": self.train,
            "query": self.query,
            "reference": self.reference,
            "pair": self.train * self.query,
            "draw": self.draws,
            "draw_loss": self.draws * (self.train + self.query),
            "draw_pair": self.draws * self.train * self.query,
        }


@dataclasses.dataclass(frozen=True)
class Costs:
    """What jobs cost, by kind: ``train``, ``loss``, ``evaluate``, and ``attribute:M`` or ``sample:M`` of a method M.

    Attributes:
        start_seconds: What a job takes before its work begins: imports, and loading the data.
        device: The device that it was measured on.
        coefficients: By kind and quantity (``QUANTITIES``; memory also by phase, as ``host_bytes:fit``), that of each
            feature of a ``Size``; at least 0.
        problems: By kind, why it could not be measured.
        batches: By kind, the most examples of ``train``, ``query`` and ``reference`` that are in memory at once; none
            for a kind that has all of them there.
        example_bytes: What an example takes as tensors.
    """

    start_seconds: float
    device: str
    coefficients: Mapping[str, Mapping[str, Mapping[str, float]]]
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batches: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    example_bytes: int = 0

    def predict(self, kind: str, size: Size) -> dict[str, float] | None:
        """Return each quantity of a job; None if its kind was not measured.

        Memory is that of full batches where the kind's are known, without the examples and scores themselves.
        """
        if kind not in self.coefficients:
            return None
        all_of_it, at_once = size.features(), size.in_memory(self.batches.get(kind)).features()
        found = dict.fromkeys(QUANTITIES, 0.0)
        for name, coefficients in self.coefficients[kind].items():
            quantity = name.partition(":")[0]
            features = at_once if quantity in MEMORY else all_of_it
            value = sum(coefficient * features[feature] for feature, coefficient in coefficients.items())
            found[quantity] = max(found[quantity], value)
        return found


def load_costs(path: Path) -> Costs | None:
    """Read what ``measure`` found; None if there is no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return None
    content = load_json(path)
    return Costs(**{field.name: content[field.name] for field in dataclasses.fields(Costs) if field.name in content})


def sizes_to_measure(base: int, draws: Any) -> Iterator[Size]:
    """Return sizes that tell every term of a method's cost from the others.

    Args:
        base: The smaller number of training examples.
        draws: The method's setting; anything but a number where it has none. With less than 9 of them it is measured
            as it is.
    """
    few = DRAWS if type(draws) is int and draws >= 3 * DRAWS else 0
    grid = [(1, 1, 1, 1), (2, 1, 1, 1), (1, 4, 1, 1), (1, 1, 2, 1), (2, 4, 2, 1)]
    if few:
        grid += [(1, 1, 1, 3), (2, 1, 1, 3), (2, 4, 2, 3)]
    for train, query, reference, times in grid:
        yield Size(train=train * base, query=query * QUERY, reference=reference * base, draws=times * few)


def fit_costs(
    measured: Sequence[tuple[Size, Mapping[str, float]]], batches: Mapping[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Fit each quantity as a sum of the features that were varied, with coefficients of at least 0.

    Relative errors count, so that a small job is met as well as a large one. A feature that was not varied is in the
    constant.

    Args:
        measured: Sizes, and the quantities measured there; a phase may be missing at some of them.
        batches: The most examples of each part that are in memory at once, where that is known.
    """
    found = {}
    for name in dict.fromkeys(name for _, result in measured for name in result):
        there = [(size, float(result[name])) for size, result in measured if name in result]
        limits = batches if name.partition(":")[0] in MEMORY else None
        found[name] = _fit_one([size.in_memory(limits) for size, _ in there], [value for _, value in there])
    return found


def _fit_one(sizes: Sequence[Size], measured: Sequence[float]) -> dict[str, float]:
    import numpy as np
    from scipy.optimize import nnls

    table = [size.features() for size in sizes]
    varied = [name for name in table[0] if name == "one" or len({row[name] for row in table}) > 1]
    features = np.array([[row[name] for name in varied] for row in table])
    scale = features.max(axis=0)
    values = np.array(measured, dtype=float)
    weights = 1 / np.maximum(values, max(values.max() * 1e-3, 1e-12))
    coefficients, _ = nnls(features / scale * weights[:, None], values * weights)
    return dict(zip(varied, (coefficients / scale).tolist(), strict=True))
