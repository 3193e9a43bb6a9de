"""An experiment of the repository through Slurm: the numbers are those of this machine alone."""

import os
import shutil
from pathlib import Path

import pytest
from submission import submit, tables
from test_workflow import REPOSITORY, Place, make_place

from tdabench.machine import find_commit
from tdabench.records import load_record

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]
NAME = "lds_digits"
CELL = Path("results") / NAME / "0" / "250"


@pytest.fixture
def finished(tmp_path: Path) -> Place:
    """Give the experiment as this machine runs it; a run of this commit in the repository is not repeated."""
    place = make_place(tmp_path / "place")
    place.write(f"experiments/{NAME}.yaml", (REPOSITORY / f"experiments/{NAME}.yaml").read_text(encoding="utf-8"))
    score = REPOSITORY / CELL / "scores" / "random.safetensors"
    if score.exists() and load_record(score)["commit"] == find_commit()["commit"]:
        shutil.copytree(REPOSITORY / "results" / NAME, place.path / "results" / NAME)
    done = place.snakemake("--cores", "all", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_a_cell_of_lds_digits_that_goes_through_slurm_leaves_every_table_the_same(cluster, finished):
    results = finished.path / "results" / NAME
    before = tables(results)
    shutil.rmtree(finished.path / CELL)
    shutil.rmtree(results / "tables")

    check_same_tables(finished, before, seconds=1800)


@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(os.environ.get("TDABENCH_SLURM_WHOLE") != "1", reason="takes an hour: TDABENCH_SLURM_WHOLE=1")
def test_the_whole_of_lds_digits_through_slurm_leaves_every_table_the_same(cluster, finished):
    results = finished.path / "results" / NAME
    before = tables(results)
    shutil.rmtree(results)

    check_same_tables(finished, before, seconds=3 * 3600)


def check_same_tables(place: Place, before: dict, *, seconds: float) -> None:
    run = submit(place, NAME)

    assert run.wait(seconds=seconds) == 0, run.terminal
    planned = place.snakemake("-n", NAME)
    assert "Nothing to be done" in planned.stdout + planned.stderr
    assert tables(place.path / "results" / NAME) == before
