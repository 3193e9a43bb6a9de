"""What a page must be: safe, whole, small and readable."""

import base64
import dataclasses
import itertools
import re
import tomllib
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

from tdabench.report.gallery import Neighbours, QueryImages, Tile
from tdabench.report.page import load_material, render_page
from tdabench.storage.records import save_figure, save_json, save_tensors

REPOSITORY = Path(__file__).parents[2]
HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>{{ 7*7 }}</table>&amp;</style>"""


# All that the template has; none runs anything, and only a figure's source and a link lead anywhere.
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "rel", "href", "class", "id", "aria-label", "aria-labelledby",
    "aria-hidden", "role", "tabindex", "style", "scope", "data-order", "title", "src", "width", "height", "alt", "open",
    "colspan",
}  # fmt: skip
# Of a few fixed words, by which the page chooses its own sentences.
OUR_WORDS = {"repeat", "detector", "property", "holds", "choice", "source"}
NAMES = {"method", "first", "second", "other"}


def hostile_tables(where: str) -> dict[str, pd.DataFrame]:
    """Replace every text of the tables: of methods, or all others; the first row's stays, so that rows differ."""
    tables = make_tables()
    for name, table in tables.items():
        texts = [
            column
            for column in table.columns
            if column not in OUR_WORDS
            and not pd.api.types.is_numeric_dtype(table[column])
            and (column in NAMES) == (where == "methods")
        ]
        changed = {column: table[column].where(table[column] == METHODS[0], HOSTILE) for column in texts}
        tables[name] = table.assign(**changed)
    assert sum(HOSTILE in table.to_csv() or '""><img' in table.to_csv() for table in tables.values()) > 10
    return tables


@pytest.mark.parametrize("where", ["methods", "texts", "names", "record", "gallery"])
def test_hostile_text_is_shown_and_never_markup(where):
    material, gallery, changes = make_material(), make_gallery(), {}
    if where in ("methods", "texts"):
        changes["tables"] = hostile_tables(where)
    elif where == "names":
        changes = {
            "name": HOSTILE,
            "figures": {**material.figures, HOSTILE: material.figures["lds"]},
            "tables": {**material.tables, HOSTILE: pd.DataFrame({HOSTILE: [HOSTILE]})},
        }
    elif where == "record":
        record = make_record(commit=HOSTILE, device=HOSTILE, python=HOSTILE, processor=HOSTILE, versions={HOSTILE: "1"})
        changes["record"] = record | {"experiment": {HOSTILE: HOSTILE}}
    else:
        tile = Tile(place=0, label=HOSTILE, description=HOSTILE, score=HOSTILE)
        rows = (
            Neighbours(method=HOSTILE, reason=HOSTILE),
            Neighbours(method=HOSTILE, helpful=(tile,), harmful=(tile,)),
        )
        changes["gallery"] = dataclasses.replace(gallery, queries=(QueryImages(tile=tile, neighbours=rows),))

    parsed = page(**changes)

    assert len(parsed.all("script")) == len(parsed.all("title")) == 1
    assert {tag for tag, *_ in parsed.elements} <= {tag for tag, *_ in page().elements}
    assert {key for _, keys, _ in parsed.elements for key in keys} <= ATTRIBUTES
    assert all(keys["src"].startswith("data:") for tag, keys, _ in parsed.elements if tag == "img")
    assert "alert(1)" in parsed.texts("body")[0]


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
    source = f"data:image/png;base64,{base64.b64encode(make_material().figures['lds']).decode()}"
    assert figures[0]["src"] == source
    assert all(len(figure["alt"]) > 10 and (figure["width"], figure["height"]) == ("200", "100") for figure in figures)
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(attributes.get("scope") in ("col", "row") for _, attributes, _ in parsed.all("th"))


def test_nothing_is_loaded_from_elsewhere():
    text = render_page(make_material())

    loaded = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'#)\s]+)""", text)
    assert {address.split(",")[0] for address in loaded} <= {"data:", "data:image/png;base64"}
    assert "default-src 'none'" in text


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


def test_the_report_reaches_questions_by_their_names_alone():
    """So that a plain LDS experiment imports no other question's code."""
    sources = [path.read_text() for path in (REPOSITORY / "tdabench").glob("report/*.py")]
    own = [(REPOSITORY / "tdabench/questions" / name).rglob("*.py") for name in ("lds", "diagnostics", "agreement")]

    found = re.findall(r"tdabench\.questions\.(\w+)", "".join(sources))
    others = {
        name
        for paths in own
        for path in paths
        for name in re.findall(
            r"import tdabench\.questions\.(\w+)|from "
            r"tdabench\.questions\.(\w+)",
            path.read_text(),
        )
    }

    assert found == []
    assert {one or other for one, other in others} <= {"lds", "diagnostics", "agreement"}


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
    assert {path.name for path in packed} >= {"page.html.jinja", "page.css", "page.js", "page.rst"}
