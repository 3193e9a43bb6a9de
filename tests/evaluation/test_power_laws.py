"""Power laws of cost, predictions from them, and break-even queries."""

import math

import pytest
from scipy import stats

from tdabench.questions.scaling.laws import (
    Line,
    find_break_even,
    fit_power_law,
    hold_out_largest,
    predict_break_even,
)

SIZES = [14e6, 31e6, 70e6, 162e6]
NOISY = [1.0, 2.9, 5.1, 16.0]


def test_exponent_and_interval_are_those_of_scipy():
    expected = stats.linregress([math.log(size) for size in SIZES], [math.log(cost) for cost in NOISY])
    reach = stats.t.ppf(0.95, len(SIZES) - 2) * expected.stderr

    law = fit_power_law(SIZES, NOISY, confidence=0.9)

    assert law.exponent == pytest.approx(expected.slope)
    assert (law.low, law.high) == pytest.approx((expected.slope - reach, expected.slope + reach))


def test_a_prediction_has_the_interval_of_a_new_measurement():
    # By simulation, since scipy has no such interval: 90% of fresh measurements lie in it.
    generator = stats.norm(scale=0.3)
    noise = generator.rvs(size=(2000, len(SIZES) + 1), random_state=0)
    inside = 0
    for *misfits, fresh in noise:
        costs = [size * math.exp(misfit) for size, misfit in zip(SIZES, misfits, strict=True)]
        predicted = fit_power_law(SIZES, costs, confidence=0.5).predict(1e9, 0.9)
        inside += predicted.low <= 1e9 * math.exp(fresh) <= predicted.high

    assert inside / 2000 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 2000))


def test_two_sizes_have_an_exponent_and_no_interval():
    law = fit_power_law([10.0, 100.0], [2.0, 200.0], confidence=0.95)

    assert law.exponent == pytest.approx(2)
    assert math.isnan(law.low)
    assert math.isnan(law.high)
    predicted = law.predict(1000.0, 0.95)
    assert predicted.value == pytest.approx(20_000)
    assert math.isnan(predicted.low)
    assert math.isnan(predicted.high)


def test_repeats_of_a_size_are_one_point():
    once = fit_power_law(SIZES, NOISY, confidence=0.95)
    costs = [cost * factor for cost in NOISY for factor in (0.5, 2.0)]
    twice = fit_power_law([size for size in SIZES for _ in range(2)], costs, confidence=0.95)

    assert twice.points == 4
    assert (twice.exponent, twice.low, twice.high) == pytest.approx((once.exponent, once.low, once.high))


def test_missing_costs_are_left_out_and_a_cost_of_nothing_has_no_law():
    law = fit_power_law([*SIZES, 410e6], [*NOISY, math.nan], confidence=0.95)

    assert law == fit_power_law(SIZES, NOISY, confidence=0.95)
    assert fit_power_law(SIZES, [0.0] * 4, confidence=0.95) is None
    assert fit_power_law([14e6, 14e6], [1.0, 2.0], confidence=0.95) is None
    assert fit_power_law([], [], confidence=0.95) is None


def test_the_largest_measured_size_is_predicted_from_the_others_alone():
    size, predicted = hold_out_largest([*SIZES, 410e6], [*NOISY, math.nan], confidence=0.95)

    assert size == 162e6
    assert predicted == fit_power_law(SIZES[:3], NOISY[:3], confidence=0.95).predict(162e6, 0.95)
    assert predicted.low < predicted.value < predicted.high


@pytest.mark.parametrize(
    ("fitted", "other", "queries"),
    [
        ((100.0, 1.0), (0.0, 5.0), 25),
        ((0.0, 1.0), (10.0, 5.0), 0),
        ((100.0, 5.0), (0.0, 5.0), math.inf),
        ((100.0, 6.0), (0.0, 5.0), math.inf),
        # Cheaper for the first queries only: never for good.
        ((0.0, 6.0), (100.0, 5.0), math.inf),
        ((7.0, 5.0), (7.0, 5.0), 0),
    ],
)
def test_a_fit_has_paid_for_itself_where_the_lines_cross(fitted, other, queries):
    lines = [Line(intercept=once, slope=per_query) for once, per_query in (fitted, other)]

    assert predict_break_even(*lines) == pytest.approx(queries)


def test_the_measured_break_even_lies_between_two_measured_numbers_of_queries():
    queries = [1, 10, 30, 100]
    fitted, other = [100.0 + q for q in queries], [5.0 * q for q in queries]

    value, low, high = find_break_even(queries, fitted, other)

    assert (low, high) == (10, 30)
    assert value == pytest.approx(25)
    assert find_break_even([30, 100], [130.0, 200.0], [150.0, 500.0])[1:] == (0, 30)
    assert find_break_even([1, 10], [101.0, 110.0], [5.0, 50.0])[1:] == (10, math.inf)
    # Cheaper for a while: not before the last crossing.
    assert find_break_even([1, 2, 3, 4], [9.0, 10.0, 14.0, 15.0], [10.0, 11.0, 12.0, 20.0])[1:] == (3, 4)
