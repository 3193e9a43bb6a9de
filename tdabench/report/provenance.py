"""Where the numbers come from: settings as YAML, and commits, versions, devices and dates of every job."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tdabench.experiment.yaml_file import write_yaml


def describe_settings(record: Mapping[str, Any]) -> str:
    """Write the resolved settings of an experiment as YAML, defaults included."""
    return write_yaml(record["experiment"])


def describe_origin(record: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """List where and with what the jobs ran: a name and its different values, the commonest first."""
    jobs = list(record["jobs"].values())
    facts = [
        ("Jobs", [f"{len(jobs):,} with a record (scores and banks)"]),
        ("Commit of tdabench", _counted(_commit(job) for job in jobs)),
        ("Report made at", [_commit(record["record"])]),
        ("Date", _dates(jobs)),
        ("Device", _counted(job.get("device") for job in jobs)),
        ("Processor", _counted(job.get("processor") for job in jobs)),
        ("Platform", _counted(job.get("platform") for job in jobs)),
        ("Python", _counted(job.get("python") for job in jobs)),
    ]
    packages = list(dict.fromkeys(name for job in jobs for name in job.get("versions", {})))
    facts += [(name, _counted(job.get("versions", {}).get(name) for job in jobs)) for name in packages]
    return [(name, values) for name, values in facts if values]


def _counted(values: Iterable[str | None]) -> list[str]:
    """Return the different values, the commonest first, with their numbers of jobs if there are several."""
    counts = Counter(value for value in values if value)
    several = len(counts) > 1
    return [f"{value} ({count:,} jobs)" if several else value for value, count in counts.most_common()]


def _commit(record: Mapping[str, Any]) -> str:
    if not record.get("commit"):
        return "unknown (not run from the repository)"
    return f"{record['commit'][:12]}{', with changes that were not committed' if record.get('dirty') else ''}"


def _dates(jobs: Iterable[Mapping[str, Any]]) -> list[str]:
    dates = sorted(job["date"] for job in jobs if job.get("date"))
    if not dates:
        return []
    return [dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"]
