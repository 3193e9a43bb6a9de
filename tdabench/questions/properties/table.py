"""Properties of the methods: the tidy table, and the paper's Table 2."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tdabench.drawing.latex import to_latex
from tdabench.report.figures import LABELS

PROPERTY_COLUMNS = ("experiment", "method", "property", "holds", "measured", "how", "title")
ANSWERS = {True: "yes", False: "no", None: "not run"}
SIGNS = {"yes": "✓", "no": "✗", "not run": "—"}


def make_properties_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the properties table: one row a method and property; ``holds`` is yes, no or not run.

    Args:
        rows: With ``holds`` as true, false or none.
    """
    table = pd.DataFrame(list(rows), columns=list(PROPERTY_COLUMNS))
    return table.assign(holds=[ANSWERS[None if pd.isna(holds) else bool(holds)] for holds in table["holds"]])


def cross_properties(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Lay the table out as the paper does: a row a property, a column a method, ticks and crosses.

    Args:
        titles: By property, what people read.
    """
    signs = table.assign(holds=table["holds"].map(SIGNS)).pivot(index="property", columns="method", values="holds")
    signs = signs.reindex(index=list(titles), columns=list(dict.fromkeys(table["method"])))
    signs = signs.set_axis([LABELS.get(method, method) for method in signs.columns], axis=1)
    signs.insert(0, "Property", list(titles.values()))
    return signs.reset_index(drop=True)


def describe_properties(table: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """Say what counts as having each property, and why a check did not run."""
    definitions = dict(zip(table["property"], table["how"], strict=True))
    lines = [f"{title}: {definitions[key]}" for key, title in titles.items()]
    for row in table[table["holds"] == "not run"].itertuples():
        lines.append(f"Not run, {titles[row.property]} of {LABELS.get(row.method, row.method)}: {row.measured}")
    return lines


def make_properties_latex(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Make the paper's Table 2, with the definitions in small print."""
    experiment = table["experiment"].iloc[0]
    caption = f"Properties of the methods of {experiment}, each found by running the method on made-up problems."
    notes: Sequence[str] = describe_properties(table, titles)
    label = f"tab:{experiment}-properties"
    return to_latex(cross_properties(table, titles), caption=caption, label=label, notes=notes, upright=True)


def make_properties_markdown(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Make the paper's Table 2 in Markdown, with the definitions under it."""
    crossed = cross_properties(table, titles).to_markdown(index=False, disable_numparse=True)
    return "\n".join([crossed, "", *(f"- {line}" for line in describe_properties(table, titles)), ""])
