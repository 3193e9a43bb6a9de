"""What a result was made with: versions, commit, processor, device. Imports no torch."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "kronfluence", "traker", "numpy", "scipy", "safetensors")


def find_versions() -> dict[str, str]:
    """Return the versions of the package and of what its results depend on."""
    versions = {"tdabench": importlib.metadata.version("tdabench")}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


@functools.cache
def find_commit() -> dict[str, Any]:
    """Return the commit of the package's own repository, and whether its code differed (results don't count)."""
    folder = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return {"commit": None, "dirty": None}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", ".", ":!results"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@functools.cache
def find_processor() -> str:
    """Name the processor and its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores"
    except (OSError, IndexError):
        return platform.processor() or sys.platform


def name_device(device: Any) -> str:
    """Name a torch device as people know it."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)"
