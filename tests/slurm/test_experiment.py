"""An experiment of the repository through Slurm: the numbers are those of this machine alone."""

import shutil
from pathlib import Path

import pytest
from places import REPOSITORY, Place, make_place
from submission import submit, tables

from tdabench.storage.provenance import find_commit
from tdabench.storage.records import load_record

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(4500)]
NAME = "lds_digits"


@pytest.fixture
def finished(tmp_path: Path) -> Place:
    """Return the experiment as this machine runs it; a run of this commit in the repository is not repeated."""
    place = make_place(tmp_path / "place")
    place.write(f"experiments/{NAME}.yaml", (REPOSITORY / f"experiments/{NAME}.yaml").read_text(encoding="utf-8"))
    score = REPOSITORY / "results" / NAME / "0" / "250" / "scores" / "random.safetensors"
    if score.exists() and load_record(score)["commit"] == find_commit()["commit"]:
        shutil.copytree(REPOSITORY / "results" / NAME, place.path / "results" / NAME)
    done = place.snakemake("--cores", "all", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_lds_digits_through_slurm_leaves_every_table_the_same(cluster, finished):
    results = finished.path / "results" / NAME
    before = tables(results)
    shutil.rmtree(results)

    run = submit(finished, NAME)

    assert run.wait(seconds=3000) == 0, run.terminal
    planned = finished.snakemake("-n", NAME)
    assert "Nothing to be done" in planned.stdout + planned.stderr
    assert tables(results) == before
