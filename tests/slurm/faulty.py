"""A model of one's own to which a test can do harm in mid-bank; copied into the folder of the experiment.

While there is a file PAUSE, a process waits there before its second model, having named itself in ``paused-PID``. While
there is a file BALLAST, a process's first model takes as many MiB of memory as the file says, for some seconds. If
there is a file KILL, one process is killed as the kernel kills what takes too much memory, and the file is gone.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path

from tdabench.models.small_cnn import SmallCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultyCNN:
    width: int

    def build(self, images, *, generator):
        built = Path(f"built-by-{os.getpid()}")
        if Path("KILL").exists():
            Path("KILL").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if built.exists() and Path("PAUSE").exists():
            Path(f"paused-{os.getpid()}").touch()
            _sleep_while(Path("PAUSE").exists, seconds=120)
        elif not built.exists() and Path("BALLAST").exists():
            ballast = b"x" * (int(Path("BALLAST").read_text()) * 2**20)
            _sleep_while(lambda: bool(ballast), seconds=4)
        built.touch()
        return SmallCNN(width=self.width).build(images, generator=generator)


def _sleep_while(condition, *, seconds):
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)
