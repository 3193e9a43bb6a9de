"""Rows over repeats, declared once a table: what is averaged, what adds up, what is told once."""

import math

import pandas as pd
import pytest
from scipy import stats

from tdabench.drawing.columns import COMMON, Column, find_column, interval
from tdabench.drawing.table import PLACE, declare, format_mean
from tdabench.questions import QUESTIONS, load_shown

ONE = declare(
    "one", PLACE, "method lds low high standard_error seconds queries status", keys=("train_size", "method"),
    means={"lds": ""}, averaged=("seconds",), added=("queries",), whole=("queries",),
)  # fmt: skip
TWO = declare(
    "two", PLACE, "lds", *interval("a_"), "ceiling", *interval("b_"), "queries", keys=("train_size",),
    means={"lds": "a_", "ceiling": "b_"}, added=("queries",),
)  # fmt: skip


def rows(*values: float | None, **changes) -> list[dict]:
    shared = {"experiment": "e", "train_size": 100, "method": "bif", "low": 0.0, "high": 9.0, "standard_error": 0.5,
              "queries": 10, "status": "ok"}  # fmt: skip
    return [
        {**shared, "repeat": repeat, "lds": value, "seconds": 2.0 * repeat, **changes}
        for repeat, value in enumerate(values)
    ]


def test_repeats_are_averaged_with_students_interval_and_their_counts_add_up():
    table = ONE.add_rows_over_repeats(rows(0.1, 0.2, 0.6), 0.9)

    assert table["repeat"].tolist() == ["0", "1", "2", "all"]
    last = table.iloc[-1]
    expected = stats.t.interval(0.9, 2, loc=0.3, scale=(7 / 3) ** 0.5 / 10)
    assert (last["lds"], last["seconds"], last["queries"], last["status"]) == (pytest.approx(0.3), 2, 30, "ok")
    assert (last["low"], last["high"]) == pytest.approx(expected)
    assert last["standard_error"] == pytest.approx((7 / 3) ** 0.5 / 10)


def test_a_single_repeat_keeps_its_own_interval():
    one, over = ONE.add_rows_over_repeats(rows(1.0), 0.9).to_dict("records")

    assert over == {**one, "repeat": "all"}


def test_a_repeat_without_a_number_is_left_out_and_named_and_counts_stay_whole():
    told = rows(1.0, None, 3.0)
    told[1]["status"] = "lost"

    last = ONE.add_rows_over_repeats(told, 0.9).iloc[-1]
    beside = ONE.add_rows_over_repeats([*told, *rows(None, None, method="trak", queries=None)], 0.9)

    assert (last["lds"], last["seconds"], last["queries"], last["status"]) == (2, 2, 20, "ok | lost")
    assert math.isnan(beside["lds"].iloc[-1])
    assert str(beside["queries"].dtype) == "Int64"
    assert beside["queries"].iloc[-1] is pd.NA


def test_of_several_means_each_is_over_the_repeats_that_have_it_and_counts_are_of_all():
    table = TWO.add_rows_over_repeats(
        [{**row, "ceiling": ceiling} for row, ceiling in zip(rows(1.0, None), (0.5, 0.7), strict=True)], 0.9
    )

    last = table.iloc[-1]
    assert (last["lds"], last["ceiling"], last["queries"]) == (1, pytest.approx(0.6), 20)
    assert math.isnan(last["a_low"])
    assert last["b_low"] < 0.5


def test_without_rows_a_table_has_its_columns():
    assert list(TWO.add_rows_over_repeats([], 0.9).columns) == TWO.names


@pytest.mark.parametrize(
    ("value", "repeats", "text"), [(0.5, 3, "0.500 ± 0.100"), (0.5, 1, "0.500 [0.400, 0.600]"), (None, 3, "—")]
)
def test_a_mean_is_written_with_what_says_how_sure_it_is(value, repeats, text):
    row = pd.Series({"lds": value, "standard_error": 0.1, "low": 0.4, "high": 0.6})

    assert format_mean(row, "lds", repeats=repeats) == text


def test_a_declaration_says_how_its_rows_are_averaged_by_columns_that_it_has():
    for table in (table for shown in load_shown(QUESTIONS) for table in shown.tables):
        means = {f"{prefix}{end}" for prefix in table.means.values() for end in ("low", "high")}
        used = {*table.keys, *table.means, *means, *table.averaged, *table.added, *table.whole}
        assert used <= set(table.names), table.name
        assert len(set(table.names)) == len(table.names)
        assert all(column.high in table.names for column in table.columns if column.high)


def test_a_column_that_is_not_known_is_headed_by_its_name_in_words():
    assert [find_column(key).words for key in ("some_value", "train_size")] == ["Some value", "n"]
    assert find_column("some_value") == Column("some_value")
    assert COMMON["low"].interval == "Interval"
