"""What a page must be: safe, whole, small and readable."""

import base64
import dataclasses
import itertools
import re
import tomllib
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from made_up import (
    FIGURES,
    METHODS,
    make_cost,
    make_gallery,
    make_lds,
    make_material,
    make_pairs,
    make_record,
    make_tables,
)
from matplotlib.figure import Figure
from parsed import Parsed, page

from tdabench.report.gallery import Gallery, Neighbours, Tile
from tdabench.report.page import load_material, render_page
from tdabench.storage.records import save_figure, save_json, save_tensors

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "tdabench" / "report"
HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>{{ 7*7 }}</table>&amp;</style>"""


@pytest.mark.parametrize("where", ["method", "status", "experiment", "column", "settings", "record", "gallery"])
def test_hostile_text_is_shown_and_never_markup(where):
    material = make_material()
    tables, record, changes = dict(material.tables), dict(material.record), {}
    if where in ("method", "status"):
        lds = tables["lds"]
        tables["lds"] = lds.assign(**{where: lds[where].where(lds["method"] != "bif", HOSTILE)})
    elif where == "column":
        tables["extra"] = pd.DataFrame({HOSTILE: [HOSTILE]})
    elif where == "experiment":
        changes["name"] = HOSTILE
    elif where == "settings":
        record["experiment"] = {HOSTILE: HOSTILE}
    elif where == "record":
        record["jobs"] = {HOSTILE: {**record["jobs"]["0/100/scores/bif.safetensors"], "processor": HOSTILE}}
    else:
        changes["gallery"] = make_gallery_with(HOSTILE)

    parsed = page(tables=tables, record=record, **changes)

    assert Counter(tag for tag, *_ in parsed.elements)["script"] == 1
    assert not [attributes for _, attributes, _ in parsed.elements if "onerror" in attributes]
    assert not [attributes for tag, attributes, _ in parsed.elements if tag == "img" and attributes["src"] == "x"]
    assert "alert(1)" in parsed.texts("body")[0]


# Of a few fixed words, by which the page chooses its own sentences.
OUR_WORDS = {"repeat", "detector", "property", "holds", "choice", "source"}
TEXT_COLUMNS = [
    (name, column)
    for name, table in make_tables().items()
    for column in table.columns
    if column not in OUR_WORDS and not pd.api.types.is_numeric_dtype(table[column])
]


def test_there_are_texts_of_others_in_many_tables():
    assert {("lds", "status"), ("diagnostics", "warning"), ("properties", "measured"), ("sweep", "point")} <= {
        *TEXT_COLUMNS
    }


@pytest.mark.parametrize("name", sorted({name for name, _ in TEXT_COLUMNS}))
def test_hostile_text_in_any_column_of_any_table_is_never_markup(name):
    tables = make_tables()
    plain = page(tables=tables)

    for column in [column for table, column in TEXT_COLUMNS if table == name]:
        hostile = page(tables=tables | {name: tables[name].assign(**{column: HOSTILE})})

        assert {tag for tag, *_ in hostile.elements} <= {tag for tag, *_ in plain.elements}, column
        assert {key for _, keys, _ in hostile.elements for key in keys} <= ATTRIBUTES, column
        assert len(hostile.all("script")) == len(hostile.all("title")) == 1, column


# All that the template has; none runs anything, and only a figure's source and a link lead anywhere.
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "rel", "href", "class", "id", "aria-label", "aria-labelledby",
    "aria-hidden", "role", "tabindex", "style", "scope", "data-order", "title", "src", "width", "height", "alt", "open",
    "colspan",
}  # fmt: skip


@pytest.mark.parametrize("where", ["figure", "table", "reason", "tile", "score", "commit"])
def test_hostile_names_of_files_reasons_labels_and_commits_are_never_markup(where):
    material, gallery = make_material(), make_gallery()
    query = gallery.queries[0]
    tile = dataclasses.replace(query.tile, description=HOSTILE, score=HOSTILE)
    changed = {
        "reason": Neighbours(method=HOSTILE, reason=HOSTILE),
        "tile": Neighbours(method="bif", helpful=(tile,), harmful=(tile,)),
        "score": Neighbours(method=HOSTILE, helpful=(tile,)),
    }
    changes = {
        "figure": {"figures": {**material.figures, HOSTILE: material.figures["lds"]}},
        "table": {"tables": {**material.tables, HOSTILE: material.tables["lds"]}},
        "commit": {"record": make_record(commit=HOSTILE, device=HOSTILE, python=HOSTILE, versions={HOSTILE: HOSTILE})},
    }
    if where in changed:
        queries = (dataclasses.replace(query, neighbours=(changed[where],)),)
        changes[where] = {"gallery": dataclasses.replace(gallery, queries=queries)}

    parsed = page(**changes[where])

    assert len(parsed.all("script")) == 1
    assert {key for _, keys, _ in parsed.elements for key in keys} <= ATTRIBUTES
    assert not [keys for tag, keys, _ in parsed.elements if tag == "img" and keys["src"] == "x"]


def make_gallery_with(label: str) -> Gallery:
    gallery = make_gallery()
    tile = Tile(place=0, label=label, description=label)
    return dataclasses.replace(gallery, queries=(dataclasses.replace(gallery.queries[0], tile=tile),))


def test_the_page_leads_to_the_pages_of_tokens_where_there_are_any():
    link = '<a href="tokens/0-512/index.html">Tokens, n = 512</a>'

    with_tokens = render_page(make_material(links={"Tokens, n = 512": "tokens/0-512/index.html"}))

    assert link in with_tokens
    assert "index.html" not in render_page(make_material())


def test_headings_skip_no_level_and_ids_and_links_fit():
    parsed = page()

    levels = [int(tag[1]) for tag, *_ in parsed.all("h1", "h2", "h3", "h4")]
    ids = [attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes]
    links = [attributes["href"] for _, attributes, _ in parsed.all("a")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)


def test_every_figure_has_a_description_and_its_size_and_every_table_a_caption_and_scopes():
    parsed = page()

    figures = [attributes for _, attributes, _ in parsed.all("img")]
    assert len(figures) == len(FIGURES)
    assert all(len(figure["alt"]) > 10 and (figure["width"], figure["height"]) == ("200", "100") for figure in figures)
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(attributes.get("scope") in ("col", "row") for _, attributes, _ in parsed.all("th"))


def test_nothing_is_loaded_from_elsewhere():
    text = render_page(make_material())

    loaded = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'#)\s]+)""", text)
    assert {address.split(",")[0] for address in loaded} <= {"data:", "data:image/png;base64"}
    assert "default-src 'none'" in text


