"""Tables and figure of the comparison, from what the stage writes."""

import math

import pandas as pd
import pytest
from made_up import compare

from tdabench.drawing.style import COLOURS
from tdabench.evaluation.intervals import over_repeats
from tdabench.evaluation.pairs import compare_repeats
from tdabench.questions.lds.figures import plot_lds, plot_pairs
from tdabench.questions.lds.report import describe_ranking
from tdabench.questions.lds.tables import make_comparison_tables

LDS = {0: (0.6, 0.4, 0.1), 1: (0.7, 0.45, 0.05), 2: (0.65, 0.35, 0.0)}
NAMES = ("bif", "ekfac", "random")


def test_rows_over_repeats_are_those_of_the_comparison_and_come_last():
    tables = _tables(range(3))

    pairs, ranking = tables["pairs"], tables["ranking"]
    assert pairs["repeat"].tolist() == ["0"] * 3 + ["1"] * 3 + ["2"] * 3 + ["all"] * 3
    last = pairs[(pairs["repeat"] == "all") & (pairs["second"] == "ekfac")].iloc[0]
    found, _ = compare_repeats([_comparison(repeat) for repeat in range(3)], 0.95)
    expected = next(row for row in found if (row["first"], row["second"]) == ("bif", "ekfac"))
    assert last["difference"] == pytest.approx(0.25)
    assert [last["low"], last["high"]] == [expected["low"], expected["high"]]
    assert ranking[ranking["repeat"] == "all"]["method"].tolist() == list(NAMES)
    assert ranking[ranking["repeat"] == "0"]["share_of_ceiling"].tolist() == pytest.approx([0.75, 0.5, 0.125])


def test_shares_of_the_ceiling_over_repeats_have_students_interval_and_a_single_one_keeps_its_own():
    several, one = (_tables(range(count))["ranking"].query("repeat == 'all'").iloc[0] for count in (3, 1))

    expected = over_repeats([0.6 / 0.8, 0.7 / 0.8, 0.65 / 0.8], 0.95)
    columns = ["share_of_ceiling", "share_low", "share_high"]
    assert several[columns].tolist() == pytest.approx([expected.mean, expected.low, expected.high])
    assert one[columns].tolist() == pytest.approx([0.75, 0.5, 0.7])


def test_reliability_over_repeats_is_the_mean_and_counts_all_that_diverged():
    table = _tables(range(3))["reliability"]

    last = table[table["repeat"] == "all"].iloc[0]
    assert last["agreement"] == pytest.approx((0.4 + 0.5 + 0.6) / 3)
    assert (last["subsets"], last["diverged_retrains"], last["retrains"]) == (150, 3, 2)
    assert last["ceiling_low"] < last["ceiling"] < last["ceiling_high"]


def test_a_bank_with_one_retrain_has_rows_without_agreement():
    comparisons = {(repeat, 100): _comparison(repeat) for repeat in range(2)}
    for part in comparisons.values():
        part["reliability"] = dict.fromkeys(part["reliability"])

    table = make_comparison_tables(comparisons, "tiny")["reliability"]

    assert len(table) == 3
    assert table[["agreement", "ceiling", "ceiling_low"]].isna().all(axis=None)


def test_variances_are_averaged_over_repeats_and_shares_are_of_what_is_known():
    table = _tables(range(2))["variance"]

    rows = table[(table["repeat"] == "all") & (table["method"] == "bif")].set_index("source")
    assert rows["standard_deviation"]["subsets"] == pytest.approx(math.sqrt((3e-4 + 5e-4) / 2))
    assert rows["share"]["subsets"] == pytest.approx(4 / (4 + 1 + 2))
    assert math.isnan(rows["share"]["checkpoint"])
    assert rows["share"].sum() == pytest.approx(1)


def test_a_method_that_cannot_run_has_a_row_of_the_null_table_without_numbers():
    part = _comparison(0)
    part["unsupported"] = {"trak": "unsupported: too few examples"}

    table = make_comparison_tables({(0, 100): part}, "tiny")["null"]

    assert table["method"].tolist() == [*NAMES, "trak"]
    assert math.isnan(table["p_value"].iloc[-1])


