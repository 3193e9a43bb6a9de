"""A plan as text. Imports no torch."""

from collections.abc import Sequence

from tabulate import tabulate

from tdabench.planning.jobs import Job

HEADER = ("rule", "what", "jobs", "a job", "all", "memory", "GPU", "disk")


def describe_plan(name: str, jobs: Sequence[Job], others: dict[str, int], start_seconds: float, cores: int) -> str:
    """Describe what a run takes.

    Args:
        jobs: Those that were measured, or could not be.
        others: Number of further jobs by rule, which take little more than their start.
    """
    further = sum(others.values())
    total = sum(job.count * (job.seconds or 0.0) for job in jobs) + further * start_seconds
    count = sum(job.count for job in jobs) + further
    longest = max((job.seconds or 0.0 for job in jobs), default=0.0)
    disk = sum(job.count * job.disk_bytes for job in jobs)
    memory = max((job.host_bytes or 0.0 for job in jobs), default=0.0)
    last = Job(
        rule="others", what=", ".join(others), count=further, seconds=start_seconds, host_bytes=None, device_bytes=None,
        disk_bytes=0.0,
    )  # fmt: skip
    lines = [
        f"{name}: {count:,} jobs, {format_seconds(total)} of computing, "
        f"about {format_seconds(max(total / cores, longest))} on {cores} cores",
        f"most memory of a job: {format_bytes(memory)}, so {format_bytes(cores * memory)} on {cores} cores; "
        f"disk in the end: {format_bytes(disk)}",
        "",
        tabulate(
            [_row(job) for job in (*jobs, last)], HEADER, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 6
        ),
    ]
    if unknown := sorted({f"{job.rule} {job.what}" for job in jobs if job.seconds is None}):
        lines += ["", f"Not measured, and not in the sums: {', '.join(unknown)}"]
    return "\n".join(lines) + "\n"


def _row(job: Job) -> list[str]:
    times = [None, None] if job.seconds is None else [job.seconds, job.seconds * job.count]
    sizes = [job.host_bytes, job.device_bytes, job.disk_bytes * job.count]
    told = [*map(format_seconds, times), *map(format_bytes, sizes)]
    return [job.rule, job.what, f"{job.count:,}", *told]


def format_seconds(seconds: float | None) -> str:
    """Return a time in the unit that a person would choose."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def format_bytes(count: float | None) -> str:
    """Return a size in the unit that a person would choose."""
    if count is None:
        return "?"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:,.1f} GB"
