"""Properties of the methods: the tidy table, and the paper's Table 2 in Markdown, LaTeX and on the page."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import Column
from tdabench.drawing.html import Cell, HtmlTable, make_table
from tdabench.drawing.latex import to_latex
from tdabench.drawing.section import Part, Results, Shown, Topic, plain_parts
from tdabench.drawing.style import LABELS
from tdabench.drawing.table import declare
from tdabench.experiment.read import Experiment
from tdabench.storage.records import load_json, save_text

PROPERTIES = declare("properties", "experiment method property holds measured how title")
ANSWERS = {True: "yes", False: "no", None: "not run"}
SIGNS = {"yes": "✓", "no": "✗", "not run": "—"}


def write(experiment: Experiment, folder: Path, cost: pd.DataFrame) -> str:
    """Write ``tables/properties.csv``, ``.md`` and ``.tex``."""
    found = {method: load_json(folder / "properties" / f"{method}.json") for method in experiment.methods}
    table = make_properties_table(
        {"experiment": experiment.name, "method": method, **row}
        for method, result in found.items()
        for row in result["properties"]
    )
    PROPERTIES.write(folder, table)
    save_text(folder / "tables" / "properties.md", make_properties_markdown(table))
    save_text(folder / "tables" / "properties.tex", make_properties_latex(table))
    return ""


def make_properties_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the properties table: one row a method and property; ``holds`` is yes, no or not run.

    Args:
        rows: With ``holds`` as true, false or none.
    """
    table = PROPERTIES.frame(rows)
    return table.assign(holds=[ANSWERS[None if pd.isna(holds) else bool(holds)] for holds in table["holds"]])


def titles_of(table: pd.DataFrame) -> dict[str, str]:
    """Return what people read of each property."""
    return dict(zip(table["property"], table["title"], strict=True))


def cross_properties(table: pd.DataFrame) -> pd.DataFrame:
    """Lay the table out as the paper does: a row a property, a column a method, ticks and crosses."""
    titles = titles_of(table)
    signs = table.assign(holds=table["holds"].map(SIGNS)).pivot(index="property", columns="method", values="holds")
    signs = signs.reindex(index=list(titles), columns=list(dict.fromkeys(table["method"])))
    signs = signs.set_axis([LABELS.get(method, method) for method in signs.columns], axis=1)
    signs.insert(0, "Property", list(titles.values()))
    return signs.reset_index(drop=True)


def describe_properties(table: pd.DataFrame) -> list[str]:
    """Say what counts as having each property, and why a check did not run."""
    definitions = dict(zip(table["property"], table["how"], strict=True))
    lines = [f"{title}: {definitions[key]}" for key, title in titles_of(table).items()]
    for row in table[table["holds"] == "not run"].itertuples():
        lines.append(f"Not run, {row.title} of {LABELS.get(row.method, row.method)}: {row.measured}")
    return lines


def make_properties_latex(table: pd.DataFrame) -> str:
    """Make the paper's Table 2, with the definitions in small print."""
    experiment = table["experiment"].iloc[0]
    caption = f"Properties of the methods of {experiment}, each found by running the method on made-up problems."
    notes, label = describe_properties(table), f"tab:{experiment}-properties"
    return to_latex(cross_properties(table), caption=caption, label=label, notes=notes, upright=True)


def make_properties_markdown(table: pd.DataFrame) -> str:
    """Make the paper's Table 2 in Markdown, with the definitions under it."""
    crossed = cross_properties(table).to_markdown(index=False, disable_numparse=True)
    return "\n".join([crossed, "", *(f"- {line}" for line in describe_properties(table)), ""])


def _show(results: Results, topic: Topic, columns: Mapping[str, Column]) -> Iterator[Part]:
    table = results.tables.get("properties")
    if table is None or table.empty:
        yield from plain_parts(results, topic, columns)
        return
    yield Part(title="Properties", table=_signs(results, table, topic.heading))
    measured = make_table(
        table[["property", "method", "holds", "measured"]], results.styles, f"{topic.heading}: what was measured"
    )
    yield Part(title="What was measured", table=measured, is_open=False)


def _signs(results: Results, table: pd.DataFrame, caption: str) -> HtmlTable:
    """Lay properties out as the paper does, each sign with what was measured beside the pointer."""
    methods = list(dict.fromkeys(table["method"]))
    found = {(row["property"], row["method"]): row for row in table.to_dict("records")}
    lines = [
        (Cell(text=title, order=title), *(_sign(found.get((key, method))) for method in methods))
        for key, title in titles_of(table).items()
    ]
    definitions = dict(zip(table["title"], table["how"], strict=True))
    return HtmlTable(
        caption=caption,
        headers=("Property", *map(results.label, methods)),
        rows=tuple(lines),
        note="✓ has it, ✗ has it not, — the check did not run.",
        footnotes=tuple(f"{title}: {how}" for title, how in definitions.items()),
    )


def _sign(row: Mapping[str, Any] | None) -> Cell:
    holds = "not run" if row is None else row["holds"]
    measured = "" if row is None or pd.isna(row["measured"]) else str(row["measured"])
    return Cell(text=SIGNS[holds], order=holds, spoken=holds, title=f"{holds}: {measured}" if measured else holds)


SHOWN = Shown(package=__package__, tables=(PROPERTIES,), parts={"properties": _show}, write=write)
