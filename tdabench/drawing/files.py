"""How tables and figures are kept: the same everywhere."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tdabench.storage.records import save_figure, save_text

# What a spreadsheet would run; a number with a sign is none.
FORMULA = re.compile(r"(?![+-][\d.]+([eE][+-]?\d+)?\Z)[=+@\t\n-]")


def write_csv(path: Path, table: pd.DataFrame, *, digits: str) -> None:
    """Write a table; a text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        digits: Format of the numbers, such as ``%.6f``.
    """
    texts = [name for name, column in table.items() if any(isinstance(value, str) for value in column)]
    inert = {name: [_make_inert(value) for value in table[name]] for name in texts}
    save_text(path, table.assign(**inert).to_csv(index=False, float_format=digits))


def _make_inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # pandas doesn't quote it, and readers end the row there
    return f"'{text}" if FORMULA.match(text) else text


def write_markdown(folder: Path, name: str, table: pd.DataFrame, note: str = "") -> str:
    """Write ``tables/NAME.md``, with a note below the table if there is one, and return its text."""
    # A bar in a text, such as a method's reason, would begin another cell.
    escaped = table.map(lambda value: value.replace("|", "\\|") if isinstance(value, str) else value)
    text = escaped.to_markdown(index=False, disable_numparse=True) + (f"\n\n{note}" if note else "")
    save_text(folder / "tables" / f"{name}.md", text + "\n")
    return text


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write ``figures/NAME.png`` and ``.pdf`` of an experiment's folder."""
    for name, figure in figures.items():
        for suffix in ("png", "pdf"):
            save_figure(folder / "figures" / f"{name}.{suffix}", figure)
