"""The examples in the docstrings of the package are run, and its public names are what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import tdabench

PACKAGE = Path(tdabench.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if re.search(r"^ +>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name, monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)

    results = doctest.testmod(importlib.import_module(name))

    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_name_is_there_and_others_are_refused_with_the_list():
    assert all(getattr(tdabench, name).__name__ == name for name in tdabench.__all__)
    assert set(tdabench.__all__) <= set(dir(tdabench))
    with pytest.raises(AttributeError, match="tdabench has no nothing; its public names are Attributor"):
        _ = tdabench.nothing
