"""Measure two sides alternately and compare their best times."""

import sys
import time
from collections.abc import Callable


def compare(
    ours: Callable[[], object],
    bare: Callable[[], object],
    *,
    repeats: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the ratio of the best times, ours to bare, of runs in turn.

    Args:
        warm_up: Whether to run each side once before the runs that count.
        clock: ``time.process_time`` where one thread does all the work and other programs share its core.
    """
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for round_ in range(repeats + warm_up):
        for name, run in (("ours", ours), ("bare", bare)):
            start = clock()
            run()
            if round_ >= warm_up:
                times[name].append(clock() - start)
    for name, values in times.items():
        sys.stdout.write(f"  {name}: {', '.join(f'{value:.3f}' for value in values)} s\n")
    return min(times["ours"]) / min(times["bare"])


def verdict(what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Print a figure beside its bar; exit with 1 if it is missed."""
    good = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    bar = f"at most {at_most}" if at_most is not None else f"at least {at_least}"
    sys.stdout.write(f"{what}: {value:.3g} (bar: {bar}) {'ok' if good else 'MISSED'}\n")
    if not good:
        sys.exit(1)
