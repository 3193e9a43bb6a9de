"""The README and the pages of docs/: their examples run, their numbers are the tables', and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tdabench import cli
from tdabench.experiment.components import Component, instantiate
from tdabench.experiment.read import load_experiment
from tdabench.testing import check_attributor

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}  # fmt: skip
README = PAGES["README.md"]
EXPERIMENTS = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
every_page = pytest.mark.parametrize("page", PAGES)

# An estimate with its interval, or with its standard error.
INTERVAL = re.compile(r"(-?\d\.\d+) \((-?\d\.\d+) to (-?\d\.\d+)[);]")
ERROR = re.compile(r"(-?\d\.\d+) ± (\d\.\d+)")
# Columns of the tables that stand together: an estimate and its bounds, or its standard error.
PAIRS = ("", "bootstrap_", "ceiling_", "agreement_", "oracle_", "share_", "rank_", "overlap_")
BOUNDS = [(f"{pair}low", f"{pair}high") for pair in PAIRS]


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def _prose(page: str) -> str:
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """The method of the README, as its readers would make it: a file and a line of YAML."""
    (tmp_path / "mine.py").write_text(_blocks("README.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    entry = next(found["mine"] for found in map(yaml.safe_load, _blocks("README.md", "yaml")) if "mine" in found)
    yield Component(path=entry.pop("attributor"), settings=entry)
    sys.modules.pop("mine", None)


def test_the_method_in_the_readme_passes_the_public_contract(plug_in):
    check_attributor(instantiate(plug_in, "methods.mine"))


def test_the_method_in_the_readme_is_short_and_the_guide_has_the_same():
    lines = [line for line in _blocks("README.md", "python")[0].splitlines() if line.strip()]

    assert len(lines) <= 12
    assert _blocks("docs/guides/method.md", "python")[0] == _blocks("README.md", "python")[0]


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 120


def test_every_page_of_the_docs_has_a_place_in_the_site():
    placed = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert sorted(f"docs/{path}" for path in placed) == sorted(set(PAGES) - {"README.md"})


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]

    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert built.returncode == 0, built.stderr


def test_the_sections_for_text_in_the_guide_make_an_experiment(tmp_path):
    sections = next(found for found in map(yaml.safe_load, _blocks("docs/guides/text.md", "yaml")) if "tokens" in found)
    whole = yaml.safe_load((ROOT / "experiments" / "lds_text.yaml").read_text(encoding="utf-8"))
    data = {**whole["data"], **sections["data"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **sections, "data": data}), encoding="utf-8")

    experiment = load_experiment(tmp_path / "mine.yaml")

    instantiate(experiment.data.component, "data.options")
    instantiate(experiment.model, "model")


def test_the_whole_file_in_the_reference_is_an_experiment(tmp_path):
    (tmp_path / "mine.yaml").write_text(_blocks("docs/reference/experiment-file.md", "yaml")[0], encoding="utf-8")

    experiment = load_experiment(tmp_path / "mine.yaml")

    for name, component in experiment.methods.items():
        instantiate(component, f"methods.{name}")


@pytest.mark.parametrize("section", ["sweeps", "removal", "tokens", "scaling", "wrong-labels"])
def test_the_section_in_a_guide_is_read_by_an_experiment(section, tmp_path):
    added = yaml.safe_load(_blocks(f"docs/guides/{section}.md", "yaml")[0])
    base = {"sweeps": "lds_cifar10", "tokens": "lds_text", "scaling": "scaling_pythia"}.get(section, "lds_digits")
    whole = yaml.safe_load((ROOT / "experiments" / f"{base}.yaml").read_text(encoding="utf-8"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **added}), encoding="utf-8")

    load_experiment(tmp_path / "mine.yaml")


@every_page
def test_every_block_of_yaml_is_a_mapping(page):
    for block in _blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict), block


@every_page
def test_every_block_of_python_compiles_and_those_that_are_marked_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in _blocks(page, "python"):
        compile(block, page, "exec")
    for block in re.findall(r"^<!-- runnable -->\n```python\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE):
        exec(block, {"__name__": "example"})


@every_page
def test_every_experiment_that_a_page_runs_exists(page):
    names = set()
    for words in re.findall(r"snakemake ([^`\n|]*)", PAGES[page]):
        names |= set(re.findall(r"(?<![\w/.-])[a-z]+_[a-z0-9_]+(?![\w=/:.])", words))

    assert names - EXPERIMENTS - {"my_digits"} == set()


@every_page
def test_every_experiment_whose_results_a_page_names_exists(page):
    named = set(re.findall(r"results/(\w+)/(?:tables|figures|tokens|report)", PAGES[page])) - {"NAME"}

    assert named <= EXPERIMENTS


@every_page
def test_every_command_that_a_page_names_exists(page, capsys):
    command = r"tdabench ([a-z]+(?: (?:export|import|show|score)\b)?)"
    named = [name for block in _blocks(page, "sh") for name in re.findall(rf"^{command}", block, flags=re.MULTILINE)]
    named += re.findall(rf"`{command}[^`]*`", _prose(page))

    for command in sorted(set(named)):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split(), "--help"])
        assert ended.value.code == 0, command
    capsys.readouterr()


@every_page
def test_every_script_and_import_path_that_a_page_names_exists(page):
    for script in re.findall(r"(?:python|pytest) (tests/[\w/]+\.py)", PAGES[page]):
        assert (ROOT / script).is_file(), script
    for module, _, name in re.findall(r"\b(tdabench(\.\w+)+):(\w+)", PAGES[page]):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert re.search(rf"^class {name}\b", source, flags=re.MULTILINE), f"{module}:{name}"


@every_page
def test_every_local_link_and_figure_of_a_page_exists(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _prose(page)):
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert found.is_file(), target
        if anchor and found.suffix == ".md":
            assert anchor in _anchors(found.relative_to(ROOT).as_posix()), target


def _tables(page: str) -> list[pd.DataFrame]:
    """Return every table of the experiments that a page names."""
    named = EXPERIMENTS & set(re.findall(r"\w+", PAGES[page]))
    return [pd.read_csv(path) for name in sorted(named) for path in (ROOT / "results" / name / "tables").glob("*.csv")]


def _estimates(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> list[tuple[float, ...]]:
    """Return each number of the tables with what stands in the columns beside it, and the same with the other sign."""
    found = set()
    for table in tables:
        if set(columns) <= set(table):
            for _, numbers in table.drop(columns=list(columns)).select_dtypes("number").items():
                found |= set(zip(numbers, *(table[column] for column in columns), strict=True))
    return [*found, *((-value, *(-bound for bound in reversed(bounds))) for value, *bounds in found)]


def _stands(printed: tuple[str, ...], found: list[tuple[float, ...]]) -> bool:
    """Say whether printed numbers are a found row, each rounded to the places that are printed."""
    places = [len(text.partition(".")[2]) for text in printed]
    wanted = [float(text) for text in printed]
    slack = [0.5000001 * 10**-place for place in places]
    return any(all(abs(a - b) <= s for a, b, s in zip(row, wanted, slack, strict=True)) for row in found)


@every_page
def test_every_number_with_an_interval_stands_in_a_table_of_an_experiment_that_the_page_names(page):
    text = _prose(page).replace("−", "-")
    printed = {"interval": set(INTERVAL.findall(text)), "error": set(ERROR.findall(text))}
    if not any(printed.values()):
        return
    tables = _tables(page)
    bounded = [row for columns in BOUNDS for row in _estimates(tables, columns)]
    errors = _estimates(tables, ("standard_error",))

    assert [numbers for numbers in printed["interval"] if not _stands(numbers, bounded)] == []
    assert [numbers for numbers in printed["error"] if not _stands(numbers, errors)] == []


@pytest.mark.parametrize("page", ["README.md", "docs/results/cifar10.md"])
def test_the_headline_table_is_the_one_that_the_workflow_wrote(page):
    table = (ROOT / "results" / "lds_cifar10" / "tables" / "lds.md").read_text(encoding="utf-8").strip()

    assert table in PAGES[page]
