import dataclasses

import pytest
from made_costs import make_costs, make_experiment

from tdabench.planning.costs import COSTS_FILE
from tdabench.planning.needs import _load, gpus_of, megabytes, minutes, needs_of
from tdabench.storage.records import save_json

COST = {"seconds": 1200.0, "host_bytes": 4e9, "device_bytes": 0.0, "disk_bytes": 0.0}


@pytest.mark.parametrize(("attempt", "expected"), [(1, (41, 6000, 60, 4000)), (3, (164, 24000, 240, 16000))])
def test_a_job_asks_for_more_than_was_measured_and_twice_that_at_each_retry(attempt, expected):
    needs = [need for cost in (COST, None) for need in (minutes(cost, 6.0, attempt), megabytes(cost, attempt))]

    assert tuple(needs) == expected


def test_a_short_job_still_asks_for_five_minutes_and_a_gigabyte():
    assert minutes({**COST, "seconds": 0.1}, 3.0, 1) == 5
    assert megabytes({**COST, "host_bytes": 1e6}, 1) == 1000


@pytest.fixture
def _results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    make_experiment(tmp_path / "experiments", **{"strategy: ekfac, damping": "strategy: ekfac, processes: 4, damping"})
    _load.cache_clear()


@pytest.mark.usefixtures("_results")
def test_the_needs_of_a_rule_follow_the_measurement_that_lies_in_the_results(tmp_path):
    job = _Wildcards(experiment="made", train_size="250", method="bif")
    before = needs_of("sample", "runtime")(job, 1)

    costs = make_costs(1.0, **{"sample:bif": 6000.0})
    save_json(tmp_path / "results" / "made" / COSTS_FILE, dataclasses.asdict(costs), {})

    assert before == 60
    assert needs_of("sample", "runtime")(job, 1) == 201  # twice 6,000 s and a start
    assert needs_of("sample", "mem_mb")(job, 1) == 1500
    assert needs_of("attribute", "runtime")(job, 1) == 60
    assert needs_of("report", "mem_mb")(_Wildcards(experiment="made"), 2) == 8000


@pytest.mark.usefixtures("_results")
def test_a_method_whose_work_several_processes_share_asks_for_as_many_gpus():
    gpus = [gpus_of(_Wildcards(experiment="made", method=method)) for method in ("ekfac", "kfac")]

    assert gpus == [4, 1]


class _Wildcards(dict):
    """Wildcards as Snakemake gives them: by attribute, and by key."""

    __getattr__ = dict.__getitem__

    def get(self, name: str, default: object = None) -> object:
        return dict.get(self, name, default)
