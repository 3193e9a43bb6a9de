"""A process that has imported torch already, and is forked for every job that this machine runs.

Importing torch takes seconds, which is most of a small job. The workflow starts one server a run (``onstart`` in the
Snakefile); the command ``tdabench`` then only hands its arguments, folder, environment and open files to it, waits, and
ends as the job ended. What the package and its plug-ins hold is imported in the job, so an edited file is read anew.

A job runs by itself where the server can't stand for it: with more than one thread (libraries count theirs when they
are imported), with another interpreter (a container), outside the run that started the server (a cluster's job gets the
variables of the login node), to measure what jobs cost, or if the server does not answer. Its peak memory is lower than
by itself: pages of libraries that it never touches are not counted. On a machine with a GPU no server is started: a
driver that was asked anything before a fork does not work after it.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

from tdabench.runtime.forked import STANDARD, STATUS_BYTES, VARIABLE, interpreter, receive

# What most jobs import; nothing of this package, and nothing that starts a thread (pandas does). The first before any
# job is begun, the others while none is asked for.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "safetensors.torch",
    "scipy.special",
    "pydantic.type_adapter",
    "pydantic.json_schema",
    "ruamel.yaml",
    "jaxtyping",
    "kronfluence.analyzer",
    "scipy.stats",
)
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
KILLED_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def start() -> subprocess.Popen[bytes] | None:
    """Start a server for the jobs that this process starts; it ends after this process, when its last job has.

    Returns:
        The server, which must be kept: it ends when it is let go of. None where there is none: not on Linux from 5.3,
        with a GPU, if ``TDABENCH_FORKSERVER`` is set (to anything: ``off``), or if it can't be started.
    """
    if VARIABLE in os.environ or any(Path(gpu).exists() for gpu in GPUS):
        return None
    folder = tempfile.mkdtemp(prefix="tdabench-")  # nobody else may enter
    address = os.path.join(folder, "socket")
    try:
        os.close(os.pidfd_open(os.getpid()))  # by which a server watches its jobs
        server = _start_at(address)
    except (AttributeError, OSError):  # no such thing here, or no room for a socket with so long a path, or a process
        shutil.rmtree(folder, ignore_errors=True)
        return None
    os.environ[VARIABLE] = f"{os.getpid()}:{address}"
    return server


def _start_at(address: str) -> subprocess.Popen[bytes]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), os.path.dirname(address)],
            env={**os.environ, **one},
            stdin=subprocess.PIPE,  # whose end says that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
            start_new_session=True,  # Ctrl-C is the jobs' affair
        )


def main() -> None:
    """Serve until the process at the other end of the standard input has ended, and the last job has too."""
    before = set(os.environ)
    _import(PRELOADED[0])
    job = _Server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).serve()
    if job is not None:
        _run(*job, before)


def _import(name: str) -> None:
    with contextlib.suppress(Exception):  # a job says what is wrong with it
        importlib.import_module(name)


# What a fork is to do: the command's arguments, folder and environment; its standard input, output and error; and the
# connection, whose end says that the job has ended, even if the server is no more.
_Job = tuple[dict[str, Any], list[int], socket.socket]


class _Server:
    """Forks for every request, passes the commands' signals on, and tells them how their jobs ended."""

    def __init__(self, listener: socket.socket, folder: str) -> None:
        self.listener = listener
        self.folder = folder
        self.selector = selectors.DefaultSelector()

    def serve(self) -> _Job | None:
        """Serve until there is nothing left to wait for; in a fork, give its job at once."""
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(0, selectors.EVENT_READ, self._stop)
        left = list(PRELOADED[1:])
        while self.selector.get_map():
            ready = self.selector.select(0 if left else None)
            if not ready:
                _import(left.pop(0))
            for key, _ in ready:
                if key.fd not in self.selector.get_map():  # something before it in this round has ended it
                    continue
                job = key.data()
                if job is not None:
                    return job
        return None

    def _stop(self) -> None:
        self.selector.unregister(0)
        self.selector.unregister(self.listener)
        self.listener.close()  # what waits there runs by itself
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> _Job | None:
        """Take a request and fork; what can't be served is closed, and its command runs by itself."""
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        process, descriptors, server = None, [], os.getpid()
        with contextlib.suppress(OSError, ValueError):  # the command has ended meanwhile, or there is no room
            length, descriptors, _, _ = socket.recv_fds(connection, 8, len(STANDARD))
            request = json.loads(receive(connection, int.from_bytes(length, "big")))
            if request["interpreter"] == interpreter():
                gc.freeze()  # what is the server's is not a job's to look through
                process = os.fork()
        if process == 0:
            _die_with(server)
            os.setpgid(0, 0)  # a group of its own, with all that it starts, from both sides at once
            self._let_go()
            return request, descriptors, connection
        for descriptor in descriptors:
            os.close(descriptor)
        if process is None:
            connection.close()
            return None
        with contextlib.suppress(OSError):
            os.setpgid(process, process)
        handle = os.pidfd_open(process)
        ended = functools.partial(self._report, process, handle, connection)
        self.selector.register(handle, selectors.EVENT_READ, ended)
        told = functools.partial(self._pass_signals, process, connection)
        self.selector.register(connection, selectors.EVENT_READ, told)
        return None

    def _let_go(self) -> None:
        """Close, in a fork, what is the server's."""
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self.selector.close()

    def _pass_signals(self, process: int, connection: socket.socket) -> None:
        """Hand a command's signals to its job; kill the job if the command is no more."""
        try:
            numbers = connection.recv(16)
        except OSError:
            numbers = b""
        if not numbers:
            self.selector.unregister(connection)
        for number in numbers or [signal.SIGKILL]:
            with contextlib.suppress(OSError):
                os.killpg(process, number)

    def _report(self, process: int, handle: int, connection: socket.socket) -> None:
        """Tell a command how its job ended."""
        self.selector.unregister(handle)
        os.close(handle)
        with contextlib.suppress(KeyError):  # the command was no more
            self.selector.unregister(connection)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with connection, contextlib.suppress(OSError):
            connection.sendall(code.to_bytes(STATUS_BYTES, "big", signed=True))


def _die_with(server: int) -> None:
    """Have this process killed when its parent ends: then nobody would hear of it, and its command does its work."""
    ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != server:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def _run(request: dict[str, Any], descriptors: list[int], _connection: socket.socket, before: set[str]) -> NoReturn:
    """Be the command that was asked for; ``before`` are the variables that the server was started with."""
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    environment, arguments = request["environment"], request["arguments"]
    for name in before - set(environment):
        os.environ.pop(name, None)
    os.environ.update(environment)
    os.chdir(request["folder"])
    sys.argv = ["tdabench", *arguments]
    tempfile.tempdir = None  # found anew
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(" ".join(sys.argv[:2]), encoding="utf-8")  # what top shows
    # As in a process of its own; what matters here has seeds, a plug-in's random numbers may not.
    sys.modules["torch"].default_generator.seed()
    sys.modules["numpy"].random.seed()
    status = importlib.import_module("tdabench.cli").run(arguments)
    # The interpreter's own end, without taking apart what was imported: that takes longer than many a job.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):  # older than the job
        stream.flush()
    for one in gc.get_objects():  # files that were left open
        if type(one) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            with contextlib.suppress(ValueError):  # it is closed
                one.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
