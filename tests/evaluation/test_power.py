import dataclasses
import math
import re

import pytest
import torch

from tdabench.evaluation.lds import rank_correlation
from tdabench.questions.lds.power import Pilot, _draw_bank, pilot_of, plan, simulate_pilot
from tdabench.seeds import make_generator

PILOT = Pilot(
    subsets=50,
    retrains=2,
    queries=100,
    lds=0.4,
    agreement=0.5,
    over_queries=1e-4,
    over_subsets=4e-4,
    over_retrains=3e-4,
)
COMPARISON = {
    "subsets": 50,
    "retrains": 2,
    "queries": 100,
    "methods": {
        "bif": {"lds": 0.4, "variance": {"queries": 1e-4, "subsets": 4e-4, "retrains": 3e-4}},
        "ekfac": {"lds": 0.3, "variance": {"queries": 2e-4, "subsets": 5e-4, "retrains": None}},
        "constant": {"lds": None, "variance": {"queries": None, "subsets": None, "retrains": None}},
    },
    "pairs": [
        {"first": "bif", "second": "ekfac", "difference": 0.1,
         "variance": {"queries": 1e-5, "subsets": 2e-5, "retrains": 3e-5}}
    ],
    "ranking": [{"method": "bif"}, {"method": "ekfac"}],
    "reliability": {"agreement": 0.5},
}  # fmt: skip


def test_a_plan_at_the_pilots_own_size_gives_the_pilots_own_precision():
    (row,) = _plan(subsets=[50], retrains=[2])

    # Student's t with 49 degrees of freedom.
    assert row["half_width"] == pytest.approx(2.0096 * math.sqrt(8e-4), rel=1e-4)
    assert row["lds"] == pytest.approx(0.4)
    assert row["ceiling"] == pytest.approx(math.sqrt(1 / 1.5))
    assert row["models"] == 100


def test_subsets_shrink_their_own_part_and_leave_that_of_the_queries():
    few, many = _plan(subsets=[50, 5_000_000], retrains=[2])

    assert few["half_width"] > many["half_width"]
    assert many["half_width"] == pytest.approx(1.984 * math.sqrt(1e-4), rel=1e-2)
    (more,) = _plan(subsets=[5_000_000], retrains=[2], queries=400)
    assert more["half_width"] == pytest.approx(1.966 * math.sqrt(0.25e-4), rel=1e-2)


def test_retrains_raise_the_lds_as_the_ceiling_and_shrink_the_models_noise():
    one, two, four = _plan(subsets=[50], retrains=[1, 2, 4])

    assert [row["lds"] / row["ceiling"] for row in (one, two, four)] == pytest.approx([0.4 / (2 / 3) ** 0.5] * 3)
    noise_only = dataclasses.replace(PILOT, over_queries=0.0, over_subsets=0.0)
    rows = _plan(subsets=[50], retrains=[1, 2, 4], pilot=noise_only)
    # Noise has a half, a third and a fifth of the variance of 1, 2 and 4 retrains that agree by 0.5.
    widths = [row["half_width"] ** 2 for row in rows]
    assert widths[0] / widths[1] == pytest.approx((1 / 2) / (1 / 3))
    assert widths[2] / widths[1] == pytest.approx((1 / 5) / (1 / 3))


def test_the_cheapest_that_suffices_is_marked_and_nothing_where_none_does():
    rows = _plan(subsets=[50, 100, 200], retrains=[1, 2], half_width=0.05)

    enough = [row for row in rows if row["half_width"] <= 0.05]
    (marked,) = [row for row in rows if row["cheapest"]]
    assert marked["models"] == min(row["models"] for row in enough)
    assert not any(row["cheapest"] for row in _plan(subsets=[50], retrains=[1], half_width=1e-4))


def test_a_pilot_is_a_method_or_a_difference_of_two_in_either_order():
    best, difference, turned = (pilot_of(COMPARISON, *names) for names in (
        (None, None), ("bif", "ekfac"), ("ekfac", "bif")))  # fmt: skip

    assert best == PILOT
    assert (difference.lds, turned.lds) == (0.1, -0.1)
    assert difference.over_retrains == 3e-5


