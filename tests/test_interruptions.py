"""A whole workflow under faults: jobs that are killed, results that are cut off, a bank that comes from elsewhere.

Nothing finished is lost or redone, and no number changes.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import EXPERIMENT, Place, environment, jobs, make_place

from tdabench import cli
from tdabench.storage.records import load_tensors

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes through /proc")
CELL = "results/tiny/0/120"
MADE = {"dataset", "split", "train", "retrain", "sample", "attribute", "vary", "properties"}  # not judged


def _ran(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the jobs that made something, besides those that judge."""
    return {job for job in jobs(done.stdout + done.stderr) if job.split()[0] in MADE}


def _lose_what_was_judged(place: Place, *also: str) -> None:
    """Leave what a run has that did not come to its end."""
    kept = {"checkpoints", "bank", "chains", "scores", "vary", "workspace", "logs"} - {*also}
    for path in (place.path / CELL).iterdir():
        if path.name not in kept:
            shutil.rmtree(path)
    shutil.rmtree(place.results / "tables")


def _assert_same(first: Path, second: Path) -> None:
    """Compare the tensors of two result files, but the times."""
    one, other = (load_tensors(path) for path in (first, second))
    assert one.keys() == other.keys()
    for name in one.keys() - {"cpu_seconds"}:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


# A bank that is killed midway


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A folder whose bank was killed midway on two cores, and then continued."""

    place: Place
    shard: int
    status: int
    second: subprocess.CompletedProcess[str]
    times: dict[str, int]
    continued: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def interrupted(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    place = finished.copy(tmp_path_factory.mktemp("interrupted") / "place")
    _lose_what_was_judged(place, "bank")
    place.write("PAUSE", "")
    with (place.path / "terminal").open("w") as terminal:
        process = subprocess.Popen(
            ["snakemake", "--cores", "2", "tiny"],
            cwd=place.path, env=environment(), stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
    try:
        killed, shard = _wait_for_a_job_in_mid_bank(place)
        second = place.snakemake("--cores", "1", "tiny")
        os.kill(killed, signal.SIGKILL)
        (place.path / "PAUSE").unlink()
        status = process.wait(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    times = {path.name: path.stat().st_mtime_ns for path in (place.path / CELL / "bank").iterdir()}
    return Interrupted(place, shard, status, second, times, place.snakemake("--cores", "2", "tiny"))


def _wait_for_a_job_in_mid_bank(place: Place) -> tuple[int, int]:
    """Wait until a job has retrained one of its models; return its process and its shard."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in place.path.glob("built-by-*"):
            process = int(path.name.rpartition("-")[2])
            stage, _, shard = Path(f"/proc/{process}/fd/2").readlink().stem.partition("-")  # its log
            if stage == "retrain":
                return process, int(shard)
        time.sleep(0.1)
    raise TimeoutError(place.read("terminal"))


@needs_proc
def test_a_killed_job_fails_the_run_and_leaves_the_other_shards_and_no_partial_one(interrupted):
    other = 1 - interrupted.shard

    assert interrupted.status != 0
    assert set(interrupted.times) == {f"{other}.safetensors"}
    assert "0%" in interrupted.place.read(f"{CELL}/logs/retrain-{interrupted.shard}.log")


@needs_proc
def test_a_bank_that_was_killed_midway_goes_on_alone_and_changes_no_byte(interrupted, finished):
    bank = interrupted.place.path / CELL / "bank"

    assert interrupted.continued.returncode == 0, interrupted.continued.stderr
    assert _ran(interrupted.continued) == {f"retrain {interrupted.shard}"}
    assert {name: (bank / name).stat().st_mtime_ns for name in interrupted.times} == interrupted.times
    for shard in bank.iterdir():
        _assert_same(shard, finished.path / CELL / "bank" / shard.name)
    assert interrupted.place.read("results/tiny/tables/lds.csv") == finished.read("results/tiny/tables/lds.csv")


@needs_proc
def test_a_second_run_in_the_same_folder_is_told_that_it_is_locked(interrupted):
    terminal = interrupted.second.stdout + interrupted.second.stderr

    assert interrupted.second.returncode != 0
    assert "Directory cannot be locked" in terminal
    assert "--unlock" in terminal


def test_a_result_that_was_cut_off_on_the_disk_is_put_aside_and_made_anew_alone(finished, tmp_path):
    place = finished.copy(tmp_path / "cut")
    shard = place.path / CELL / "bank/1.safetensors"
    _lose_what_was_judged(place)
    os.truncate(shard, shard.stat().st_size - 100)

    first, second = (place.snakemake("--cores", "2", "tiny") for _ in range(2))

    assert first.returncode != 0
    assert "1.safetensors is damaged" in first.stdout + first.stderr
    assert shard.with_name("1.safetensors.damaged").exists()
    assert second.returncode == 0, second.stdout + second.stderr
    assert _ran(second) == {"retrain 1"}
    assert place.read("results/tiny/tables/lds.csv") == finished.read("results/tiny/tables/lds.csv")


