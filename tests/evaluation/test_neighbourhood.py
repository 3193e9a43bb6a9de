import math

import pytest
import torch

from tdabench.questions.diagnostics.neighbourhood import describe_descent, describe_distance
from tdabench.seeds import make_generator

STEPS = torch.arange(1, 201).repeat(3, 1)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_growth_is_the_exponent_of_the_distance_over_the_later_draws(exponent):
    found = describe_distance(3 * STEPS.double() ** exponent)

    assert found["growth"] == pytest.approx(exponent, abs=1e-9)
    assert found["last"] == pytest.approx(3 * 200**exponent)
    assert found["median"] == pytest.approx(3 * 100**exponent, rel=0.01)


def test_growth_counts_steps_and_not_draws():
    steps = 1000 + 10 * STEPS  # after a long burn-in

    found = describe_distance(steps.double().sqrt(), steps)

    assert found["growth"] == pytest.approx(0.5)
    assert describe_distance(steps.double().sqrt())["growth"] < 0.3


@pytest.mark.parametrize("draws", [1, 2, 10])
def test_few_draws_have_a_distance_without_growth(draws):
    found = describe_distance(torch.ones(2, draws))

    assert (found["median"], found["last"], found["growth"]) == (1.0, 1.0, None)


def test_a_chain_that_never_left_has_no_growth():
    assert describe_distance(torch.zeros(2, 100)) == {"median": 0.0, "last": 0.0, "growth": None}


def test_the_descent_is_that_of_the_mean_training_loss_with_its_error():
    losses = 2 + torch.randn(4, 500, 30, generator=make_generator(0, "losses"))

    found = describe_descent(losses, torch.full((30,), 2.5), markov=True, inverse_temperature=8.0)

    error = 1 / math.sqrt(30 * 2000)
    assert found["difference"] == pytest.approx(-0.5, abs=4 * error)
    assert found["error"] == pytest.approx(error, rel=0.2)
    assert found["explored"] == pytest.approx(8 * (0.5 + 1 / math.sqrt(30)), rel=0.05)


def test_draws_that_are_no_chain_have_the_error_of_independent_ones():
    losses = torch.randn(1, 100, 1, generator=make_generator(0, "losses"))

    found = describe_descent(losses, torch.zeros(1), markov=False, inverse_temperature=None)

    assert found["error"] == pytest.approx(losses.std().item() / 10)
    assert found["explored"] is None