def test_a_pilot_with_one_retrain_plans_for_one_alone():
    pilot = dataclasses.replace(PILOT, retrains=1, agreement=None, over_retrains=math.nan)

    rows = _plan(subsets=[50, 100], retrains=[1, 2], pilot=pilot)

    assert [row["retrains"] for row in rows] == [1, 1]
    assert rows[0]["half_width"] == pytest.approx(2.0096 * math.sqrt(5e-4), rel=1e-4)
    with pytest.raises(ValueError, match=r"pilot has 1 retrain\(s\) a subset and no agreement above 0"):
        _plan(subsets=[50], retrains=[2], pilot=pilot)


@pytest.mark.parametrize(
    ("comparison", "names", "message"),
    [
        (COMPARISON, ("biff", None), "no method biff; there are bif, ekfac, constant"),
        (COMPARISON, ("bif", "biff"), "no method biff"),
        (COMPARISON, ("bif", "bif"), "no difference to itself, got bif twice"),
        (COMPARISON, ("constant", None), "no LDS of constant"),
        ({"lds": [0.1]}, (None, None), "no comparison: give results"),
        ({**COMPARISON, "methods": {}}, (None, None), "no method that could run"),
    ],
)
def test_what_cannot_be_a_pilot_is_an_error(comparison, names, message):
    with pytest.raises(ValueError, match=message):
        pilot_of(comparison, *names)


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("plan", {"half_width": 0.0}, "--half-width must be positive, got 0.0"),
        ("plan", {"confidence": 1.0}, "--confidence must lie in (0, 1), got 1.0"),
        ("plan", {"subsets": [2, 50]}, "at least 3 subsets, 1 retrain and 2 queries, got 2, 1, 100"),
        ("plan", {"retrains": [0]}, "got 50, 0, 100"),
        ("plan", {"queries": 1}, "got 50, 1, 1"),
        ("simulate", {"agreement": 0.0}, "--agreement must lie in (0, 1), got 0.0"),
        ("simulate", {"lds": 1.0}, "--lds must lie in (-1, 1), got 1.0"),
        ("simulate", {"shared": 1.5}, "--shared must lie in [0, 1], got 1.5"),
        ("simulate", {"query_spread": -0.1}, "got -0.1 and 30"),
        ("simulate", {"queries": 1}, "got 0.1 and 1"),
    ],
)
def test_a_value_out_of_range_is_an_error(function, change, message):
    values = {"agreement": 0.5, "lds": 0.4, "queries": 30, "shared": 0.3, "query_spread": 0.1, "paired": False}
    call, values = (_plan, {"subsets": [50], "retrains": [1]}) if function == "plan" else (simulate_pilot, values)

    with pytest.raises(ValueError, match=re.escape(message)):
        call(**{**values, **change})


def test_a_simulated_pilot_knows_how_much_fresh_banks_differ():
    values = {"agreement": 0.5, "lds": 0.5, "queries": 40, "shared": 0.5, "query_spread": 0.1}

    pilot = simulate_pilot(**values, paired=False)

    means = []
    for index in range(150):
        scores, losses = _draw_bank(*values.values(), make_generator(1, "fresh", index))
        means.append(rank_correlation(scores["first"].T, -losses.mean(dim=1)).mean())
    spread = torch.stack(means).std().item()
    predicted = math.sqrt(pilot.over_queries + pilot.over_subsets + pilot.over_retrains)
    # 150 banks know it to 6 %, six pilots to some 10 %.
    assert predicted == pytest.approx(spread, rel=0.3)
    assert pilot.lds == pytest.approx(torch.stack(means).mean().item(), abs=0.05)
    assert pilot.lds == pytest.approx(0.5 * math.sqrt(1 / 1.5), abs=0.06)


def _plan(*, subsets: list[int], retrains: list[int], pilot: Pilot = PILOT, **others) -> list[dict]:
    chosen = {"queries": 100, "half_width": 0.05, "confidence": 0.95, **others}
    return plan(pilot, subsets=subsets, retrains=retrains, **chosen)
