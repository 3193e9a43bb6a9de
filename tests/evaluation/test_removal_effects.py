import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.removal.effects import (
    RemovalEffects,
    compare_removals,
    evaluate_removal,
    query_interval,
    removal_effects,
)
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=4000)


def test_effects_are_differences_of_the_arms_with_a_rise_of_the_loss_as_positive():
    removed, matched, full = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[0.25]])

    effects = removal_effects(removed, matched, full, torch.tensor([[0.5]]))

    assert effects.overlap.item() == 0.5
    assert effects.chosen.item() == 2.0
    assert effects.matched.item() == 0.75


@pytest.mark.usefixtures("unchecked_types")
def test_arms_of_other_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"disagree in \(query, retrain\): \(4, 2\), \(4, 2\), \(5, 2\), \(4, 2\)"):
        removal_effects(torch.ones(4, 2), torch.ones(4, 2), torch.ones(5, 2), torch.ones(4, 2))


def test_the_standard_error_is_the_closed_form_of_queries_with_retrains_inside():
    # Queries differ by 2, retrains of a query by 3: the mean over Q queries and R retrains has the variance
    # (2**2 + 3**2 / R) / Q, of which a bootstrap that resampled retrains again would count the second part twice.
    expected = ((4 + 9 / 2) / 25) ** 0.5

    errors = [_evaluate(_draw_effects(seed, queries=25, retrains=2))["standard_error"] for seed in range(200)]

    # The mean square over 200 experiments is known to sqrt(2 / 24 / 200) = 2%.
    assert (sum(error**2 for error in errors) / 200) ** 0.5 == pytest.approx(expected, rel=0.05)


def test_the_interval_covers_the_true_effect_as_often_as_it_says():
    found = [_evaluate(_draw_effects(seed, queries=25, retrains=2)) for seed in range(400)]

    covered = sum(result["low"] <= 1.0 <= result["high"] for result in found) / 400

    # 95% to within three standard errors of 1.1%, and the 1% that a percentile interval of 25 queries lacks.
    assert 0.907 < covered < 0.983


def test_retrains_that_diverged_are_left_out_and_counted():
    removed, matched, full = torch.randn(3, 4, 2, generator=make_generator(0, "arms")).double()
    removed[0, 0] = matched[1] = torch.nan
    full[2, 1] = torch.nan

    result = _evaluate(removal_effects(removed, matched, full, torch.zeros(4, 2)))

    first = (removed - matched)[0, 1]
    expected = torch.stack([first, (removed - matched)[2].mean(), (removed - matched)[3].mean()]).mean()
    assert result["effect"] == pytest.approx(expected.item())
    assert (result["queries"], result["diverged"]) == (3, 4)


def test_a_single_query_has_no_interval():
    interval = query_interval(torch.tensor([2.0, torch.nan]), SETTINGS, generator=make_generator(0, "bootstrap"))

    assert interval.mean == 2.0
    assert all(math.isnan(number) for number in (interval.low, interval.high, interval.standard_error))


def test_methods_are_compared_within_queries_and_retrains():
    first = _draw_effects(0, queries=25, retrains=2)
    better = dataclasses.replace(first, chosen=first.chosen + 0.5)
    other = _draw_effects(1, queries=25, retrains=2)

    pairs = _compare({"first": first, "better": better, "other": other})

    assert [(pair["method"], pair["other"]) for pair in pairs] == [
        ("first", "better"), ("first", "other"), ("better", "other"),
    ]  # fmt: skip
    same, unlike, moved = pairs
    # What two methods share (the query, the seed) drops out of their difference.
    assert same["difference"] == pytest.approx(-0.5)
    assert same["low"] == pytest.approx(-0.5)
    assert same["high"] == pytest.approx(-0.5)
    assert same["queries"] == 25
    spread = (first.chosen - other.chosen).mean(dim=1).std().item()
    assert unlike["difference"] == pytest.approx((first.chosen - other.chosen).mean().item())
    assert unlike["standard_error"] == pytest.approx(spread / 5, rel=0.05)
    assert moved["low"] == pytest.approx(unlike["low"] + 0.5)  # on the same resamples


def test_a_pair_leaves_out_what_either_of_them_lacks():
    first, other = _draw_effects(0, queries=5, retrains=1), _draw_effects(1, queries=5, retrains=1)
    first.chosen[0] = torch.nan
    other.chosen[3] = torch.nan

    (pair,) = _compare({"first": first, "other": other})

    assert pair["queries"] == 3
    assert pair["difference"] == pytest.approx((first.chosen - other.chosen)[[1, 2, 4]].mean().item())


def _draw_effects(seed: int, *, queries: int, retrains: int) -> RemovalEffects:
    generator = make_generator(seed, "effects")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    chosen = 1 + 2 * draw(queries, 1) + 3 * draw(queries, retrains)
    return RemovalEffects(chosen=chosen, matched=draw(queries, retrains), overlap=torch.zeros(queries, retrains))


def _evaluate(effects: RemovalEffects) -> dict:
    return evaluate_removal(effects, SETTINGS, generator=make_generator(0, "bootstrap"))


def _compare(effects: dict[str, RemovalEffects]) -> list[dict]:
    return compare_removals(effects, SETTINGS, generator=make_generator(0, "bootstrap"))
