"""What is on the page: its sections, tables and sentences."""

import pandas as pd
from made_up import (
    make_agreement,
    make_compared,
    make_cost,
    make_lds,
    make_material,
    make_others,
    make_pairs,
    make_tables,
)
from parsed import page

from tdabench.drawing.section import Results
from tdabench.questions import QUESTIONS, load_shown

TOPICS = {topic.name: topic for shown in load_shown(QUESTIONS) for topic in shown.topics}


def read(name: str, tables: dict[str, pd.DataFrame], confidence: float) -> str:
    return TOPICS[name].read(Results(tables=tables, figures={}, confidence=confidence))


def test_every_known_table_has_a_section_with_a_heading_and_how_to_read_it():
    parsed, tables = page(), make_tables()

    headings = parsed.texts("h2")
    assert headings[:5] == [
        "Ranking", "Paired differences", "Removing the most helpful examples", "Finding mislabelled examples",
        "Cost",
    ]  # fmt: skip
    assert set(headings[:-4]) == {"Cost", *(topic.heading for topic in TOPICS.values())}
    assert len(headings) == len(set(headings))
    assert headings[-4:] == ["Most and least helpful images", "Warnings", "Settings", "Provenance"]
    for name in TOPICS:
        assert read(name, tables, 0.95) in parsed.texts("p")


def test_how_to_read_names_the_intervals_that_the_table_has():
    several, one = (read("agreement", {"agreement": make_agreement(repeats=repeats)}, 0.9) for repeats in (3, 1))

    assert several.endswith("Intervals: 90%, Student's t over 3 repeats.")
    assert one.endswith("Intervals: 90%, bootstrap.")
    assert read("pairs", {"pairs": make_pairs()}, 0.9).endswith("where it is below 0.1.")


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