def test_the_ranking_is_told_in_a_line_a_size():
    ranking = pd.DataFrame(
        {"repeat": ["0", "all", "all", "all"], "train_size": [5, 5, 5, 9], "method": ["c", "a", "b", "a"],
         "lds": [0.1, 0.5, 0.4, 0.3], "group": ["x", "a", "ab", "a"]}
    )  # fmt: skip

    assert describe_ranking(ranking) == ["n = 5: a a, b ab", "n = 9: a a"]


def test_the_figure_of_pairs_has_the_best_method_at_zero_and_everyones_colour():
    tables = _tables(range(3))

    figure = plot_pairs(tables["pairs"], tables["ranking"], _lds_table())

    (axes,) = figure.axes
    marks = {line.get_color(): line for line in axes.lines if len(line.get_xdata()) == 1}
    means = {name: marks[COLOURS[name]].get_xdata()[0] for name in NAMES}
    assert means["bif"] == 0
    assert means["ekfac"] == pytest.approx(-0.25)
    assert means["random"] == pytest.approx(-0.6)
    ends = [sorted(line.get_xdata()) for line in axes.lines if line.get_color() == COLOURS["ekfac"]]
    row = tables["pairs"].query("repeat == 'all' and first == 'bif' and second == 'ekfac'").iloc[0]
    assert any(list(end) == pytest.approx([-row["high"], -row["low"]]) for end in ends if len(end) == 2)
    assert [text.get_text() for text in axes.texts] == tables["ranking"].query("repeat == 'all'")["group"].tolist()


def test_a_single_repeat_draws_one_interval_a_method():
    tables = _tables(range(1))

    figure = plot_pairs(tables["pairs"], tables["ranking"], _lds_table())

    lines = [line for line in figure.axes[0].lines if line.get_color() == COLOURS["ekfac"]]
    assert len(lines) == 2  # the interval and the mark


def test_an_experiment_without_a_method_that_can_run_has_an_empty_figure():
    part = {**_comparison(0), "methods": {}, "pairs": [], "ranking": []}
    tables = make_comparison_tables({(0, 100): part}, "tiny")

    figure = plot_pairs(tables["pairs"], tables["ranking"], _lds_table())

    assert not figure.axes[0].lines


@pytest.mark.parametrize("sizes", [[100], [100, 200]])
def test_the_figure_of_the_lds_shades_what_chance_reaches(sizes):
    null = pd.concat([_tables(range(2))["null"].assign(train_size=size) for size in sizes])
    lds = pd.concat([_lds_table().assign(train_size=size) for size in sizes])

    with_band, without = plot_lds(lds, null), plot_lds(lds)

    drawn = [len(figure.axes[0].patches) + len(figure.axes[0].collections) for figure in (with_band, without)]
    assert drawn[0] == drawn[1] + 1


def _tables(repeats) -> dict[str, pd.DataFrame]:
    comparisons = {(repeat, 100): _comparison(repeat) for repeat in repeats}
    return make_comparison_tables(comparisons, "tiny")


def _lds_table() -> pd.DataFrame:
    rows = [
        {"experiment": "tiny", "repeat": repeat, "train_size": 100, "method": name, "lds": 0.3, "low": 0.2, "high": 0.4,
         "standard_error": 0.05, "ceiling": 0.8}
        for repeat in ("0", "all")
        for name in NAMES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _comparison(repeat: int) -> dict:
    part = compare(dict(zip(NAMES, LDS[repeat], strict=True)), repeat) | {"diverged_retrains": 1}
    for method in part["methods"].values():
        value = method["lds"]
        method |= {"share": value / 0.8, "share_low": value - 0.1, "share_high": value + 0.1}
        method["variance"] |= {"queries": 1e-4, "subsets": 3e-4 + 2e-4 * repeat, "retrains": 2e-4}
    part["reliability"] |= {
        "agreement": 0.4 + 0.1 * repeat, "ceiling": 0.75 + 0.05 * repeat, "oracle": 0.1 + 0.05 * repeat
    }  # fmt: skip
    return part
