"""What a job asks of a scheduler: minutes and memory, from measured costs with a margin. Imports no torch."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.planning.costs import COSTS_FILE, Costs, load_costs
from tdabench.planning.jobs import cost_of

# Without a measurement, and where it was too little, a retry asks for twice as much.
DEFAULT_MINUTES, DEFAULT_MB = 60, 4000
LEAST_MINUTES, LEAST_MB = 5, 1000
Need = Callable[[Any, int], int]
TIME_MARGIN, MEMORY_MARGIN = 2.0, 1.5


def minutes(cost: dict[str, float] | None, start_seconds: float, attempt: int) -> int:
    """Return the minutes to ask for: twice the measured time, and twice as many at each further attempt."""
    asked = DEFAULT_MINUTES
    if cost is not None:
        asked = max(math.ceil(TIME_MARGIN * (start_seconds + cost["seconds"]) / 60), LEAST_MINUTES)
    return asked * 2 ** (attempt - 1)


def megabytes(cost: dict[str, float] | None, attempt: int) -> int:
    """Return the memory to ask for: half again as much as measured, and twice as much at each further attempt."""
    asked = DEFAULT_MB
    if cost is not None:
        asked = max(math.ceil(MEMORY_MARGIN * cost["host_bytes"] / 1e6), LEAST_MB)
    return asked * 2 ** (attempt - 1)


def needs_of(rule: str) -> dict[str, Need]:
    """Make the resource functions of a rule: ``runtime`` in minutes, and ``mem_mb``."""

    def cost_at(wildcards: Any) -> tuple[dict[str, float] | None, float]:
        experiment = _load(f"experiments/{wildcards.experiment}.yaml")
        costs = measured_costs(experiment.name)
        if costs is None:
            return None, 0.0
        if "train_size" not in wildcards.keys():  # noqa: SIM118 (Snakemake's wildcards)
            return None, costs.start_seconds
        method = getattr(wildcards, "method", None)
        return cost_of(rule, experiment, costs, int(wildcards.train_size), method), costs.start_seconds

    return {
        "mem_mb": lambda wildcards, attempt: megabytes(cost_at(wildcards)[0], attempt),
        "runtime": lambda wildcards, attempt: minutes(*cost_at(wildcards), attempt),
    }


def scaling_needs_of() -> dict[str, Need]:
    """Make the resource functions of the rule that runs methods under limits: these are what it may take."""

    def memory(wildcards: Any, attempt: int) -> int:
        limit = _load(f"experiments/{wildcards.experiment}.yaml").scaling.memory_gib
        limit = DEFAULT_MB if limit is None else math.ceil(limit * 2**30 / 1e6)
        return (limit + LEAST_MB) * 2 ** (attempt - 1)

    def runtime(wildcards: Any, attempt: int) -> int:
        experiment = _load(f"experiments/{wildcards.experiment}.yaml")
        runs = len(experiment.scaling.runs_at(wildcards.size, experiment.data.queries))
        return math.ceil(runs * experiment.scaling.minutes + LEAST_MINUTES) * 2 ** (attempt - 1)

    return {"mem_mb": memory, "runtime": runtime}


def gpus_of(wildcards: Any) -> int:
    """Return how many GPUs a method's job asks for: one for each of the processes that share its work."""
    settings = _load(f"experiments/{wildcards.experiment}.yaml").methods[wildcards.method].settings
    processes = settings.get("processes", 1)
    return processes if type(processes) is int else 1


def measured_costs(name: str) -> Costs | None:
    """Return what was measured of an experiment; None if nothing was."""
    path = Path("results") / name / COSTS_FILE
    return _load_costs(path, path.stat().st_mtime_ns) if path.is_file() else None


@functools.cache
def _load(path: str) -> Experiment:
    return load_experiment(path)


@functools.lru_cache(maxsize=64)
def _load_costs(path: Path, _changed: int) -> Costs | None:
    return load_costs(path)
