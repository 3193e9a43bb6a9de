import re
import sys
from pathlib import Path

import pytest
import yaml

from tdabench.experiment.components import Component, instantiate
from tdabench.experiment.read import load_experiment
from tdabench.testing import check_attributor

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """The method of the README, as its readers would make it: a file and a line of YAML."""
    (tmp_path / "mine.py").write_text(_blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    entry = next(content["mine"] for content in map(yaml.safe_load, _blocks("yaml")) if "mine" in content)
    yield Component(path=entry.pop("attributor"), settings=entry)
    sys.modules.pop("mine", None)


def test_the_method_in_the_readme_passes_the_public_contract(plug_in):
    check_attributor(instantiate(plug_in, "methods.mine"))


def test_the_sections_for_text_in_the_readme_make_an_experiment(tmp_path):
    sections = next(content for content in map(yaml.safe_load, _blocks("yaml")) if "tokens" in content)
    whole = yaml.safe_load((ROOT / "experiments" / "lds_text.yaml").read_text(encoding="utf-8"))
    data = {**whole["data"], **sections["data"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **sections, "data": data}), encoding="utf-8")

    experiment = load_experiment(tmp_path / "mine.yaml")

    instantiate(experiment.data.component, "data.options")
    instantiate(experiment.model, "model")


def test_the_method_in_the_readme_is_as_short_as_it_is_said_to_be():
    lines = [line for line in _blocks("python")[0].splitlines() if line.strip()]

    assert len(lines) <= 12


def test_every_experiment_named_in_the_readme_exists():
    named = set(re.findall(r"snakemake [^`\n]*?\b(lds_\w+)", README))

    assert {"lds_digits", "lds_cifar10", "lds_cifar10_paper"} <= named
    for name in named:
        load_experiment(ROOT / "experiments" / f"{name}.yaml")


def test_every_local_link_and_figure_of_the_readme_exists():
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\((?!http)([^)]+)\)", prose)

    assert [target for target in targets if not (ROOT / target).exists()] == []
