"""What is on the page: its sections, tables and sentences."""

from pathlib import Path

import pandas as pd
import pytest
from made_up import (
    make_agreement,
    make_compared,
    make_cost,
    make_lds,
    make_material,
    make_others,
    make_pairs,
)
from parsed import page

PAGES = Path(__file__).parent / "pages"


def make_pages() -> dict[str, dict]:
    """Return what the golden pages are made of: all of several repeats, the LDS of one, and no bank."""
    picture = make_material().figures["cost"]
    one = {"lds": make_lds(repeats=1), **make_compared(repeats=1), "agreement": make_agreement(repeats=1)}
    asked = dict.fromkeys(("removal", "detection", "agreement", "cost"), picture)
    cost = make_cost(sizes=(400,), retrained=("removal",))
    return {
        "all": {},
        "one_repeat": {"tables": one, "figures": dict.fromkeys(("lds", "lds_by_repeat"), picture), "gallery": None},
        "no_bank": {"tables": {**make_others(), "cost": cost}, "figures": asked},
    }


@pytest.mark.parametrize("name", list(make_pages()))
def test_the_page_says_what_the_golden_one_says(name):
    """After a change on purpose, ``python tests/report/test_sections.py`` writes them anew: read the difference."""
    assert page(**make_pages()[name]).outline() == (PAGES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


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


def test_a_ranking_without_comparisons_has_no_groups_and_shares_of_the_mean_ceiling():
    parsed = page(tables={"lds": make_lds()}, figures={}, gallery=None)

    assert parsed.rows("LDS at n = 400")[0][-1] == "83.3\N{NO-BREAK SPACE}%"
    assert not {"Group", "By chance", "Status"} & set(parsed.texts("th"))


def test_a_method_that_is_not_supported_is_last_without_numbers_and_with_its_reason():
    parsed = page(tables={"lds": make_lds(unsupported=("ekfac",)), "cost": make_cost()})

    row = parsed.rows("LDS at n = 400")[-1]
    assert row == ["—", "EK-FAC", "—", "—", "", "—", "unsupported: needs Linear layers"]
    assert "unsupported: needs Linear layers" in " ".join(parsed.texts("li"))


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


def test_properties_are_rows_with_a_sign_a_method_that_is_also_said_in_words():
    parsed = page()

    assert parsed.rows("Properties of the methods") == [
        ["No fit phase", "✗", "✓", "✓", "✓"], ["Per-token", "—", "—", "—", "—"],
    ]  # fmt: skip
    signs = [attributes for _, attributes, _ in parsed.all("span") if attributes.get("title", "").count("measured")]
    assert (signs[0]["aria-label"], signs[0]["title"]) == ("no", "no: measured ekfac")
    assert signs[-1]["aria-label"] == "not run"
    assert {"No fit phase: how no_fit_phase is found", "Per-token: how per_token is found"} <= set(parsed.texts("li"))


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


if __name__ == "__main__":
    for name, changes in make_pages().items():
        (PAGES / f"{name}.txt").write_text("\n".join(page(**changes).outline()) + "\n", encoding="utf-8")
