import base64
import dataclasses
import itertools
import re
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_up import (
    FIGURES,
    METHODS,
    make_agreement,
    make_compared,
    make_cost,
    make_gallery,
    make_lds,
    make_material,
    make_others,
    make_pairs,
    make_tables,
)
from matplotlib.figure import Figure

from tdabench.records import save_figure, save_json, save_tensors
from tdabench.report.gallery import Gallery, Tile
from tdabench.report.page import load_material, render_page
from tdabench.report.texts import TEXTS, describe

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "tdabench" / "report"
HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>{{ 7*7 }}</table>&amp;</style>"""
VOID = {"meta", "link", "img", "br", "input"}


class Parsed(HTMLParser):
    """A page's elements with their attributes and text; an end tag that fits no start is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, *tags: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [(tag, attributes, "".join(text).strip()) for tag, attributes, text in self.elements if tag in tags]

    def texts(self, *tags: str) -> list[str]:
        return [text for *_, text in self.all(*tags)]

    def rows(self, caption: str) -> list[list[str]]:
        """Give the cells of a table's rows."""
        tables = [table for table in re.split(r"<table", self.rawdata_seen)[1:] if f"<caption>{caption}<" in table]
        body = Parsed("<table" + tables[0].split("</table>")[0] + "</table>")
        cells = body.texts("td")
        width = len([1 for tag, attributes, _ in body.all("th") if attributes.get("scope") == "col"])
        return [cells[start : start + width] for start in range(0, len(cells), width)]

    def feed(self, data):
        self.rawdata_seen = data
        super().feed(data)
        self.close()


def page(**changes) -> Parsed:
    return Parsed(render_page(make_material(**changes)))


# What is on the page


def test_every_known_table_has_a_section_with_a_heading_and_how_to_read_it():
    parsed, tables = page(), make_tables()

    headings = parsed.texts("h2")
    assert headings[:5] == [
        "Ranking", "Paired differences", "Removing the most helpful examples", "Finding mislabelled examples",
        "Cost beside quality",
    ]  # fmt: skip
    assert set(headings[:-4]) == {"Ranking", "Cost beside quality", *(heading for heading, _ in TEXTS.values())}
    assert len(headings) == len(set(headings))
    assert headings[-4:] == ["Most and least helpful images", "Warnings", "Settings", "Provenance"]
    for name in TEXTS:
        assert describe(name, tables[name], 0.95)[1] in parsed.texts("p")


def test_how_to_read_names_the_intervals_that_the_table_has():
    several, one = (describe("agreement", make_agreement(repeats=repeats), 0.9)[1] for repeats in (3, 1))

    assert several.endswith("Intervals: 90%, Student's t over 3 repeats.")
    assert one.endswith("Intervals: 90%, bootstrap.")
    assert describe("pairs", make_pairs(), 0.9)[1].endswith("where it is below 0.1.")


def test_a_page_without_a_bank_begins_with_what_the_experiment_asks():
    figures = dict.fromkeys(("removal", "detection", "agreement", "cost"), make_material().figures["cost"])

    cost = make_cost(sizes=(400,), retrained=("removal",))
    parsed = page(tables={**make_others(), "cost": cost}, figures=figures)

    assert parsed.texts("h2")[:5] == [
        "Removing the most helpful examples", "Finding mislabelled examples", "Cost", "Agreement between methods",
        "Properties of the methods",
    ]  # fmt: skip
    leads = [text for _, attributes, text in parsed.all("p") if attributes.get("class") in ("lead", "also")]
    assert [lead.split()[0] for lead in leads] == ["Without", "Of"]
    assert "LDS" not in parsed.texts("th")
    assert parsed.rows("Cost of the ground truth")[0][:2] == ["Models without the removed examples", "400"]


def test_a_page_of_the_lds_alone_has_a_ranking_and_nothing_that_is_missing():
    parsed = page(tables={"lds": make_lds()}, figures={}, gallery=None)

    assert parsed.texts("h2") == ["Ranking", "Warnings", "Settings", "Provenance"]
    assert not parsed.all("img")


def test_tables_and_figures_that_are_not_known_get_a_section_each():
    extra = pd.DataFrame({"experiment": ["made_up"], "method": ["bif"], "some_value": [0.25]})
    material = make_material(tables={"lds": make_lds(), "my_table": extra})
    figures = {"my_figure": material.figures["lds"]}

    parsed = page(tables=material.tables, figures=figures)

    assert {"My table", "My figure"} <= set(parsed.texts("h2"))
    assert parsed.rows("My table") == [["BIF", "0.250"]]
    assert [attributes["alt"] for _, attributes, _ in parsed.all("img")] == ["Figure: My figure"]


