"""An experiment through Slurm: the numbers are those of this machine alone."""

import shutil
from pathlib import Path

import pytest
from places import REPOSITORY, Place, jobs, make_place
from submission import submit, tables

from tdabench.storage.provenance import find_commit
from tdabench.storage.records import load_record

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(4500)]
NAME = "lds_digits"


def test_a_whole_experiment_with_a_job_that_is_killed_leaves_every_table_the_same(undisturbed, empty):
    empty.write("KILL", "")
    run = submit(empty, "--profile", "profiles/cpu", "tiny")

    assert run.wait() == 0, run.terminal
    assert run.terminal.count("has been submitted") == len(jobs(run.terminal)) + 1
    assert not (empty.path / "KILL").exists()
    assert empty.plan() == set()
    assert tables(empty.results) == tables(undisturbed.results)


@pytest.fixture
def finished_digits(tmp_path: Path) -> Place:
    """Return the experiment as this machine runs it; a run of this commit in the repository is not repeated."""
    place = make_place(tmp_path / "place")
    place.write(f"experiments/{NAME}.yaml", (REPOSITORY / f"experiments/{NAME}.yaml").read_text(encoding="utf-8"))
    score = REPOSITORY / "results" / NAME / "0" / "250" / "scores" / "random.safetensors"
    if score.exists() and load_record(score)["commit"] == find_commit()["commit"]:
        shutil.copytree(REPOSITORY / "results" / NAME, place.path / "results" / NAME)
    done = place.snakemake("--cores", "all", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.mark.nightly
def test_lds_digits_through_slurm_leaves_every_table_the_same(cluster, finished_digits):
    results = finished_digits.path / "results" / NAME
    before = tables(results)
    shutil.rmtree(results)

    run = submit(finished_digits, NAME)

    assert run.wait(seconds=3000) == 0, run.terminal
    planned = finished_digits.snakemake("-n", NAME)
    assert "Nothing to be done" in planned.stdout + planned.stderr
    assert tables(results) == before
