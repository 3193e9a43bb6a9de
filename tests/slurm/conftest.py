"""One Slurm and one undisturbed run for all of these tests."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside the tests
from cluster import NoCluster, running_cluster, say
from test_workflow import EXPERIMENT, Place, make_place

FAULTY = Path(__file__).with_name("faulty.py")
SLURM_EXPERIMENT = EXPERIMENT.replace("pausing:PausingCNN", "faulty:FaultyCNN").split("  bif:")[0] + (
    "evaluation: {resamples: 100}\n"
)
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

    def wait(self, seconds: float = 600) -> int:
        """Wait for the end; give its exit status."""
        return self.process.wait(timeout=seconds)

    def jobs(self) -> dict[str, str]:
        """Give the Slurm jobs that this cluster has now: what they are, by number."""
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
    """Give the tables of an experiment that hold no seconds, which no two runs share."""
    found = {path.name: path.read_bytes() for path in (results / "tables").glob("*.csv")}
    assert {"lds.csv", "pairs.csv", "reliability.csv"} <= set(found)
    return {name: content for name, content in found.items() if b"seconds" not in content.splitlines()[0]}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a Slurm; where there can be none, skip, or fail if ``TDABENCH_REQUIRE_SLURM`` is 1."""
    required = os.environ.get("TDABENCH_REQUIRE_SLURM") == "1"
    running = running_cluster(tmp_path_factory.mktemp("cluster"), install=required)
    try:
        running.__enter__()
    except NoCluster as error:
        (pytest.fail if required else pytest.skip)(f"needs a Slurm of one's own: {error}")
    yield
    running.__exit__(None, None, None)


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Run the small experiment on this machine, without Slurm; not to be changed."""
    place = make_place(tmp_path_factory.mktemp("slurm") / "undisturbed", SLURM_EXPERIMENT)
    place.write("faulty.py", FAULTY.read_text(encoding="utf-8"))
    done = place.snakemake("--cores", "2", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture
def place(undisturbed: Place, tmp_path: Path) -> Iterator[Place]:
    """Give a copy of the undisturbed run that has lost its bank, and so its tables."""
    place = undisturbed.copy(tmp_path / "place")
    for lost in (*SHARDS, *(path.name for path in place.path.glob("built-by-*"))):
        (place.path / lost).unlink()
    yield place
    (place.path / "PAUSE").unlink(missing_ok=True)
    subprocess.run(["scancel", "--user=root", "--full", "--signal=KILL"], check=False)
