from made_up import make_record

from tdabench.experiment.yaml_file import read_yaml
from tdabench.report.provenance import describe_origin, describe_settings


def test_settings_can_be_read_back_as_yaml():
    record = make_record()

    assert read_yaml(describe_settings(record)) == record["experiment"]


def test_where_jobs_differ_each_value_has_their_number():
    facts = dict(describe_origin(make_record()))

    assert facts["Commit of tdabench"] == [
        f"{'a' * 12} (1 jobs)",
        f"{'b' * 12}, with changes that were not committed (1 jobs)",
    ]
    assert facts["Device"] == ["cpu, 1 thread(s)"]
    assert facts["torch"] == ["2.11"]


def test_dates_are_a_range_and_left_out_where_there_are_none():
    dated = dict(describe_origin(make_record()))
    undated = make_record()
    for job in undated["jobs"].values():
        del job["date"]

    assert dated["Date"] == ["2026-01-02T03:04:05+00:00 to 2026-02-03T04:05:06+00:00"]
    assert "Date" not in dict(describe_origin(undated))


def test_an_unknown_commit_is_called_unknown():
    assert dict(describe_origin(make_record()))["Report made at"] == ["unknown (not run from the repository)"]
