"""How tables and figures are kept: the same everywhere."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tdabench.drawing.tables import write_csv
from tdabench.storage.records import save_figure, save_text


def write_table(folder: Path, name: str, table: pd.DataFrame, *, digits: int = 6) -> None:
    """Write ``tables/NAME.csv`` of an experiment's folder."""
    write_csv(folder / "tables" / f"{name}.csv", table, digits=f"%.{digits}f")


def write_markdown(folder: Path, name: str, table: pd.DataFrame) -> str:
    """Write ``tables/NAME.md``, and return its text."""
    # A bar in a text, such as a method's reason, would begin another cell.
    escaped = table.map(lambda value: value.replace("|", "\\|") if isinstance(value, str) else value)
    text = escaped.to_markdown(index=False, disable_numparse=True)
    save_text(folder / "tables" / f"{name}.md", text + "\n")
    return text


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write ``figures/NAME.png`` and ``.pdf`` of an experiment's folder."""
    for name, figure in figures.items():
        for suffix in ("png", "pdf"):
            save_figure(folder / "figures" / f"{name}.{suffix}", figure)
