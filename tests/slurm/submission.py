"""Snakemake that sends its jobs to the tests' Slurm, and what is compared in the end."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import say
from places import Place

SHARDS = tuple(f"results/tiny/0/120/bank/{shard}.safetensors" for shard in (0, 1))
# This cluster has no accounts, and jobs of seconds: it is asked often. (The plug-in waits ten seconds longer after
# each question that finds nothing finished.)
SLURM = (
    *("--workflow-profile", "profiles/slurm"),
    *("--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "1"),
    *("--latency-wait", "5"),
)


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A Snakemake that sends its jobs to Slurm, in a session of its own."""

    place: Place
    process: subprocess.Popen[str]
    log: Path

    @property
    def terminal(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, seconds: float = 900) -> int:
        """Wait for the end; return its exit status."""
        return self.process.wait(timeout=seconds)

    def jobs(self) -> dict[str, str]:
        """Return the Slurm jobs that this cluster has now: what they are, by number."""
        return dict(line.split(" ", 1) for line in say("squeue", "--noheader", "--format=%i %k").splitlines())

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, f"waited for {what}, but Snakemake has ended: {self.terminal}"
            assert time.monotonic() < deadline, f"waited for {what}: {self.terminal}"
            time.sleep(0.1)

    def wait_for_paused(self, count: int) -> None:
        """Wait until as many jobs stand in mid-bank."""
        self.wait_for(lambda: len(list(self.place.path.glob("paused-*"))) >= count, f"{count} jobs in mid-bank")


def submit(place: Place, *arguments: str) -> Submitted:
    log = place.path / f"terminal-{time.monotonic_ns()}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    for name in ("PYTHONWARNINGS", "SNAKEMAKE_PROFILE"):
        environment.pop(name, None)
    with log.open("w") as file:
        process = subprocess.Popen(
            ["snakemake", *SLURM, *arguments],
            cwd=place.path, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    return Submitted(place, process, log)


def tables(results: Path) -> dict[str, bytes]:
    """Return the tables of an experiment that hold no seconds, which no two runs share."""
    found = {path.name: path.read_bytes() for path in (results / "tables").glob("*.csv")}
    assert {"lds.csv", "pairs.csv", "reliability.csv"} <= set(found)
    return {name: content for name, content in found.items() if b"seconds" not in content.splitlines()[0]}
