"""Measure two sides alternately and compare their best times."""

import sys
import time
from collections.abc import Callable


def compare(ours: Callable[[], object], bare: Callable[[], object], *, repeats: int) -> float:
    """Give the ratio of the best times, ours to bare, after one run of each to warm up."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for round_ in range(repeats + 1):
        for name, run in (("ours", ours), ("bare", bare)):
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        sys.stdout.write(f"  {name}: {', '.join(f'{value:.3f}' for value in values)} s\n")
    return min(times["ours"]) / min(times["bare"])


def verdict(what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Print a figure beside its bar; exit with 1 if it is missed."""
    good = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    bar = f"at most {at_most}" if at_most is not None else f"at least {at_least}"
    sys.stdout.write(f"{what}: {value:.3f} (bar: {bar}) {'ok' if good else 'MISSED'}\n")
    if not good:
        sys.exit(1)
