"""Every experiment that is shipped, in one plan: each job's files are made by some rule, and its command can be run."""

import collections
import dataclasses
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from places import environment

from tdabench.stages import STAGES
from tdabench.stages.command_line import _values, load_stage, make_parser

pytestmark = pytest.mark.timeout(600)
REPOSITORY = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (REPOSITORY / "experiments").glob("*.yaml"))
JOB = re.compile(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n)*)Shell command: (tdabench .*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One dry run of all experiments."""

    folder: Path
    terminal: str
    jobs: list[tuple[str, str, str]]  # rule, what is told of it, command


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Planned:
    """Plan every experiment at once, beside one that is named as a stage."""
    folder = tmp_path_factory.mktemp("shipped")
    for name in ("experiments", "profiles"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    shutil.copy(folder / "experiments/lds_digits.yaml", folder / "experiments/sweep.yaml")
    done = subprocess.run(
        ["snakemake", "--dry-run", "--printshellcmds", *NAMES],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return Planned(folder, done.stdout + done.stderr, JOB.findall(done.stdout))


def test_every_experiment_can_be_planned_and_every_rule_is_of_use(planned):
    experiments = {_experiment(text) for _, text, _ in planned.jobs}

    assert experiments == set(NAMES)
    commands = {"methods", "check", "plan", "power", *(name for name in STAGES if name.startswith("bank "))}
    assert {rule for rule, _, _ in planned.jobs} == set(STAGES) - commands


def test_an_experiment_that_is_named_as_a_stage_is_told_of_and_leaves_every_other_target(planned):
    assert planned.terminal.count("experiments/sweep.yaml has no target: a stage has its name.") == 1


def test_every_command_is_one_that_its_stage_takes_with_the_settings_that_were_planned(planned, monkeypatch):
    monkeypatch.chdir(planned.folder)
    seen = collections.Counter()

    for rule, _, command in planned.jobs:
        program, name, *arguments = shlex.split(re.split(r" 2?> | 2>&1", command)[0])
        if seen[rule] < 3:
            stage = load_stage(name)
            parsed = make_parser(name, stage).parse_args(arguments)
            assert parsed.planned
            _values(name, stage, parsed)  # refuses another hash
        assert (program, name) == ("tdabench", rule)
        seen[rule] += 1


def test_every_method_is_a_job_at_every_size_where_cost_is_asked_for_and_nothing_is_trained(planned):
    jobs = [(rule, text) for rule, text, _ in planned.jobs if _experiment(text) == "scaling_pythia"]

    expected = {"dataset": 1, "split": 1, "scale": 12, "project": 1, "report": 1}
    assert collections.Counter(rule for rule, _ in jobs) == expected
    # One run with a limit of 30 minutes; at 14m, three.
    limits = {frozenset(re.findall(r"\b(?:runtime|mem_mb)=\d+", text)) for rule, text in jobs if rule == "scale"}
    assert limits == {frozenset({"mem_mb=18180", f"runtime={minutes}"}) for minutes in (35, 95)}


def _experiment(text: str) -> str:
    return re.search(r"^    wildcards: .*\bexperiment=(\w+)", text, re.MULTILINE)[1]
