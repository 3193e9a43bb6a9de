"""What an experiment can ask, a folder each: its numbers, its tables, its figures, its words and its stage together.

A question shows itself: ``tdabench.questions.NAME.report`` has what the report needs of it, under the name ``SHOWN``.
The report imports a question only when it is asked, and only here.
"""

import importlib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdabench.drawing.section import Shown

# In the order of their sentences on the page.
QUESTIONS = ("lds", "removal", "detection", "sweep", "scaling", "tokens", "properties", "diagnostics")
# What the report itself writes of every experiment that attributes.
ALWAYS = ("lds", "properties", "diagnostics")


def load_shown(asked: Collection[str]) -> "tuple[Shown, ...]":
    """Return what the questions among these names show."""
    names = [name for name in QUESTIONS if name in asked]
    return tuple(importlib.import_module(f"tdabench.questions.{name}.report").SHOWN for name in names)
