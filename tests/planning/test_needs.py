import dataclasses

import pytest
from made_costs import make_costs, make_experiment
from snakemake.iocontainers import Wildcards

from tdabench.planning.costs import COSTS_FILE
from tdabench.planning.needs import _load, gpus_of, megabytes, minutes, needs_of
from tdabench.storage.records import save_json

COST = {"seconds": 1200.0, "host_bytes": 4e9, "device_bytes": 0.0, "disk_bytes": 0.0}


@pytest.mark.parametrize(
    ("cost", "start", "attempt", "expected"),
    [
        (COST, 6.0, 1, (41, 6000)),  # twice the measured time, half again the memory
        (COST, 6.0, 2, (82, 12_000)),
        (COST, 6.0, 3, (164, 24_000)),
        (None, 3.0, 1, (60, 4000)),  # it was not measured
        (None, 3.0, 2, (120, 8000)),
        ({**COST, "seconds": 0.1, "host_bytes": 1e6}, 3.0, 1, (5, 1000)),  # the least
    ],
)
def test_a_job_asks_for_more_than_was_measured_and_for_twice_that_at_each_retry(cost, start, attempt, expected):
    assert (minutes(cost, start, attempt), megabytes(cost, attempt)) == expected


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