def test_the_ranking_shows_interval_group_share_of_ceiling_and_what_chance_reaches():
    parsed = page()

    first, *_, last = parsed.rows("LDS at n = 400")
    # The shares of two repeats are 0.025 below and above 0.8333: Student's t with one degree of freedom is 12.706.
    assert first == [
        "1", "EK-FAC", "0.700", "0.660 to 0.740", "", "a",
        "83.3 % (51.6 to 115.1 %)".replace(" %", "\N{NO-BREAK SPACE}%"), "−0.040 to 0.030",
    ]  # fmt: skip
    assert (last[:3], last[5]) == (["4", "random", "0.400"], "d")
    note = "50 scored queries; the dashed line is the ceiling, 0.840; the grey band is what chance reaches"
    assert f"{note}, the mean of 2 repeats' bands." in parsed.texts("p")


def test_a_ranking_without_comparisons_has_no_groups_and_shares_of_the_mean_ceiling():
    parsed = page(tables={"lds": make_lds()}, figures={}, gallery=None)

    assert parsed.rows("LDS at n = 400")[0][-1] == "83.3\N{NO-BREAK SPACE}%"
    assert not {"Group", "By chance", "Status"} & set(parsed.texts("th"))


def test_each_size_has_its_ranking_the_largest_first_and_open():
    parsed = page(tables={"lds": make_lds(sizes=(100, 400, 200))}, figures={}, gallery=None)

    assert parsed.texts("h3")[:3] == ["n = 400", "n = 200", "n = 100"]
    assert ["open" in attributes for _, attributes, _ in parsed.all("details")][:3] == [True, False, False]


def test_a_method_that_is_not_supported_is_last_without_numbers_and_with_its_reason():
    parsed = page(tables={"lds": make_lds(unsupported=("ekfac",)), "cost": make_cost()})

    row = parsed.rows("LDS at n = 400")[-1]
    assert row == ["—", "EK-FAC", "—", "—", "", "—", "unsupported: needs Linear layers"]
    assert "unsupported: needs Linear layers" in " ".join(parsed.texts("li"))


def test_the_interval_is_called_what_it_is():
    several = page(tables={"lds": make_lds(repeats=3)})
    one = page(tables={"lds": make_lds(repeats=1)})

    assert any("95% Student's t interval over 3 repeats" in text for text in several.texts("p"))
    assert any("95% bootstrap interval over subsets and queries" in text for text in one.texts("p"))


def test_cost_is_the_mean_over_repeats_of_the_sum_over_phases():
    rows = page().rows("Cost at n = 400")

    # Fit takes 10 s and 11 s; the score of the second method 1,000 s.
    assert rows[1] == ["BIF", "0.600", "10", "1,000", "1,010", "505", "2,000", "10"]
    assert [row[0] for row in rows] == ["EK-FAC", "BIF", "GradSim", "random"]
    assert page().rows("Cost of the ground truth")[0][:3] == ["Bank of retrained models", "100", "4,000"]


def test_memory_of_a_device_has_a_column_where_there_is_one():
    cost = make_cost().assign(peak_device_bytes=3e9)

    parsed = page(tables={"lds": make_lds(), "cost": cost})

    assert "Device memory (MB)" in parsed.texts("th")
    assert "Device memory (MB)" not in page().texts("th")


def test_a_table_over_repeats_hides_single_repeats_and_columns_that_say_nothing():
    pairs = pd.concat([make_pairs(), make_pairs().assign(repeat="0", difference=9.0)])

    parsed = page(tables={"lds": make_lds(), "pairs": pairs})

    rows = parsed.rows("Paired differences")
    assert len(rows) == 2 * 6
    assert rows[0] == ["100", "EK-FAC", "BIF", "0.050 to 0.150", "0.060 to 0.140"]
    assert "In every row: Difference 0.100, p 0.002, p (Holm) 0.004." in parsed.texts("p")


