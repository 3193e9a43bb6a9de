"""A plan as text. Imports no torch."""

from collections.abc import Sequence

from tdabench.planning.jobs import Job


def describe_plan(name: str, jobs: Sequence[Job], others: dict[str, int], start_seconds: float, cores: int) -> str:
    """Describe what a run takes.

    Args:
        jobs: Those that were measured, or could not be.
        others: Number of further jobs by rule, which take little more than their start.
    """
    rows = [_row(job) for job in jobs]
    header = f"{'rule':<10} {'what':<34} {'jobs':>6} {'a job':>9} {'all':>9} {'memory':>9} {'GPU':>9} {'disk':>9}"
    total = sum(job.count * (job.seconds or 0.0) for job in jobs) + sum(others.values()) * start_seconds
    count = sum(job.count for job in jobs) + sum(others.values())
    longest = max((job.seconds or 0.0 for job in jobs), default=0.0)
    disk = sum(job.count * job.disk_bytes for job in jobs)
    memory = max((job.host_bytes or 0.0 for job in jobs), default=0.0)
    lines = [
        f"{name}: {count:,} jobs, {format_seconds(total)} of computing, "
        f"about {format_seconds(max(total / cores, longest))} on {cores} cores",
        f"most memory of a job: {format_bytes(memory)}, so {format_bytes(cores * memory)} on {cores} cores; "
        f"disk in the end: {format_bytes(disk)}",
        "",
        header,
        *rows,
        f"{'others':<10} {', '.join(others):<34.34} {sum(others.values()):>6,} {format_seconds(start_seconds):>9} "
        f"{format_seconds(sum(others.values()) * start_seconds):>9}",
    ]
    if unknown := sorted({f"{job.rule} {job.what}" for job in jobs if job.seconds is None}):
        lines += ["", f"Not measured, and not in the sums: {', '.join(unknown)}"]
    return "\n".join(lines) + "\n"


def _row(job: Job) -> str:
    seconds = "?" if job.seconds is None else format_seconds(job.seconds)
    total = "?" if job.seconds is None else format_seconds(job.seconds * job.count)
    memory, gpu = ("?" if value is None else format_bytes(value) for value in (job.host_bytes, job.device_bytes))
    return (
        f"{job.rule:<10} {job.what:<34.34} {job.count:>6,} {seconds:>9} {total:>9} {memory:>9} {gpu:>9} "
        f"{format_bytes(job.disk_bytes * job.count):>9}"
    )


def format_seconds(seconds: float) -> str:
    """Return a time in the unit that a person would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def format_bytes(count: float) -> str:
    """Return a size in the unit that a person would choose."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:,.1f} GB"