def test_figures_are_on_the_page_as_they_are():
    material = make_material()

    source = page().all("img")[0][1]["src"]

    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == material.figures["lds"]


def test_a_page_with_fifty_methods_ranks_them_all_and_stays_small():
    methods = tuple(f"method_{place:02d}" for place in range(50))
    tables = {"lds": make_lds(methods), "cost": make_cost(methods), "pairs": make_pairs(methods)}

    text = render_page(make_material(tables=tables))

    parsed = Parsed(text)
    assert [row[1] for row in parsed.rows("LDS at n = 400")] == list(methods)
    assert len(parsed.rows("Paired differences at n = 400")) == 200
    assert any(text.startswith("The first 200 of 1,225 rows.") for text in parsed.texts("p"))
    assert len(text.encode()) < 3_000_000


def test_a_table_without_rows_is_no_error():
    pairs = make_pairs().iloc[:0]

    parsed = page(tables={"lds": make_lds(), "pairs": pairs, "cost": make_cost().iloc[:0]})

    assert parsed.rows("Paired differences") == []


def test_the_same_material_gives_the_same_page():
    assert render_page(make_material()) == render_page(make_material())


def test_a_figure_that_is_no_png_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"The figure lds.png is damaged: delete it"):
        render_page(make_material(figures={"lds": b"<svg>"}))


def test_material_is_every_table_and_png_figure_of_the_folder(tmp_path, tiny_experiment):
    for name, table in make_tables().items():
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{name}.csv").write_text(table.to_csv(index=False))
    for name in ("lds.png", "lds.pdf", "other.png"):
        save_figure(tmp_path / "figures" / name, Figure())
    save_json(tmp_path / "tables" / "record.json", {"experiment": {}, "jobs": {}}, {})
    save_tensors(tmp_path / "dataset.safetensors", {}, {})  # no images, no gallery

    material = load_material(tiny_experiment, tmp_path)

    assert material.tables.keys() == make_tables().keys()
    assert set(material.tables["lds"]["repeat"]) == {"0", "1", "all"}
    assert material.figures.keys() == {"lds", "other"}
    assert material.gallery is None
    assert set(METHODS) == set(material.tables["lds"]["method"])


# Colours


PAIRS = [
    ("text", "ground"), ("text", "raised"), ("muted", "ground"), ("muted", "raised"), ("accent", "ground"),
    ("notice-text", "notice"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_at_least_four_and_a_half(scheme):
    light, dark = re.findall(r":root \{([^}]*)\}", (REPORT / "templates" / "page.css").read_text())
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", dark if scheme == "dark" else light))

    ratios = {pair: contrast(*(colours[name] for name in pair)) for pair in PAIRS}

    assert all(ratio >= 4.5 for ratio in ratios.values()), ratios
    assert contrast(colours["strong-line"], colours["ground"]) >= 3


def contrast(first: str, second: str) -> float:
    """Compute WCAG 2's contrast ratio of two colours (its definition of relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_every_file_that_is_no_code_is_installed_with_the_package():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["tdabench"]

    packed = {path for pattern in patterns for path in (REPOSITORY / "tdabench").glob(pattern)}
    others = {
        path
        for path in (REPOSITORY / "tdabench").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert packed == others
    assert {path.name for path in packed} >= {"page.html.jinja", "page.css", "page.js", "lds.rst"}
