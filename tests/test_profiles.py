"""Where it runs: what each profile sends where, as far as a plan without a cluster can tell."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from places import REPOSITORY, make_place

from tdabench.workflow import SNAKEFILE

SHARD = "results/tiny/0/120/bank/0.safetensors"
RULES = "\n".join(path.read_text(encoding="utf-8") for path in Path(SNAKEFILE).parent.glob("*.smk"))
NEEDS_GPU = {
    name
    for name, text in re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n|\n)*)", RULES, re.MULTILINE)
    if re.search(r"^        gpu=", text, re.MULTILINE)
}


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path / "place")


def _resources(terminal: str) -> dict[str, str]:
    return dict(re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources: (.*)\n", terminal, re.MULTILINE))


def _requires(plugin: str) -> None:
    pytest.importorskip(f"snakemake_executor_plugin_{plugin}", reason="pip install 'tdabench[cluster]'")


def _profile(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / f"profiles/{name}/config.yaml").read_text(encoding="utf-8"))


def test_on_slurm_a_job_asks_for_memory_for_minutes_and_a_training_for_one_gpu(place):
    _requires("slurm")

    planned = place.snakemake("--workflow-profile", "profiles/slurm", "-n", SHARD)

    resources = _resources(planned.stdout)
    assert planned.returncode == 0, planned.stderr
    assert set(resources) == {"dataset", "split", "retrain"}
    assert all("mem_mb=4000" in text and "runtime=60" in text for text in resources.values())
    assert {rule for rule, text in resources.items() if "gpu=1" in text} == {"retrain"}


def test_on_a_cluster_without_gpus_no_job_asks_for_one(place):
    _requires("slurm")

    planned = place.snakemake("--workflow-profile", "profiles/slurm", "--profile", "profiles/cpu", "-n", SHARD)

    assert planned.returncode == 0, planned.stderr
    assert "gpu=0" in _resources(planned.stdout)["retrain"]
    assert len(NEEDS_GPU) > 10
    assert _profile("cpu")["set-resources"] == {rule: {"gpu": 0} for rule in NEEDS_GPU}


@pytest.mark.parametrize("profile", ["gpu", "slurm", "kubernetes"])
def test_every_profile_reruns_for_the_same_reasons_as_the_default(profile):
    for key in ("keep-going", "rerun-incomplete", "rerun-triggers"):
        assert _profile(profile)[key] == _profile("default")[key], key


def test_on_kubernetes_the_settings_are_valid_and_the_plan_keeps_results_in_the_volume(place, tmp_path):
    _requires("kubernetes")
    volume = tmp_path / "volume"
    shutil.copytree(place.path / "experiments", volume / "experiments")
    options = ("--workflow-profile", "profiles/kubernetes", "--default-storage-prefix", str(volume), "-n", SHARD)

    planned = place.snakemake(*options)
    refused = place.snakemake("--kubernetes-persistent-volumes", "no-path", *options)

    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert set(_resources(planned.stdout)) == {"dataset", "split", "retrain"}
    assert f"output: {volume}/{SHARD}" in planned.stdout
    assert refused.returncode != 0
    assert "has to be <name>:<path>" in refused.stdout + refused.stderr
