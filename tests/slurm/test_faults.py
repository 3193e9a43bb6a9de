"""What goes wrong on a cluster, done to the small experiment: nothing that was finished is lost, and no number changes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import SHARDS, submit
from test_workflow import Place

from tdabench.records import load_tensors

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
WITH_SECONDS = {"cost.csv"}


def _times(place: Place) -> dict[Path, int]:
    """Give when each result besides the bank was written that no bank goes into."""
    folders = ("checkpoints", "scores")
    finished = [place.results / "dataset.safetensors", place.results / "0" / "split.safetensors"]
    finished += [path for folder in folders for path in sorted((place.results / "0" / "120" / folder).iterdir())]
    return {path.relative_to(place.path): path.stat().st_mtime_ns for path in finished}


def _assert_as_undisturbed(place: Place, undisturbed: Place) -> None:
    """Finish the tables on this machine; the bank and every table without seconds in it is the same, bit for bit."""
    done = place.snakemake("--cores", "2", "tiny")

    assert done.returncode == 0, done.stdout + done.stderr
    assert _times(place) == _times(undisturbed)
    for shard in SHARDS:
        first, second = load_tensors(place.path / shard), load_tensors(undisturbed.path / shard)
        assert all(first[name].equal(second[name]) for name in ("masks", "loss", "margin"))
    tables = {path.name for path in (undisturbed.results / "tables").glob("*.csv")} - WITH_SECONDS
    assert {"lds.csv", "pairs.csv", "reliability.csv"} <= tables
    for name in tables:
        assert place.read(f"results/tiny/tables/{name}") == undisturbed.read(f"results/tiny/tables/{name}"), name


def test_a_job_that_is_cancelled_is_sent_again_alone(place, undisturbed):
    place.write("PAUSE", "")
    run = submit(place, "--profile", "profiles/cpu", *SHARDS)
    run.wait_for_paused(2)
    cancelled, what = next(iter(run.jobs().items()))

    subprocess.run(["scancel", cancelled], check=True)
    (place.path / "PAUSE").unlink()

    assert run.wait() == 0, run.terminal
    assert "SLURM status is: 'CANCELLED'" in run.terminal
    assert run.terminal.count("has been submitted") == 3, what
    _assert_as_undisturbed(place, undisturbed)


def test_a_job_that_slurm_kills_for_its_memory_is_sent_again_with_more(place, undisturbed):
    place.write("BALLAST", "1200")
    run = submit(place, "--set-resources", "retrain:mem_mb=attempt * 1000", "--", SHARDS[0])

    assert run.wait() == 0, run.terminal
    assert "SLURM status is: 'OUT_OF_MEMORY'" in run.terminal
    (place.path / "BALLAST").unlink()
    _assert_as_undisturbed(place, undisturbed)


@pytest.mark.parametrize("requeue", [False, True], ids=["Snakemake sends it again", "Slurm does"])
def test_jobs_whose_node_goes_down_in_mid_bank_are_done_when_it_is_back(place, undisturbed, requeue):
    place.write("PAUSE", "")
    run = submit(place, *(["--slurm-requeue"] if requeue else []), "--", *SHARDS)
    run.wait_for_paused(2)
    node = ["scontrol", "update", f"nodename={os.uname().nodename}"]

    subprocess.run([*node, "state=down", "reason=test"], check=True)
    (place.path / "PAUSE").unlink()
    subprocess.run([*node, "state=resume"], check=True)

    assert run.wait() == 0, run.terminal
    assert ("NODE_FAIL" in run.terminal) == (not requeue)
    _assert_as_undisturbed(place, undisturbed)


def test_a_snakemake_that_is_killed_while_jobs_run_goes_on_in_a_second_one(place, undisturbed):
    place.write("PAUSE", "")
    killed = submit(place, *SHARDS)
    killed.wait_for_paused(2)

    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.wait()
    orphans = set(killed.jobs())
    locked = place.snakemake("--cores", "1", *SHARDS)
    place.snakemake("--unlock")
    second = submit(place, *SHARDS)
    second.wait_for(lambda: len(killed.jobs()) == 4, "the second Snakemake's jobs")
    (place.path / "PAUSE").unlink()

    assert len(orphans) == 2
    assert locked.returncode != 0
    assert "--unlock" in locked.stdout + locked.stderr
    assert second.wait() == 0, second.terminal
    _assert_as_undisturbed(place, undisturbed)
