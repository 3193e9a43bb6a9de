"""The page: everything that one looks at in a single file, which needs no network and no other file."""

import base64
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.html import Styles, styles_of
from tdabench.drawing.template import render_template
from tdabench.experiment.read import Experiment
from tdabench.report.gallery import Gallery, load_gallery
from tdabench.report.provenance import describe_origin, describe_settings
from tdabench.report.sections import make_sections
from tdabench.report.summary import list_warnings, summarise
from tdabench.storage.records import load_json, load_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """What a page is made of.

    Attributes:
        tables: Tables by the name of their file; ``repeat`` is text.
        figures: PNG files by their name.
        record: Content of ``tables/record.json``.
        confidence: Of the intervals in the tables, in (0, 1).
        token_pages: Links to the pages of tokens, by what they are called.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, bytes]
    record: Mapping[str, Any]
    confidence: float
    gallery: Gallery | None = None
    token_pages: dict[str, str] = dataclasses.field(default_factory=dict)


def load_material(experiment: Experiment, folder: Path) -> Material:
    """Read every table and every PNG figure of an experiment's folder, its record, and images for the gallery."""
    return Material(
        name=experiment.name,
        tables={path.stem: load_table(path) for path in sorted((folder / "tables").glob("*.csv"))},
        figures={path.stem: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))},
        record=load_json(folder / "tables" / "record.json"),
        confidence=experiment.evaluation.confidence,
        gallery=load_gallery(experiment, folder) if experiment.is_scored else None,
        token_pages=_token_pages(experiment),
    )


def _token_pages(experiment: Experiment) -> dict[str, str]:
    """Return the links to the pages of tokens, by what they are called."""
    cells = itertools.product(
        range(experiment.repeats), experiment.data.train_sizes if experiment.token_methods else []
    )
    return {f"Tokens, n = {size:,}, repeat {repeat}": f"tokens/{repeat}-{size}/index.html" for repeat, size in cells}


def render_page(material: Material) -> str:
    """Make the page; every text from tables and records is escaped."""
    styles = styles_of(*material.tables.values())
    return render_template(
        "report/templates/page.html.jinja",
        styles=["report/templates/page.css"],
        script="report/templates/page.js",
        name=material.name,
        leads=summarise(material.tables, styles, material.confidence),
        warnings=list_warnings(material.tables, styles),
        sections=make_sections(material.tables, material.figures, styles, material.confidence),
        gallery=material.gallery,
        token_pages=material.token_pages,
        sheet=base64.b64encode(material.gallery.sheet).decode() if material.gallery else "",
        label_of=lambda method: _label(method, styles),
        colour_of=lambda method: styles.get(method, {}).get("color"),
        settings=describe_settings(material.record),
        origin=describe_origin(material.record),
    )


def _label(method: str, styles: Styles) -> str:
    return styles.get(method, {}).get("label", method)
