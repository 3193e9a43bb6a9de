"""Which device a job computes on: of several GPUs one that no other job has."""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the CPU, or the first GPU that no other job of this user has.

    The GPU is this process's until it ends.
    """
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    if len(names) == 1:
        return torch.device("cuda")
    device = torch.device("cuda", take_slot(names, lock_folder(Path(tempfile.gettempdir()))))
    torch.cuda.set_device(device)
    return device


def lock_folder(parent: Path) -> Path:
    """Make this user's folder of locks.

    Raises:
        PermissionError: If somebody else made it.
    """
    folder = parent / f"tdabench-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is not yours: remove it, or name a GPU by --device cuda:0.")
    return folder


def take_slot(names: Sequence[str], folder: Path) -> int:
    """Take the first slot that no other process has, and keep it until this process ends; wait while there is none."""
    while True:
        for index, name in enumerate(names):
            lock = os.open(folder / name, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                return index  # the lock stays open: the system frees it with the process
        time.sleep(0.5)
