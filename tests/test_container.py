"""The recipe of the container, as far as it can be checked without building it."""

import tomllib
from pathlib import Path

from tdabench import cli

REPOSITORY = Path(__file__).parents[1]
RECIPE = (REPOSITORY / "profiles" / "container.def").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = ".ci/constraints.txt"


def _section(name: str) -> list[str]:
    """Return the lines of a section, without comments."""
    body = RECIPE.split(f"\n%{name}\n")[1].split("\n%")[0]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_what_the_installation_needs_is_copied_line_by_line():
    # Apptainer ignores what stands behind the second word of a line.
    pairs = [line.split() for line in _section("files")]

    assert all(len(pair) == 2 for pair in pairs), pairs
    assert all((REPOSITORY / source).exists() for source, _ in pairs)
    assert all(destination == f"/opt/tdabench/{source}" for source, destination in pairs)
    needed = {"pyproject.toml", "tdabench", CONSTRAINTS, PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= {source for source, _ in pairs}
    assert f"-c /opt/tdabench/{CONSTRAINTS} /opt/tdabench" in " ".join(_section("post"))


def test_its_python_is_one_that_the_project_supports():
    version = RECIPE.split("\nFrom: python:")[1].split("-")[0]
    lowest = PROJECT["requires-python"].removeprefix(">=")

    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_its_test_runs_a_command_that_exists():
    command, *arguments = _section("test")[0].split()

    assert command in PROJECT["scripts"]
    assert cli.main(arguments) == 0
