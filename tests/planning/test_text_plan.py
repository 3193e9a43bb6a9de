import dataclasses

import pytest

from tdabench.planning.jobs import Job
from tdabench.planning.text import describe_plan, format_bytes, format_seconds

JOB = Job(rule="train", what="250", count=10, seconds=120.0, host_bytes=2e9, device_bytes=0.0, disk_bytes=5e6)


def test_a_plan_tells_jobs_time_memory_and_disk():
    text = describe_plan("made", [JOB], {"split": 3}, 4.0, 2)

    assert "made: 13 jobs, 20 min of computing, about 10 min on 2 cores" in text
    assert "most memory of a job: 2.0 GB, so 4.0 GB on 2 cores; disk in the end: 50 MB" in text
    rows = [line.split() for line in text.splitlines()[5:7]]
    assert rows[0] == ["train", "250", "10", "2", "min", "20", "min", "2.0", "GB", "0", "kB", "50", "MB"]
    assert rows[1] == ["others", "split", "3", "4", "s", "12", "s", "?", "?", "0", "kB"]
    assert "about 2 min on 64 cores" in describe_plan("made", [JOB], {}, 4.0, 64)  # as long as the longest job


def test_a_job_that_was_not_measured_is_named():
    unknown = dataclasses.replace(JOB, rule="attribute", what="mine, 250", seconds=None, host_bytes=None)

    assert "Not measured, and not in the sums: attribute mine, 250" in describe_plan("made", [JOB, unknown], {}, 4.0, 2)


@pytest.mark.parametrize(
    ("value", "text"), [(5.2, "5 s"), (99.0, "99 s"), (150.0, "2 min"), (7200.0, "2.0 h"), (7.2e6, "2,000.0 h")]
)
def test_a_time_has_the_unit_that_a_person_would_choose(value, text):
    assert format_seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(500.0, "0 kB"), (2e6, "2 MB"), (3.5e9, "3.5 GB")])
def test_a_size_has_the_unit_that_a_person_would_choose(value, text):
    assert format_bytes(value) == text
