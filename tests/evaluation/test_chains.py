import math

import numpy as np
import pytest
import torch
from scipy import signal, stats

from tdabench.questions.diagnostics.mixing import (
    drift_scores,
    effective_draws,
    effective_draws_by_chain,
    mean_error,
    split_rhat,
)
from tdabench.seeds import make_generator


def _autoregressive(rho: float, chains: int, draws: int, series: int) -> torch.Tensor:
    """Draw stationary AR(1) chains of variance 1."""
    noise = torch.randn(chains, draws, series, dtype=torch.float64, generator=make_generator(0, "ar")).numpy()
    noise[:, 1:] *= math.sqrt(1 - rho**2)
    return torch.from_numpy(signal.lfilter([1], [1, -rho], noise, axis=1))


# Effective draws


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_draws_of_autoregressive_chains_are_what_their_correlation_says(rho):
    values = _autoregressive(rho, chains=4, draws=5000, series=40)

    found = effective_draws(values)

    exact = 4 * 5000 * (1 - rho) / (1 + rho)
    # Sums of correlations up to lag M have the relative standard error sqrt(2 (2M + 1) / N), M about where the
    # correlation is lost in noise of sqrt(1 / N) (40 lags at 0.9): at most 9 %, over 40 series 1.4 %. What lies beyond
    # the cut, and positive pairs of noise, add some percent.
    assert found.mean().item() == pytest.approx(exact, rel=0.08)
    assert mean_error(values).mean().item() == pytest.approx(exact**-0.5, rel=0.05)


def test_each_chain_has_its_own_effective_draws():
    slow, fast = _autoregressive(0.8, 1, 20000, 20), _autoregressive(0.0, 1, 20000, 20)

    found = effective_draws_by_chain(torch.cat([slow, fast])).mean(dim=1)

    assert found.tolist() == pytest.approx([20000 / 9, 20000], rel=0.08)


def test_chains_that_lie_apart_count_as_few_draws():
    values = _autoregressive(0.0, chains=4, draws=1000, series=20)

    apart = effective_draws(values + 5 * torch.arange(4.0)[:, None, None])

    # All that is seen of the spread between chains is four numbers.
    assert apart.max() < 10


def test_swinging_chains_are_worth_no_more_than_the_bound():
    swings = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)[None, :, None]

    assert effective_draws(swings).item() == pytest.approx(100 * math.log10(100))


# R-hat


def test_rhat_of_independent_draws_is_one():
    values = _autoregressive(0.0, chains=4, draws=2000, series=50)

    found = split_rhat(values)

    # R^2 is 1 + (chi^2_7 / 7 - 1) / N with N = 1000 draws in a half: the two of each of the 50 series stay below
    # 1.003 but for one time in 300.
    assert stats.chi2.sf(7 * 7, 7) * 100 < 1 / 300
    assert found.min() > 0.999
    assert found.max() < 1.003


def test_rhat_of_chains_that_do_not_overlap_is_that_of_the_halves_of_a_normal_law():
    values = _autoregressive(0.0, chains=2, draws=4000, series=20)
    values[1] += 20

    found = split_rhat(values)

    # Normal scores of the upper half have the mean sqrt(2 / pi) and the variance 1 - 2 / pi; of four halves of chains,
    # two lie at each mean.
    exact = math.sqrt(1 + 4 / 3 * (2 / math.pi) / (1 - 2 / math.pi))
    assert found.mean().item() == pytest.approx(exact, abs=0.005)


def test_rhat_sees_chains_that_differ_in_spread_alone():
    values = _autoregressive(0.0, chains=2, draws=2000, series=20)

    assert split_rhat(values * torch.tensor([1.0, 3.0])[:, None, None]).min() > 1.1


def test_rhat_sees_a_single_chain_that_wanders_off():
    values = _autoregressive(0.0, chains=1, draws=200, series=20)

    assert split_rhat(values + torch.linspace(0, 4, 200)[None, :, None]).min() > 1.3


# What never moves


@pytest.mark.parametrize("level", [0.0, 0.1, 2.3])
def test_a_loss_that_never_moves_has_no_diagnostics(level):
    values = torch.full((2, 50, 3), level, dtype=torch.float64)

    for measure in (split_rhat, effective_draws, effective_draws_by_chain, drift_scores):
        assert measure(values).isnan().all()
    assert (mean_error(values) == 0).all()


def test_chains_that_stand_still_at_different_places_have_an_infinite_rhat():
    values = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None].expand(2, 50, 3)

    assert split_rhat(values).isinf().all()


# Drift


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_drift_of_settled_chains_is_standard_normal(rho):
    scores = drift_scores(_autoregressive(rho, chains=2, draws=4000, series=500)).flatten()

    # 1,000 scores: four standard errors of a share of 5 % are 2.8 %.
    assert (scores.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.028)
    assert scores.mean().item() == pytest.approx(0, abs=4 / math.sqrt(1000))


@pytest.mark.parametrize("size", [-2.8, 1.0, 2.8])
def test_a_step_in_mid_chain_is_found_with_the_power_of_a_normal_test(size):
    values = _autoregressive(0.5, chains=1, draws=4000, series=1000)
    error = math.sqrt(2 * 3 / 2000)  # of a difference of halves, each worth 2000 / 3 draws
    values[:, 2000:] += size * error

    scores = drift_scores(values)[0]

    power = stats.norm.sf(1.96 - abs(size)) + stats.norm.cdf(-1.96 - abs(size))
    tolerance = 4 * math.sqrt(power * (1 - power) / 1000) + 0.01
    assert (scores.abs() > 1.96).double().mean().item() == pytest.approx(power, abs=tolerance)
    assert np.sign(scores.mean().item()) == np.sign(size)
