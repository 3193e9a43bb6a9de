"""Run a function in a process of its own, and end it where it takes too much time or memory."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from tdabench.runtime.blame import find_blame

# Seconds between two looks at the memory: what grows faster than that by the rest of the machine is not caught.
LOOK = 0.1
# Seconds for what was killed to be gone; what waits for a disk that does not answer never is.
PATIENCE = 30


class OutOfMemory(Exception):
    """What a function may raise that the device's memory is too little for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a process.

    Attributes:
        status: ``ok``, or why there is no value: ``out of time: ...`` or ``out of memory: ...``.
        value: What the function gave.
    """

    status: str
    value: Any = None


def run_limited(
    function: Callable[..., Any], *arguments: Any, seconds: float, memory_bytes: int | None = None
) -> Outcome:
    """Call a function in a fresh process and wait for what it gives.

    The resident memory of the process, with what it starts, is looked at ten times a second: a limit of the system's
    (``RLIMIT_AS``) would count what is mapped and never used, of which torch has much.

    Args:
        function: Of a module's top level; it and its arguments can be pickled.
        seconds: Most wall-clock time, imports included.
        memory_bytes: Most resident memory, interpreter included; None for no limit.

    Raises:
        Exception: What the function raised, but for ``OutOfMemory`` and ``MemoryError``.
        RuntimeError: If the process ended by itself and gave nothing.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit the memory, and break CUDA
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=False)
    process.start()
    sender.close()
    try:
        return _wait(process, receiver, time.monotonic() + seconds, seconds, memory_bytes)
    finally:
        _end(process)


def _call(sender: multiprocessing.connection.Connection, function: Callable[..., Any], arguments: Any) -> None:
    """Send what a function gives, or what it raises."""
    try:
        sent: tuple[str, Any] = ("ok", function(*arguments))
    except (OutOfMemory, MemoryError) as error:
        sent = (f"out of memory: {error}", None)
    except Exception as error:  # raised again, on the other side
        error.blame = find_blame(error)  # its frames stay here
        sent = ("raised", error)
    sender.send(sent)


def _wait(
    process: Any,
    receiver: multiprocessing.connection.Connection,
    deadline: float,
    seconds: float,
    memory_bytes: int | None,
) -> Outcome:
    while not receiver.poll(LOOK):
        if time.monotonic() > deadline:
            return Outcome(status=f"out of time: not done after {seconds / 60:g} minutes")
        used = _resident_bytes(process.pid)
        if memory_bytes is not None and used > memory_bytes:
            gib = 2**30
            return Outcome(status=f"out of memory: {used / gib:.2f} GiB resident, of {memory_bytes / gib:g} allowed")
    try:
        status, value = receiver.recv()
    except EOFError:
        return _died(process)
    if status == "raised":
        raise value
    return Outcome(status=status, value=value)


def _died(process: Any) -> Outcome:
    """Say of a process that ended without a word what ended it."""
    process.join()
    if process.exitcode == -signal.SIGKILL:  # nobody else sends it: the system had no memory left
        return Outcome(status="out of memory: the system killed the process")
    raise RuntimeError(f"The process of a run ended with the exit status {process.exitcode}, and gave nothing.")


def _resident_bytes(pid: int) -> int:
    """Add up the resident memory of a process and of all that it started."""
    total = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            total += process.memory_info().rss
    return total


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _end(process: Any) -> None:
    """End a process with all that it started, if it still runs, and wait until the last of them is gone."""
    family = _family(process.pid)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.join()
    deadline = time.monotonic() + PATIENCE
    while any(_runs(one) for one in family) and time.monotonic() < deadline:  # the signals may be on their way
        time.sleep(LOOK / 10)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
