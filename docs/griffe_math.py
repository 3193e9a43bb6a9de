"""Show the formulas of docstrings, which are written as in reStructuredText, as the site's Markdown writes them."""

import re
import textwrap
from typing import Any

import griffe

INLINE = re.compile(r":math:`([^`]+)`")
BLOCK = re.compile(r"^(?P<indent> *)\.\. math::(?P<first>.*)\n(?P<rest>(?:(?P=indent) +\S.*\n?)*)", re.MULTILINE)


class Formulas(griffe.Extension):
    """Rewrite formulas in every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite those of one object."""
        if obj.docstring:
            obj.docstring.value = INLINE.sub(r"$\1$", BLOCK.sub(_display, obj.docstring.value))


def _display(found: re.Match[str]) -> str:
    formula = f"{found['first'].strip()}\n{textwrap.dedent(found['rest'])}".strip()
    if "&" in formula:
        formula = f"\\begin{{align*}}\n{formula}\n\\end{{align*}}"
    return textwrap.indent(f"\n$$\n{formula}\n$$\n", found["indent"])