# Chains, one by one


def test_of_chains_that_were_killed_or_lost_the_others_are_kept_and_the_scores_are_the_same(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    cell = place.path / CELL
    place.change("methods:\n  t", 'methods:\n  dying: {attributor: "chained:Chained", chains: 2, fault: kill}\n  t')
    scores = [f"{CELL}/scores/{method}.safetensors" for method in ("dying", "bif")]

    killed = place.snakemake("--cores", "1", "--prioritize", f"{CELL}/chains/dying-0.safetensors", "--", scores[0])
    before = (cell / "chains/dying-0.safetensors").stat().st_mtime_ns
    (cell / "chains/bif-1.safetensors").unlink()
    (cell / "scores/bif.safetensors").unlink()
    place.write("MENDED", "")
    continued = place.snakemake("--cores", "2", *scores)

    assert killed.returncode != 0
    assert continued.returncode == 0, continued.stderr
    assert _ran(continued) == {"sample dying 1", "attribute dying", "sample bif 1", "attribute bif"}
    assert (cell / "chains/dying-0.safetensors").stat().st_mtime_ns == before
    assert not [path for path in (cell / "chains").iterdir() if "partial" in path.name]
    for name in ("chains/bif-1", "scores/bif"):
        _assert_same(*(each.path / CELL / f"{name}.safetensors" for each in (place, finished)))


# The same bank in other ways


def test_a_bank_that_is_divided_by_what_is_measured_is_the_same_bank(tmp_path):
    by_hand, measured = (
        make_place(tmp_path / name, EXPERIMENT.replace("shards: 2", f"shards: {shards}"))
        for name, shards in (("by_hand", "2"), ("measured", "auto"))
    )

    planned = measured.snakemake("-n", "tiny")
    first = measured.snakemake("--cores", "2", "tiny")
    second = by_hand.snakemake("--cores", "2", *(f"{CELL}/bank/{shard}.safetensors" for shard in range(2)))

    assert "measure" in jobs(planned.stdout)
    assert not any(job.startswith("retrain") for job in jobs(planned.stdout))  # their number is not known yet
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    whole, parts = (
        [load_tensors(path) for path in sorted((place.path / CELL / "bank").iterdir())] for place in (measured, by_hand)
    )
    assert len(whole) == 1  # it takes less than ten minutes
    assert all(torch.equal(whole[0][name], torch.cat([part[name] for part in parts])) for name in whole[0])
    assert measured.plan() & {"measure", "retrain 0"} == set()


@pytest.fixture(scope="module")
def exported(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bank.safetensors"
    shards = sorted(map(str, (finished.path / CELL / "bank").iterdir()))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(finished.path)
        assert cli.main(["bank", "export", *shards, "--output", str(path)]) == 0
    sys.modules.pop("pausing", None)
    return path


def _put_in_place(place: Place, bank: Path) -> None:
    done = subprocess.run(
        ["tdabench", "bank", "import", bank, "--into", CELL, "--experiment", "experiments/tiny.yaml"],
        cwd=place.path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].split()  # the one that it asks for
    assert command[:3] == ["snakemake", "--touch", "--force"]
    touched = place.snakemake(*command[1:])
    assert touched.returncode == 0, touched.stderr


def test_an_exported_bank_that_is_put_back_gives_the_same_tables_and_retrains_nothing(finished, exported, tmp_path):
    place = finished.copy(tmp_path / "place")
    _lose_what_was_judged(place, "bank")
    _put_in_place(place, exported)

    done = place.snakemake("--cores", "1", "tiny")

    assert done.returncode == 0, done.stderr
    assert _ran(done) == set()
    for name in ("lds.csv", "cost.csv", "lds.md"):
        assert place.read(f"results/tiny/tables/{name}") == finished.read(f"results/tiny/tables/{name}")


def test_a_colleague_who_imports_a_bank_needs_no_retraining_until_its_settings_change(finished, exported, tmp_path):
    place = make_place(tmp_path / "place", finished.read("experiments/tiny.yaml"))
    assert place.snakemake("--cores", "1", "results/tiny/0/split.safetensors").returncode == 0
    _put_in_place(place, exported)

    planned = place.plan()
    place.change("fraction: 0.5", "fraction: 0.4")
    then = place.plan()

    assert then - planned == {"retrain 0", "retrain 1"}
    assert planned <= then
