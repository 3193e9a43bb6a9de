"""What goes wrong on a cluster, done to a small experiment: nothing finished is lost, and no number changes."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import Place
from submission import SHARDS, submit, tables

from tdabench.storage.records import load_tensors

pytestmark = [pytest.mark.slurm, pytest.mark.nightly, pytest.mark.timeout(900)]


def _times(place: Place) -> dict[Path, int]:
    """Return when each result besides the bank was written that no bank goes into."""
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
    assert tables(place.results) == tables(undisturbed.results)


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
    assert "exceeded memory limit" in run.terminal
    assert run.terminal.count("has been submitted") == 2
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


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_when_there_is_room(place, undisturbed):
    with _own_disk(place.results):
        filler = place.results / "filler"
        _fill(filler)

        full = place.snakemake("--cores", "1", SHARDS[0])
        left = list(place.results.glob("0/120/bank/*"))
        filler.unlink()
        resumed = place.snakemake("--cores", "2", *SHARDS)

        assert full.returncode != 0
        assert "No space left on device" in full.stdout + full.stderr
        assert left == []
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        _assert_as_undisturbed(place, undisturbed)


@contextlib.contextmanager
def _own_disk(folder: Path) -> Iterator[None]:
    """Move a folder to a disk of 64 MiB of its own."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
