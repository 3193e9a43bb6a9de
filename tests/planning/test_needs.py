import dataclasses

import pytest
from made_costs import make_costs, make_experiment
from snakemake.iocontainers import Wildcards

from tdabench.planning.costs import COSTS_FILE
from tdabench.planning.needs import _load, gpus_of, megabytes, minutes, needs_of
from tdabench.storage.records import save_json

COST = {"seconds": 1200.0, "host_bytes": 4e9, "device_bytes": 0.0, "disk_bytes": 0.0}


@pytest.mark.parametrize(("attempt", "expected"), [(1, 41), (2, 82), (3, 164)])
def test_a_job_asks_for_twice_its_measured_time_and_twice_that_at_each_retry(attempt, expected):
    assert minutes(COST, 6.0, attempt) == expected


@pytest.mark.parametrize(("attempt", "expected"), [(1, 6000), (2, 12000)])
def test_a_job_asks_for_half_again_its_measured_memory_and_twice_that_at_each_retry(attempt, expected):
    assert megabytes(COST, attempt) == expected


def test_a_job_that_was_not_measured_asks_for_an_hour_and_4_gb_and_more_at_each_retry():
    assert [minutes(None, 3.0, attempt) for attempt in (1, 2)] == [60, 120]
    assert [megabytes(None, attempt) for attempt in (1, 2)] == [4000, 8000]


def test_a_short_job_still_asks_for_five_minutes_and_a_gigabyte():
    assert minutes({**COST, "seconds": 0.1}, 3.0, 1) == 5
    assert megabytes({**COST, "host_bytes": 1e6}, 1) == 1000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with the experiment ``made``, one of whose methods is shared by four processes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    make_experiment(tmp_path / "experiments", **{"strategy: ekfac, damping": "strategy: ekfac, processes: 4, damping"})
    _load.cache_clear()
    return tmp_path


def test_the_needs_of_a_rule_follow_the_measurement_that_lies_in_the_results(here):
    job, costs = {"train_size": "250", "method": "bif"}, make_costs(1.0, **{"sample:bif": 6000.0, "evaluate": 600.0})
    before = _asked("sample", **job)

    save_json(here / "results" / "made" / COSTS_FILE, dataclasses.asdict(costs), {})

    assert before == (60, 4000)
    assert _asked("sample", **job) == (201, 1500)  # twice 6,000 s and a start
    assert _asked("attribute", **job)[0] == 60  # not measured
    assert _asked("judge", train_size="250")[0] == 181  # nine methods of 600 s each
    assert _asked("report", attempt=2) == (120, 8000)


def test_a_method_whose_work_several_processes_share_asks_for_as_many_gpus(here):
    assert [gpus_of(Wildcards(fromdict={"experiment": "made", "method": one})) for one in ("ekfac", "kfac")] == [4, 1]


def _asked(rule: str, attempt: int = 1, **wildcards: str) -> tuple[int, int]:
    needs, job = needs_of(rule), Wildcards(fromdict={"experiment": "made", **wildcards})
    return needs["runtime"](job, attempt), needs["mem_mb"](job, attempt)
