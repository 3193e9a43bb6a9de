"""The commands that plan before the compute is spent: a bank's precision, a run's cost."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tdabench.experiment.read import Experiment
from tdabench.runtime.machine import Machine
from tdabench.storage.cell import root_of
from tdabench.storage.records import load_json


def plan(
    experiment: Experiment,
    machine: Machine,
    cores: int | None = None,
    again: bool = False,
    data: Path = Path("data"),
) -> None:
    """Say what a run will take: jobs, seconds, memory, disk, from costs measured on this machine.

    Args:
        cores: of the machine that it will run on (default: this one's).
        again: measure again, though there is a measurement.
        data: folder of the data, where there is no dataset yet (default: $TDABENCH_DATA, else data/).
    """
    from tdabench.planning.costs import COSTS_FILE, load_costs
    from tdabench.planning.jobs import count_others, list_jobs
    from tdabench.planning.text import describe_plan
    from tdabench.stages.measure import measure

    output = root_of(experiment) / COSTS_FILE
    if again or not output.is_file():
        sys.stderr.write(f"Measuring on few examples, once; kept in {output}.\n")
        measure(experiment, machine, data)
    costs = load_costs(output)
    jobs = list(list_jobs(experiment, costs))
    cores = cores or os.cpu_count() or 1
    sys.stdout.write(describe_plan(experiment.name, jobs, count_others(experiment), costs.start_seconds, cores))
    sys.stdout.write(f"\nFrom costs measured on {costs.device}: {output}\n")
    for kind, problem in costs.problems.items():
        sys.stdout.write(f"{kind} could not be measured: {problem}\n")


def power(
    half_width: float,
    pilot: Path | None = None,
    method: str | None = None,
    against: str | None = None,
    agreement: float | None = None,
    lds: float | None = None,
    queries: int | None = None,
    shared: float = 0.3,
    query_spread: float = 0.1,
    confidence: float = 0.95,
    subsets: Sequence[int] = (25, 50, 100, 200, 400, 800),
    retrains: Sequence[int] = (1, 2, 4, 8),
) -> None:
    """Say how many subsets and retrains a wished half-width needs, from a pilot or from planning values.

    Args:
        half_width: of the interval of an LDS or a difference.
        pilot: a judgement.json; without one, give the planning values.
        method: of the pilot (default: its best).
        against: plan for the difference to this method (without a pilot: to any).
        agreement: expected rank correlation of two retrains.
        lds: expected LDS against the mean of very many retrains.
        queries: scored queries (default: the pilot's).
        shared: share of variance that queries have in common (0.3).
        query_spread: standard deviation of LDS over queries (0.1).
        confidence: of the interval (0.95).
        subsets: numbers of subsets to look at.
        retrains: numbers of retrains a subset to look at.
    """
    from tdabench.questions.lds.power import plan as plan_bank

    torch.set_num_threads(1)
    _check_wishes(half_width, queries, subsets=subsets, retrains=retrains)
    values = {"agreement": agreement, "lds": lds, "queries": queries}
    if pilot is not None:
        known, what, seconds = _from_file(pilot, method, against, values)
    else:
        known, what, seconds = _from_values(method, against, values, shared=shared, query_spread=query_spread)
    count = known.queries if queries is None else queries
    asked = {"queries": count, "half_width": half_width, "confidence": confidence}
    rows = plan_bank(known, subsets=subsets, retrains=retrains, **asked)
    sys.stdout.write(f"{what}; {count:,} queries, wished half-width {half_width:g} at {confidence:.0%}\n\n")
    sys.stdout.write(_table(rows, seconds))
    if not any(row["cheapest"] for row in rows):
        narrowest = min(rows, key=lambda row: row["half_width"])
        sys.stdout.write(
            f"\nNone of these suffices; the narrowest is {narrowest['half_width']:.3f}. Give more --subsets, or more "
            "--queries where more subsets hardly help.\n"
        )


def _check_wishes(half_width: float, queries: int | None, **counts: Sequence[int]) -> None:
    """Refuse what can't be planned, before anything is simulated."""
    if not 0 < half_width < math.inf:
        raise ValueError(f"--half-width must be positive, got {half_width}.")
    if queries is not None and queries < 2:
        raise ValueError(f"--queries must be at least 2, got {queries}.")
    for (name, numbers), low in zip(counts.items(), (3, 1), strict=True):
        wrong = [number for number in numbers if not low <= number <= 1_000_000]
        if wrong:
            raise ValueError(f"--{name} must be from {low} to 1,000,000, got {wrong[0]}.")


def _from_file(
    path: Path, method: str | None, against: str | None, values: dict[str, Any]
) -> tuple[Any, str, float | None]:
    from tdabench.questions.lds.power import pilot_of

    given = [name for name in ("agreement", "lds") if values[name] is not None]
    if given:
        raise ValueError(f"--{given[0]} is known from the pilot: leave it out, or plan without a pilot.")
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(
            f"{path} is no judgement of a finished run: give results/NAME/REPEAT/SIZE/judgement.json (`snakemake NAME` "
            "makes it), or plan without a pilot."
        )
    comparison = load_json(path).get("comparison")
    if comparison is None:
        raise ValueError(f"{path} compares no methods with a bank: give the judgement.json of an experiment with one.")
    pilot = pilot_of(comparison, method, against)
    method = method or comparison["ranking"][0]["method"]
    what = f"LDS of {method}" if against is None else f"LDS of {method} less {against}"
    return pilot, f"{what}, from {path}", comparison.get("seconds_per_model")


def _from_values(
    method: str | None, against: str | None, values: dict[str, Any], **spreads: float
) -> tuple[Any, str, float | None]:
    from tdabench.questions.lds.power import simulate_pilot

    missing = [f"--{name}" for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"Without a pilot, {', '.join(missing)} must be given: what you expect.")
    if method is not None:
        raise ValueError(f"--method {method} is for a pilot: give its judgement.json, or leave it out.")
    paired = against is not None
    pilot = simulate_pilot(**values, **spreads, paired=paired)
    return pilot, f"{'Difference of two methods' if paired else 'LDS'}, from planning values", None


def _table(rows: list[dict[str, Any]], seconds: float | None) -> str:
    header = f"  {'subsets':>8} {'retrains':>8} {'ceiling':>8} {'LDS':>8} {'half-width':>10} {'models':>8}"
    lines = [header + (f" {'seconds':>10}" if seconds else "")]
    for row in rows:
        mark = "*" if row["cheapest"] else " "
        ceiling = "" if row["ceiling"] != row["ceiling"] else f"{row['ceiling']:.3f}"
        line = f"{mark} {row['subsets']:>8,} {row['retrains']:>8} {ceiling:>8} {row['lds']:>8.3f}"
        line += f" {row['half_width']:>10.4f} {row['models']:>8,}"
        lines.append(line + (f" {row['models'] * seconds:>10,.0f}" if seconds else ""))
    if any(row["cheapest"] for row in rows):
        lines.append("\n* the cheapest that suffices")
    return "\n".join(lines) + "\n"
