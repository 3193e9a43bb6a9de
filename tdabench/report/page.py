"""The page: everything that one looks at in a single file, which needs no network and no other file."""

import base64
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.section import Results
from tdabench.drawing.style import Styles, label_of
from tdabench.drawing.table import count_repeats
from tdabench.drawing.template import render_template
from tdabench.drawing.words import drop_warning
from tdabench.experiment.read import Experiment
from tdabench.questions import QUESTIONS, load_shown
from tdabench.report import costs
from tdabench.report.gallery import Gallery, load_gallery
from tdabench.report.provenance import describe_origin, describe_settings
from tdabench.report.sections import make_sections
from tdabench.storage.records import load_json, load_table

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """What a page is made of.

    Attributes:
        tables: Tables by the name of their file; ``repeat`` is text.
        figures: PNG files by their name.
        record: Content of ``tables/record.json``.
        confidence: Of the intervals in the tables, in (0, 1).
        links: Other pages, by what they are called.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, bytes]
    record: Mapping[str, Any]
    confidence: float
    gallery: Gallery | None = None
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)


def load_material(experiment: Experiment, folder: Path) -> Material:
    """Read every table and every PNG figure of an experiment's folder, its record, and images for the gallery."""
    asked = [name for name in QUESTIONS if getattr(experiment, name, None)]
    return Material(
        name=experiment.name,
        tables={path.stem: load_table(path) for path in sorted((folder / "tables").glob("*.csv"))},
        figures={path.stem: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))},
        record=load_json(folder / "tables" / "record.json"),
        confidence=experiment.evaluation.confidence,
        gallery=load_gallery(experiment, folder) if experiment.is_scored else None,
        links={name: link for shown in load_shown(asked) for name, link in shown.links(experiment).items()},
    )


def render_page(material: Material) -> str:
    """Make the page; every text from tables and records is escaped."""
    results = Results(
        tables=material.tables,
        figures=_drop_repetitions(material),
        confidence=material.confidence,
        methods=material.record.get("experiment", {}).get("methods", {}),
    )
    questions = (*load_shown(["lds", *material.tables]), costs.SHOWN)
    return render_template(
        "report/templates/page.html.jinja",
        styles=["report/templates/page.css"],
        script="report/templates/page.js",
        name=material.name,
        leads=[sentence for shown in questions for sentence in shown.lead(results)],
        warnings=list_warnings(material.tables, results.styles),
        sections=make_sections(results, questions),
        gallery=material.gallery,
        token_pages=material.links,
        sheet=base64.b64encode(material.gallery.sheet).decode() if material.gallery else "",
        label_of=results.label,
        colour_of=lambda method: results.styles.get(method, {}).get("color"),
        settings=describe_settings(material.record),
        origin=describe_origin(material.record),
    )


def _drop_repetitions(material: Material) -> Mapping[str, bytes]:
    """Leave out the figure of single repeats where there is only one."""
    lds = material.tables.get("lds")
    alone = lds is not None and count_repeats(lds) == 1
    return {name: figure for name, figure in material.figures.items() if not (alone and name == "lds_by_repeat")}


def list_warnings(tables: Mapping[str, pd.DataFrame], styles: Styles) -> list[str]:
    """List every status that is not ``ok``, and queries left out, with where it was.

    Sentences of a method that differ in their numbers alone are one, with the numbers' range.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for table in tables.values():
        keys = [name for name in ("repeat", "train_size") if name in table.columns]
        for row in _one_by_one(table).to_dict("records"):
            where = ", ".join(f"{'n =' if key == 'train_size' else 'repeat'} {row[key]}" for key in keys)
            for text in _complaints(row):
                method = label_of(str(row.get("method", "")), styles)
                found.setdefault((method, NUMBER.sub("#", text)), {}).setdefault(where, text)
    lines = []
    for (method, _), texts in found.items():
        where = "; ".join(place for place in texts if place)
        lines.append(f"{method or 'The experiment'}{f' ({where})' if where else ''}: {_merge(list(texts.values()))}")
    return lines


def _merge(texts: list[str]) -> str:
    """Make one of texts that differ in their numbers alone."""
    columns = iter(zip(*(NUMBER.findall(text) for text in texts), strict=True))

    def span(match: re.Match[str]) -> str:
        numbers = sorted(set(next(columns)), key=lambda text: float(text.replace(",", "")))
        return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

    return NUMBER.sub(span, texts[0])


def _complaints(row: dict[str, Any]) -> list[str]:
    status, warning, left_out = (
        None if pd.isna(row.get(name)) else row[name] for name in ("status", "warning", "nan_queries")
    )
    told = drop_warning(str(status or "ok"))
    found = [] if told == "ok" else [told]
    found += re.split(r"(?<=\.) (?=[A-Z])", str(warning)) if warning else []  # of the diagnostics
    if left_out and left_out > 0:
        found.append(f"{int(left_out)} of {int(row['queries'])} queries have a constant score or loss and are left out")
    return found


def _one_by_one(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single repeats, or those over repeats if there are no others."""
    if "repeat" not in table.columns:
        return table
    single = table[table["repeat"] != "all"]
    return single if len(single) else table
