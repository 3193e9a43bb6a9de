import math

import pandas as pd
import pytest

from tdabench.drawing.columns import find_column, interval, score
from tdabench.drawing.html import (
    estimate_cell,
    interval_cell,
    make_strips,
    make_table,
    method_cell,
    number_cell,
    styles_of,
)
from tdabench.drawing.style import method_styles


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.12345, "lds", "0.123"),
        (-0.12345, "lds", "−0.123"),
        (-0.0001, "lds", "0.000"),
        (0.0001, "p_value", "< 0.001"),
        (0.001, "p_holm", "0.001"),
        (0.5, "share", "50.0\N{NO-BREAK SPACE}%"),
        (2_500_000, "disk_bytes", "2.5"),
        (1234.5, "seconds", "1,234"),
        (0.004, "seconds", "< 0.1"),
        (0, "seconds", "0.0"),
        (12000, "subsets", "12,000"),
        (3.14159, "r_hat", "3.142"),
        (0.000012345, "step_size", "1.23e−05"),
        (math.inf, "r_hat", "—"),
    ],
)
def test_numbers_are_written_as_their_column_needs(value, column, text):
    assert number_cell(value, find_column(column)).text == text


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_number_is_a_dash_without_an_order_and_never_zero(missing):
    cell = number_cell(missing, "score")

    assert (cell.text, cell.order, cell.is_number) == ("—", None, True)


def test_a_number_is_sorted_by_its_value_and_not_by_its_text():
    cells = [number_cell(value, "seconds") for value in (9.0, 10.0, 1000.0)]

    assert [cell.order for cell in cells] == [9.0, 10.0, 1000.0]


def test_a_method_has_the_colour_and_the_label_of_the_figures():
    table = pd.DataFrame({"method": ["bif", "mine"]})

    cell = method_cell("mine", styles_of(table))

    assert (cell.text, cell.colour) == ("mine", method_styles(table["method"])["mine"]["color"])


def test_the_bank_takes_no_methods_colour():
    with_bank = pd.DataFrame({"method": ["bank", "mine"]})

    assert styles_of(with_bank, None)["mine"] == styles_of(pd.DataFrame({"method": ["mine"]}))["mine"]


def test_the_columns_of_any_table_follow_from_their_types():
    frame = pd.DataFrame(
        {"experiment": ["e"], "repeat": ["0"], "first": ["bif"], "is_sound": [True], "note": [None], "x_size": [3]}
    )

    table = make_table(frame, styles_of(frame), "A table")

    assert table.headers == ("Repeat", "First", "Is sound", "Note", "X size")
    assert [cell.text for cell in table.rows[0]] == ["0", "BIF", "True", "—", "3"]
    assert [cell.is_number for cell in table.rows[0]] == [False, False, False, False, True]


def test_strips_share_one_scale_from_zero_to_the_ceiling():
    rows = [
        {"method": "bif", "lds": 0.4, "low": 0.2, "high": 0.6, "ceiling": 0.8},
        {"method": "random", "lds": float("nan"), "low": None, "high": None, "ceiling": 0.8},
    ]

    strip, missing = make_strips(rows, {})

    assert missing is None
    assert (strip.zero, strip.low, strip.value, strip.high, strip.ceiling) == (0, 25, 50, 75, 100)


def test_a_strip_below_zero_moves_zero():
    rows = [{"method": "bif", "lds": 0.0, "low": -0.5, "high": 0.5, "ceiling": None}]

    (strip,) = make_strips(rows, {})

    assert (strip.low, strip.zero, strip.high, strip.ceiling) == (0, 50, 100, None)


def test_a_strip_has_the_band_of_chance_on_its_scale():
    rows = [{"method": "bif", "lds": 0.4, "low": 0.2, "high": 0.6, "ceiling": 0.8, "null_low": -0.2, "null_high": 0.3}]

    (strip,) = make_strips(rows, {})

    assert (strip.chance, strip.zero) == ((0, 50), 20)


def test_both_ends_of_an_interval_are_one_column_and_what_all_rows_share_is_said_below():
    frame = pd.DataFrame(
        {"method": ["bif", "ekfac"], "auc": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.6, None], "top": [10, 10],
         "bootstrap_low": [0.1, 0.1], "status": ["ok", "ok"]}
    )  # fmt: skip
    columns = {column.key: column for column in (score("auc", "AUC"), *interval("bootstrap_"))}

    table = make_table(frame, styles_of(frame), "A table", columns)

    assert table.headers == ("Method", "AUC", "Interval", "Bootstrap low")
    assert [cell.text for cell in table.rows[0]] == ["BIF", "0.500", "0.400 to 0.600", "0.100"]
    assert [cell.text for cell in table.rows[1]] == ["EK-FAC", "0.700", "—", "0.100"]
    assert table.note == "In every row: Top 10, Status ok."


def test_rows_that_are_all_the_same_stay_a_table():
    frame = pd.DataFrame({"top": [10, 10]})

    assert make_table(frame, {}, "A table").headers == ("Top",)


def test_an_estimate_has_its_interval_behind_it_and_sorts_by_its_value():
    cell = estimate_cell(0.5, 0.4, 0.6, "share")

    assert (cell.text, cell.order) == ("50.0 % (40.0 to 60.0 %)".replace(" %", "\N{NO-BREAK SPACE}%"), 0.5)
    assert estimate_cell(0.5, None, 0.6).text == "0.500"
    assert estimate_cell(None, 0.4, 0.6).text == "—"
    assert interval_cell(-0.1, 0.2).text == "−0.100 to 0.200"
