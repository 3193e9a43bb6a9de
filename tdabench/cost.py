"""Cost of a piece of work: seconds, memory and disk, by phase."""

import contextlib
import contextvars
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

DEFAULT_PHASE = "score"


@dataclasses.dataclass
class PhaseCost:
    """What one phase took.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: CPU time of all threads.
        peak_host_bytes: Highest resident memory of the process during the phase, interpreter and data included.
        peak_device_bytes: Highest memory allocated on the GPU during the phase; 0 on the CPU.
        disk_bytes: Growth of the workspace.
        passes: Forward passes of one example, a gradient counting as 3 (``count_passes``); 0 is none, NaN not known.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_host_bytes: int = 0
    peak_device_bytes: int = 0
    disk_bytes: int = 0
    passes: int | float = 0


@dataclasses.dataclass
class Cost:
    """Costs by phase; time outside every ``phase`` counts as ``score``."""

    device: torch.device
    workspace: Path | None = None
    phases: dict[str, PhaseCost] = dataclasses.field(default_factory=dict)

    def add(self, name: str, part: PhaseCost) -> None:
        """Add a part to a phase: times, disk and passes add up, peaks are maxima."""
        total = self.phases.setdefault(name, PhaseCost())
        total.seconds += part.seconds
        total.cpu_seconds += part.cpu_seconds
        total.disk_bytes += part.disk_bytes
        total.passes += part.passes
        total.peak_host_bytes = max(total.peak_host_bytes, part.peak_host_bytes)
        total.peak_device_bytes = max(total.peak_device_bytes, part.peak_device_bytes)

    def add_phases(self, other: "Cost", *, name: str | None = None) -> None:
        """Add the phases of another measurement; with a name, as that phase."""
        for phase_name, part in other.phases.items():
            self.add(name or phase_name, part)

    def add_recorded(self, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the phases of another job's record, as if it had been done here."""
        for name, part in recorded.items():
            # Missing in records from before passes were counted, null where their number is not known.
            passes = math.nan if part.get("passes") is None else part["passes"]
            self.add(name, PhaseCost(**{**part, "passes": passes}))


_CURRENT: contextvars.ContextVar["_Meter | None"] = contextvars.ContextVar("current_meter", default=None)


@contextlib.contextmanager
def measure_cost(
    device: torch.device | str = "cpu", *, workspace: Path | None = None, passes: bool = False
) -> Iterator[Cost]:
    """Measure what the body costs, synchronised with the device at both ends.

    Args:
        workspace: Folder whose growth counts as disk use.
        passes: Whether the body says by ``count_passes`` what passes it makes; else their number is not known (NaN).
    """
    cost = Cost(torch.device(device), workspace)
    meter = _Meter(cost, passes=passes)
    token = _CURRENT.set(meter)
    try:
        yield cost
    finally:
        meter.switch(None)
        _CURRENT.reset(token)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the body as a phase of the surrounding ``measure_cost``; without one, do nothing.

    Example:
        >>> with measure_cost() as cost:
        ...     with phase("fit"):
        ...         total = sum(range(1000))
        >>> "fit" in cost.phases
        True
    """
    meter = _CURRENT.get()
    if meter is None:
        yield
        return
    outer = meter.name
    meter.switch(name)
    try:
        yield
    finally:
        meter.switch(outer)


def current_phase() -> str | None:
    """Name the phase that is being measured; None outside every ``measure_cost``."""
    meter = _CURRENT.get()
    return None if meter is None else meter.name


def count_passes(passes: int | float) -> None:
    """Count forward passes in the phase that is being measured; outside every ``measure_cost``, do nothing.

    The unit is one forward pass of one example. By convention a gradient, forward and backward, counts as 3, since the
    backward pass multiplies about twice as much as the forward one.

    Args:
        passes: NaN where their number is not known: then that of the phase is not either.
    """
    meter = _CURRENT.get()
    if meter is not None:
        meter.passes += passes


def passes_so_far() -> int | float:
    """Return the passes that were counted since the surrounding ``measure_cost`` began; NaN without one."""
    meter = _CURRENT.get()
    if meter is None:
        return math.nan
    return meter.passes + sum(part.passes for part in meter.cost.phases.values())


class _Meter:
    """Charge what passes between two switches to the phase that was on."""

    def __init__(self, cost: Cost, *, passes: bool = False) -> None:
        self.cost = cost
        self.passes = self.no_passes = 0 if passes else math.nan
        self.name: str | None = None
        self.start = 0.0, 0.0, 0
        self.switch(DEFAULT_PHASE)

    def switch(self, name: str | None) -> None:
        cost = self.cost
        if cost.device.type == "cuda":
            torch.cuda.synchronize(cost.device)
        now = time.perf_counter(), _cpu_seconds(), _folder_bytes(cost.workspace)
        if self.name is not None:
            seconds, cpu_seconds = now[0] - self.start[0], now[1] - self.start[1]
            disk = now[2] - self.start[2]
            device_peak = torch.cuda.max_memory_allocated(cost.device) if cost.device.type == "cuda" else 0
            cost.add(self.name, PhaseCost(seconds, cpu_seconds, _peak_host_bytes(), device_peak, disk, self.passes))
        if cost.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(cost.device)
        _reset_peak_host_bytes()
        self.passes = self.no_passes
        self.name, self.start = name, (time.perf_counter(), _cpu_seconds(), _folder_bytes(cost.workspace))


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _folder_bytes(folder: Path | None) -> int:
    if folder is None or not folder.exists():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _reset_peak_host_bytes() -> None:
    # Linux only; elsewhere the peak is the process's highest so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_host_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
