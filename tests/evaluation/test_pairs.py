import math

import pytest
import torch
from scipy import stats

from tdabench.evaluation.pairs import compare_repeats, holm, rank_with_groups, share_the_lead
from tdabench.seeds import make_generator


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_leaves_out_what_is_missing():
    corrected = holm([0.6, math.nan, 0.5])

    assert corrected[0] == corrected[2] == 1
    assert math.isnan(corrected[1])


def test_neighbours_that_differ_have_no_letter_in_common_and_others_have_one():
    pairs = [_pair("a", "b", 0.2), _pair("a", "c", 0.01), _pair("b", "c", 0.3), _pair("c", "d", 0.001),
             _pair("a", "d", 0.001), _pair("b", "d", 0.001)]  # fmt: skip

    ranking = rank_with_groups({"c": 0.3, "a": 0.5, "b": 0.4, "d": 0.1}, pairs, confidence=0.95)

    assert [(row["method"], row["group"]) for row in ranking] == [("a", "a"), ("b", "ab"), ("c", "b"), ("d", "c")]


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ({"ab": 0.01, "ac": 0.01, "bc": 0.5}, ["a"]),
        ({"ab": 0.06, "ac": 0.01, "bc": 0.01}, ["a", "b"]),
        # Not in one run of the ranking, and still not told from the leader.
        ({"ab": 0.01, "ac": 0.3, "bc": 0.01}, ["a", "c"]),
        ({"ab": math.nan, "ac": None, "bc": 0.01}, ["a", "b", "c"]),
        ({}, ["a", "b", "c"]),
    ],
)
def test_those_share_the_lead_that_are_not_told_from_the_best(p_values, expected):
    pairs = [_pair(*reversed(names), p_value) for names, p_value in p_values.items()]

    assert share_the_lead({"c": 0.3, "none": math.nan, "a": 0.5, "b": 0.4}, pairs, confidence=0.95) == expected


def test_where_no_method_has_an_lds_none_leads():
    assert share_the_lead({"a": math.nan}, [], confidence=0.95) == []


def test_a_method_without_an_lds_comes_last_and_has_no_letter():
    ranking = rank_with_groups({"a": math.nan, "b": 0.1}, [_pair("a", "b", math.nan)], confidence=0.95)

    assert [(row["method"], row["group"]) for row in ranking] == [("b", "a"), ("a", "")]


def test_pairs_over_repeats_are_students_paired_test():
    differences = [0.10, 0.14, 0.05]
    parts = [_comparison(0.5 + value, 0.5, seed) for seed, value in enumerate(differences)]

    (row,), ranking = compare_repeats(parts, 0.9)

    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(0.9)
    assert [row["difference"], row["low"], row["high"], row["p_value"], row["p_holm"]] == pytest.approx(
        [sum(differences) / 3, low, high, test.pvalue, test.pvalue]
    )
    assert [entry["method"] for entry in ranking] == ["first", "second"]


def test_the_intervals_of_a_difference_stay_within_what_two_correlations_can_differ_by():
    parts = [_comparison(0.9, -0.9, 0, error=0.5), _comparison(0.9, 0.5, 1, error=0.5)]

    (row,), _ = compare_repeats(parts, 0.95)

    assert (row["low"], row["high"]) == (-2.0, 2.0)
    assert -2 <= row["bootstrap_low"] < row["difference"] < row["bootstrap_high"] <= 2


def test_the_bootstrap_of_these_repeats_averages_independent_draws():
    parts = [_comparison(0.6, 0.5, seed, error=0.02 * (1 + seed)) for seed in range(3)]

    (row,), _ = compare_repeats(parts, 0.95)

    error = (0.02**2 + 0.04**2 + 0.06**2) ** 0.5 / 3
    assert row["bootstrap_low"] == pytest.approx(0.1 - 1.96 * error, abs=0.1 * error)
    assert row["bootstrap_high"] == pytest.approx(0.1 + 1.96 * error, abs=0.1 * error)


def test_what_both_methods_share_in_every_draw_moves_no_difference():
    parts = [_comparison(0.6, 0.5, seed) for seed in range(2)]
    for part in parts:
        part["methods"]["second"]["draws"] = part["methods"]["first"]["draws"]

    (row,), _ = compare_repeats(parts, 0.95)

    assert row["bootstrap_low"] == row["bootstrap_high"] == pytest.approx(0.1)


def test_a_single_repeat_keeps_its_own_interval_and_p_value():
    part = _comparison(0.6, 0.5, 0)

    (row,), _ = compare_repeats([part], 0.95)

    assert row == part["pairs"][0]


def test_a_pair_that_some_repeats_lack_is_compared_on_those_that_have_it():
    parts = [_comparison(0.6, 0.5, seed) for seed in range(2)]
    alone = _comparison(0.6, 0.5, 2)
    del alone["methods"]["second"]
    alone["pairs"] = []

    (row,), _ = compare_repeats([*parts, alone], 0.95)

    assert row["difference"] == pytest.approx(0.1)


def test_equal_differences_in_every_repeat_have_no_spread_over_them():
    (zero,), _ = compare_repeats([_comparison(0.5, 0.5, seed) for seed in range(3)], 0.95)
    (same,), _ = compare_repeats([_comparison(0.75, 0.5, seed) for seed in range(3)], 0.95)

    assert (zero["p_value"], same["p_value"]) == (1, 0)


def test_pairs_without_a_number_stay_without_one():
    part = _comparison(0.6, 0.5, 0)
    part["methods"]["first"] |= {"lds": None, "draws": [None] * 5000}
    part["pairs"][0] |= {"difference": None, "p_value": None, "standard_error": None}

    (row,), ranking = compare_repeats([part, part], 0.95)

    assert row["difference"] is None
    assert math.isnan(row["p_holm"])
    assert [entry["method"] for entry in ranking] == ["second", "first"]


def _pair(first: str, second: str, p_holm: float | None) -> dict:
    return {"first": first, "second": second, "p_holm": p_holm}


def _comparison(first: float, second: float, seed: int, error: float = 0.02) -> dict:
    """Make what the stage writes, as far as the comparison over repeats reads it."""
    draws = torch.randn(2, 5000, generator=make_generator(seed, "draws"), dtype=torch.float64)
    return {
        "methods": {
            name: {"lds": lds, "draws": (lds + 0.1 * values).tolist()}
            for name, lds, values in zip(("first", "second"), (first, second), draws, strict=True)
        },
        "pairs": [
            {"first": "first", "second": "second", "difference": first - second, "low": 0.0, "high": 0.2,
             "standard_error": error, "p_value": 0.04, "p_holm": 0.04, "bootstrap_low": 0.0, "bootstrap_high": 0.2}
        ],
    }  # fmt: skip