def test_removals_are_a_row_a_method_and_a_column_a_count_with_the_differences_folded_away():
    parsed = page()

    rows = parsed.rows("Removing the most helpful examples at n = 400")
    assert [row[0] for row in rows] == ["EK-FAC", "BIF", "GradSim", "random"]
    assert rows[1] == ["BIF", "0.090 (0.090 to 0.090)", "0.800 (0.800 to 0.800)"]
    assert len(parsed.rows("Removing the most helpful examples: paired differences")) == 12
    folded = dict(zip(parsed.texts("h3"), ["open" in found for _, found, _ in parsed.all("details")], strict=True))
    assert folded["Paired differences (12 rows)"] is False


def test_detection_is_a_row_a_method_and_a_column_a_detector_with_the_loss_below():
    parsed = page()

    rows = parsed.rows("Finding mislabelled examples at n = 400")
    assert rows[0] == ["EK-FAC", "0.950 (0.950 to 0.950)", "0.930 (0.930 to 0.930)"]
    assert len(rows) == 4
    assert "By the models' loss alone, without attribution: 0.900 (0.900 to 0.900)." in parsed.texts("p")


def test_the_variance_is_in_percent_by_source_and_what_is_not_measured_is_a_dash():
    rows = {row[0]: row[1:] for row in page().rows("Where the uncertainty comes from at n = 400")}

    assert rows["BIF"] == [*(f"{share}\N{NO-BREAK SPACE}%" for share in ("25.0", "50.0", "25.0")), "—", "—", "0.020"]
    assert [cell.split(".")[0] for cell in rows["GradSim"][:-1]] == ["10", "20", "10", "30", "30"]


def test_what_chance_reaches_is_shown_for_every_repeat():
    row = page().rows("What chance reaches at n = 400")[0]

    assert row == ["EK-FAC", "−0.030 to 0.020 (p < 0.001)", "−0.050 to 0.040 (p < 0.001)"]


def test_properties_are_rows_with_a_sign_a_method_that_is_also_said_in_words():
    parsed = page()

    assert parsed.rows("Properties of the methods") == [
        ["No fit phase", "✗", "✓", "✓", "✓"], ["Per-token", "—", "—", "—", "—"],
    ]  # fmt: skip
    signs = [attributes for _, attributes, _ in parsed.all("span") if attributes.get("title", "").count("measured")]
    assert (signs[0]["aria-label"], signs[0]["title"]) == ("no", "no: measured ekfac")
    assert signs[-1]["aria-label"] == "not run"
    assert {"No fit phase: how no_fit_phase is found", "Per-token: how per_token is found"} <= set(parsed.texts("li"))


def test_settings_and_provenance_are_on_the_page():
    parsed = page()

    assert parsed.texts("pre") == ["name: made_up\nseed: 7\ndata:\n  train_sizes:\n  - 100\n  - 400"]
    facts = dict(zip(parsed.texts("dt"), parsed.texts("dd"), strict=True))
    assert facts["torch"] == "2.11"
    assert "a" * 12 in facts["Commit of tdabench"]


def test_a_long_table_is_folded_by_size_and_a_short_one_stays_whole():
    many = tuple(f"method_{place}" for place in range(6))
    tables = {"lds": make_lds(), "pairs": make_pairs(many), "reliability": make_compared()["reliability"]}

    parsed = page(tables=tables, figures={}, gallery=None)

    assert parsed.texts("h3")[2:] == ["n = 400", "n = 100", "Table (2 rows)", "experiments/made_up.yaml"]
    assert len(parsed.rows("Paired differences at n = 100")) == 15
    assert len(parsed.rows("Reliability of the ground truth")) == 2


def test_the_gallery_has_a_row_for_every_method_and_the_reason_where_there_are_no_scores():
    parsed = page()

    images = [attributes for _, attributes, _ in parsed.all("span") if attributes.get("class") == "image"]
    assert len(images) == 2 * (1 + 3 * 3)
    assert images[1]["aria-label"] == "train image 1, label cat"
    assert images[1]["style"] == "--column:1;--row:0"
    assert [text for tag, attributes, text in parsed.all("td") if attributes.get("class") == "reason"] == [
        "unsupported: needs Linear layers"
    ] * 2


# What a page must be


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


def make_gallery_with(label: str) -> Gallery:
    gallery = make_gallery()
    tile = Tile(place=0, label=label, description=label)
    return dataclasses.replace(gallery, queries=(dataclasses.replace(gallery.queries[0], tile=tile),))


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
    light, dark = re.findall(r":root \{([^}]*)\}", (REPORT / "page.css").read_text())
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
        for path in REPORT.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert packed == others
    assert {path.name for path in packed} >= {"page.html.jinja", "page.css", "page.js", "lds.rst"}
