"""The command's side of the fork server: hand a job over, pass signals on, end as the job ended. Imports no torch."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "TDABENCH_FORKSERVER"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_BYTES = 4
STANDARD = (0, 1, 2)
# Stages that a fork would measure wrongly: it has imported what others would have to.
ALONE = {"measure", "plan"}


def run_in_fork(arguments: Sequence[str]) -> int | None:
    """Have a command run by the server of this run; return its exit status, or None where it must be run here.

    A signal to this process goes to the job; if a signal ended the job, it ends this process too.
    """
    owner, _, address = os.environ.get(VARIABLE, "").partition(":")
    if not (owner.isdigit() and address) or os.environ.get("OMP_NUM_THREADS") != "1":
        return None
    if not ALONE.isdisjoint(arguments[:1]) or not _descends_from(int(owner)):
        return None
    request = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps({**request, "interpreter": interpreter()}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [len(content).to_bytes(8, "big")], STANDARD)
            connection.sendall(content)
        except OSError:
            return None
        try:
            with _passed_on(connection):
                code = int.from_bytes(receive(connection, STATUS_BYTES), "big", signed=True)
        except OSError:  # it could not be served
            return None
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


@contextlib.contextmanager
def _passed_on(connection: socket.socket) -> Iterator[None]:
    """Pass the signals that this process gets on, to the job at the other side."""

    def pass_on(number: int, _: Any) -> None:
        with contextlib.suppress(OSError):  # the job has ended
            connection.send(bytes([number]))

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _descends_from(ancestor: int) -> bool:
    """Say whether this process was started by another, or by one that it started."""
    process = os.getppid()
    while process > 1 and process != ancestor:
        try:
            stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        process = int(stat.rpartition(")")[2].split()[1])
    return process == ancestor


def interpreter() -> list[Any]:
    """Say which Python this is, and what it was told: one in a container is another."""
    found = os.stat(sys.executable)
    told = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LD_"))}
    return [sys.prefix, found.st_dev, found.st_ino, found.st_mtime_ns, told]


def receive(connection: socket.socket, count: int) -> bytes:
    """Receive so many bytes.

    Raises:
        ConnectionError: If the other side ends before.
    """
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionError(f"The other side ended after {len(found)} of {count} bytes.")
        found += part
    return found
