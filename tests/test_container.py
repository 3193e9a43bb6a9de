"""The recipe of the container, as far as it can be checked without building it."""

import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
RECIPE = (REPOSITORY / "profiles" / "container.def").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _section(name: str) -> list[str]:
    """Return the lines of a section, without comments."""
    body = RECIPE.split(f"\n%{name}\n")[1].split("\n%")[0]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_every_line_of_files_has_one_source_that_exists_and_one_destination_of_its_name():
    # Apptainer ignores what stands behind the second word of a line.
    pairs = [line.split() for line in _section("files")]

    assert all(len(pair) == 2 for pair in pairs), pairs
    assert all((REPOSITORY / source).exists() for source, _ in pairs)
    assert all(destination == f"/opt/tdabench/{source}" for source, destination in pairs)


def test_what_the_installation_needs_is_copied():
    copied = {line.split()[0] for line in _section("files")}

    assert copied >= {"pyproject.toml", "tdabench", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]}
    assert any(
        "pip install" in line and "-c /opt/tdabench/constraints.txt /opt/tdabench" in line for line in _section("post")
    )


def test_its_python_is_one_that_the_project_supports():
    version = RECIPE.split("\nFrom: python:")[1].split("-")[0]
    lowest = PROJECT["requires-python"].removeprefix(">=")

    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_its_test_runs_a_command_that_exists():
    command, *arguments = _section("test")[0].split()
    assert command in PROJECT["scripts"]

    code = f"import sys; from tdabench.cli import main; sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_beside_the_container_planning_needs_no_more_than_the_readme_says():
    # The Snakefile is read outside of it, with the tdabench of the working folder.
    code = (
        "import sys; before = set(sys.modules); import tdabench.experiment.read; new = set(sys.modules) - before;"
        " files = {name.split('.')[0] for name in new if getattr(sys.modules[name], '__file__', None)};"
        " print(*(files - sys.stdlib_module_names))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)

    # What pydantic brings has names of its own.
    brought = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    extensions = {name for name in done.stdout.split() if name.startswith("_")}  # of Python itself, on some systems
    assert set(done.stdout.split()) - brought - extensions == {"tdabench", "pydantic", "ruamel"}
