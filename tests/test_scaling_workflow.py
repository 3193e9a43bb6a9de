"""The plan of an experiment that measures cost against model size, by dry runs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
REPOSITORY = Path(__file__).parents[1]


def test_every_method_is_a_job_at_every_size_and_nothing_is_trained_or_scored(tmp_path):
    for name in ("Snakefile", "profiles"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "experiments").mkdir()
    shutil.copy(REPOSITORY / "experiments" / "scaling_pythia.yaml", tmp_path / "experiments")

    done = subprocess.run(
        ["snakemake", "--dry-run", "--cores", "2", "scaling_pythia"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE))
    assert counts["scale"] == "12"
    assert not {"train", "pretrain", "retrain", "attribute"} & set(counts)
    # One run with a limit of 30 minutes; at 14m, three.
    assert set(re.findall(r"runtime=(\d+), mem_mb=18180", text)) == {"35", "95"}
