"""One Slurm and one undisturbed run for all of these tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import NoCluster, running_cluster
from places import EXPERIMENT, Place, make_place
from submission import SHARDS

FAULTY = Path(__file__).with_name("faulty.py")
SLURM_EXPERIMENT = EXPERIMENT.replace("pausing:PausingCNN", "faulty:FaultyCNN").split("  bif:")[0] + (
    "evaluation: {resamples: 100}\n"
)


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


def make_slurm_place(path: Path) -> Place:
    """Make a folder with the small experiment: one cell, six subsets, two cheap methods."""
    place = make_place(path, SLURM_EXPERIMENT)
    place.write("faulty.py", FAULTY.read_text(encoding="utf-8"))
    return place


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    return make_slurm_place(tmp_path / "empty")


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Run the small experiment on this machine, without Slurm; not to be changed."""
    place = make_slurm_place(tmp_path_factory.mktemp("slurm") / "undisturbed")
    done = place.snakemake("--cores", "2", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture
def place(undisturbed: Place, tmp_path: Path) -> Iterator[Place]:
    """Return a copy of the undisturbed run that has lost its bank, and so its tables."""
    place = undisturbed.copy(tmp_path / "place")
    for lost in (*SHARDS, *(path.name for path in place.path.glob("built-by-*"))):
        (place.path / lost).unlink()
    yield place
    (place.path / "PAUSE").unlink(missing_ok=True)
    subprocess.run(["scancel", "--user=root", "--full", "--signal=KILL"], check=False)
