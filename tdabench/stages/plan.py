"""The commands that plan before the compute is spent: a bank's precision, a run's cost."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tdabench.storage.records import load_json


def plan(arguments: argparse.Namespace) -> None:
    """Say what a run will take: jobs, seconds, memory, disk, from costs measured on this machine."""
    from tdabench.experiment.read import load_experiment
    from tdabench.planning.costs import COSTS_FILE, load_costs
    from tdabench.planning.jobs import count_others, list_jobs
    from tdabench.planning.text import describe_plan
    from tdabench.stages.measure import measure

    named = Path(arguments.experiment)
    arguments.experiment = named if named.suffix == ".yaml" else Path("experiments") / f"{named}.yaml"
    experiment = load_experiment(arguments.experiment)
    arguments.output = Path("results") / experiment.name / COSTS_FILE
    if arguments.again or not arguments.output.is_file():
        sys.stderr.write(f"Measuring on few examples, once; kept in {arguments.output}.\n")
        measure(arguments)
    costs = load_costs(arguments.output)
    cores = arguments.cores or os.cpu_count() or 1
    jobs = list(list_jobs(experiment, costs))
    sys.stdout.write(describe_plan(experiment.name, jobs, count_others(experiment), costs.start_seconds, cores))
    sys.stdout.write(f"\nFrom costs measured on {costs.device}: {arguments.output}\n")
    for kind, problem in costs.problems.items():
        sys.stdout.write(f"{kind} could not be measured: {problem}\n")


def power(arguments: argparse.Namespace) -> None:
    """Say how many subsets and retrains a wished half-width needs, from a pilot or from planning values."""
    from tdabench.questions.lds.power import plan

    torch.set_num_threads(1)
    _check_wishes(arguments)
    pilot, what, seconds = _from_file(arguments) if arguments.pilot else _from_values(arguments)
    queries = pilot.queries if arguments.queries is None else arguments.queries
    rows = plan(
        pilot,
        subsets=arguments.subsets,
        retrains=arguments.retrains,
        queries=queries,
        half_width=arguments.half_width,
        confidence=arguments.confidence,
    )
    sys.stdout.write(
        f"{what}; {queries:,} queries, wished half-width {arguments.half_width:g} at {arguments.confidence:.0%}\n\n"
    )
    sys.stdout.write(_table(rows, seconds))
    if not any(row["cheapest"] for row in rows):
        narrowest = min(rows, key=lambda row: row["half_width"])
        sys.stdout.write(
            f"\nNone of these suffices; the narrowest is {narrowest['half_width']:.3f}. Give more --subsets, or more "
            "--queries where more subsets hardly help.\n"
        )


def _check_wishes(arguments: argparse.Namespace) -> None:
    """Refuse what can't be planned, before anything is simulated."""
    if not 0 < arguments.half_width < math.inf:
        raise ValueError(f"--half-width must be positive, got {arguments.half_width}.")
    if arguments.queries is not None and arguments.queries < 2:
        raise ValueError(f"--queries must be at least 2, got {arguments.queries}.")
    for name, low in (("subsets", 3), ("retrains", 1)):
        wrong = [number for number in getattr(arguments, name) if not low <= number <= 1_000_000]
        if wrong:
            raise ValueError(f"--{name} must be from {low} to 1,000,000, got {wrong[0]}.")


def _from_file(arguments: argparse.Namespace) -> tuple[Any, str, float | None]:
    from tdabench.questions.lds.power import pilot_of

    given = [name for name in ("agreement", "lds") if getattr(arguments, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is known from the pilot: leave it out, or plan without a pilot.")
    if arguments.pilot.suffix != ".json" or not arguments.pilot.is_file():
        raise ValueError(
            f"{arguments.pilot} is no comparison of a finished run: give "
            "results/NAME/REPEAT/SIZE/compare/comparison.json (`snakemake NAME` makes it), or plan without a pilot."
        )
    comparison = load_json(arguments.pilot)
    pilot = pilot_of(comparison, arguments.method, arguments.against)
    method = arguments.method or comparison["ranking"][0]["method"]
    what = f"LDS of {method}" if arguments.against is None else f"LDS of {method} less {arguments.against}"
    return pilot, f"{what}, from {arguments.pilot}", comparison.get("seconds_per_model")


def _from_values(arguments: argparse.Namespace) -> tuple[Any, str, float | None]:
    from tdabench.questions.lds.power import simulate_pilot

    missing = [f"--{name}" for name in ("agreement", "lds", "queries") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"Without a pilot, {', '.join(missing)} must be given: what you expect.")
    if arguments.method is not None:
        raise ValueError(f"--method {arguments.method} is for a pilot: give its comparison.json, or leave it out.")
    paired = arguments.against is not None
    pilot = simulate_pilot(
        agreement=arguments.agreement,
        lds=arguments.lds,
        queries=arguments.queries,
        shared=arguments.shared,
        query_spread=arguments.query_spread,
        paired=paired,
    )
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
