"""A function in a process of its own, with limits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tdabench.runtime.limits import OutOfMemory, run_limited

MIB = 2**20


def add(first: int, second: int) -> int:
    return first + second


def fill(mib: int) -> int:
    block = b"x" * (mib * MIB)
    time.sleep(20)
    return len(block)


def fill_a_child(mib: int) -> None:
    subprocess.run([sys.executable, "-c", f"b = b'x' * ({mib} * 2**20); import time; time.sleep(20)"], check=True)


def sleep_with_a_child(seconds: float, told: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    told.write_text(str(child.pid))
    time.sleep(seconds)


def raise_what(kind: str) -> None:
    raise {"value": ValueError("a wrong value"), "device": OutOfMemory("the GPU is full"), "host": MemoryError()}[kind]


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def test_what_a_function_gives_comes_back():
    outcome = run_limited(add, 2, 3, seconds=60.0, memory_bytes=2000 * MIB)

    assert (outcome.status, outcome.value) == ("ok", 5)


def test_a_function_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    started = time.monotonic()

    outcome = run_limited(sleep_with_a_child, 60.0, tmp_path / "pid", seconds=3.0)

    assert outcome.status == "out of time: not done after 0.05 minutes"
    assert outcome.value is None
    assert time.monotonic() - started < 30
    child = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("function", [fill, fill_a_child])
def test_a_function_that_takes_too_much_memory_is_ended(function):
    outcome = run_limited(function, 600, seconds=60.0, memory_bytes=500 * MIB)

    assert outcome.status.startswith("out of memory: 0.")
    assert outcome.status.endswith(" GiB resident, of 0.488281 allowed")


def test_a_full_device_is_an_outcome_and_any_other_error_is_raised_here():
    assert run_limited(raise_what, "device", seconds=60.0).status == "out of memory: the GPU is full"
    assert run_limited(raise_what, "host", seconds=60.0).status.startswith("out of memory")
    with pytest.raises(ValueError, match="a wrong value"):
        run_limited(raise_what, "value", seconds=60.0)


def test_a_process_that_the_system_kills_was_out_of_memory_and_one_that_crashes_is_an_error():
    assert run_limited(die, signal.SIGKILL, seconds=60.0).status == "out of memory: the system killed the process"
    with pytest.raises(RuntimeError, match="exit status -6, and gave nothing"):
        run_limited(die, signal.SIGABRT, seconds=60.0)
