import math

import numpy as np
import pytest
import torch
from walks import walk_on

from tdabench.attributors.base import Problem
from tdabench.attributors.calibration.pilot import LENGTHS, correlate, find_relaxation, run_pilot, weigh_spacings
from tdabench.attributors.sampling.sgld import SGLD
from tdabench.seeds import make_generator
from tdabench.testing import Quadratic, quadratic_loss


@pytest.mark.parametrize("correlation", [0.8, 0.3, -0.4])
def test_autocorrelations_of_first_order_series_are_powers(correlation):
    # 100 independent series of 2,000: an autocorrelation has a standard error below sqrt(2 / (1 - 0.64) / 2e5) = 0.005.
    series = _first_order(correlation, steps=2000, count=100)

    found = correlate(series)

    lags = torch.arange(6)
    expected = correlation**lags
    assert (found[:6] - expected)[expected.abs() > 0.1].abs().max() < 4 * 0.005
    assert (found[:6] - expected).abs().max() < 0.1  # cut where it is noise
    assert found[50:].abs().max() < 4 * 0.005
    assert 1 + 2 * found[1:].sum() == pytest.approx((1 + correlation) / (1 - correlation), rel=0.15)


def test_a_series_that_never_moves_is_left_out_of_the_autocorrelations():
    series = _first_order(0.5, steps=500, count=3)

    found = correlate(torch.cat([series, torch.ones(500, 2).double()], dim=1))

    torch.testing.assert_close(found, correlate(series))
    assert correlate(torch.ones(10, 2).double()).tolist() == [1, *[0] * 9]


def test_relaxation_is_the_time_to_make_95_percent_of_the_change():
    # 1 - 0.9^t reaches 0.95 at t = ln 0.05 / ln 0.9 = 28.4.
    series = 1 - 0.9 ** torch.arange(401).double()

    assert find_relaxation(series) == 29
    assert find_relaxation(5 - 2 * series) == 29


def test_relaxation_of_a_series_that_fluctuates_about_its_start_is_no_drift():
    assert find_relaxation(_first_order(0.5, steps=401, count=1)[:, 0]) is not None


def test_relaxation_of_a_series_that_drifts_on_is_none():
    assert find_relaxation(torch.arange(101).double()) is None


def test_the_worth_of_a_draw_is_the_effective_draws_of_products_of_losses():
    # A product of two centred losses has the autocorrelation rho^2: 0.36^t at every step, 0.36^(2t) at every second.
    correlations = 0.6 ** torch.arange(400).double()

    spacings = weigh_spacings(correlations, step_passes=30, draw_passes=100, most=3)

    assert [entry.steps for entry in spacings] == [1, 2, 3]
    for entry in spacings:
        squared = 0.36**entry.steps
        assert entry.effective == pytest.approx((1 - squared) / (1 + squared))
        assert entry.passes == 100 + 30 * entry.steps
        assert entry.worth == pytest.approx(1e6 * entry.effective / entry.passes)


def test_the_worth_of_a_draw_is_what_a_covariance_of_correlated_draws_is_known_to():
    # 4,000 chains of 200 draws: the variance of a covariance is (1 + rho^2) / (1 - rho^2) times that of independent
    # draws, 1 / 200; a variance of 4,000 numbers is known to sqrt(2 / 4000) = 2.2 %.
    first, second = (_first_order(0.7, steps=200, count=4000, seed=seed) for seed in (1, 2))
    covariances = (first * second).mean(dim=0)

    worth = weigh_spacings(0.7 ** torch.arange(200).double(), step_passes=1, draw_passes=1, most=1)[0].effective

    assert covariances.var().item() == pytest.approx(1 / (200 * worth), rel=4 * 0.022)


def test_a_pilot_on_a_quadratic_loss_has_the_exact_autocorrelation_and_no_query_is_looked_at(tmp_path):
    # Losses with a steep slope are linear in the position, whose autocorrelation is 1 - eps*A/2 = 0.75 a step.
    problem = _steep_problem(tmp_path)

    pilot = run_pilot(problem, _walk(problem, step_size=0.25), loss_batch_size=500, generator=make_generator(0, "p"))

    # An autocorrelation of N draws has a standard error of at most sqrt((1 + rho^2) / (1 - rho^2) / N).
    error = math.sqrt((1 + 0.75**2) / (1 - 0.75**2) / pilot.steps)
    assert pilot.correlations[1].item() == pytest.approx(0.75, abs=4 * error)
    assert pilot.steps >= 30 * pilot.autocorrelation_time
    assert pilot.relaxation is not None
    assert pilot.relaxation < 40
    # The stationary variance, bias of the step size included, is 1 / (A (1 - eps A / 4)) a direction, of two.
    variance = 2 / (2 * (1 - 0.25 * 2 / 4))
    assert pilot.distance == pytest.approx(math.sqrt(variance), rel=0.5)
    assert pilot.step_seconds > 0
    assert pilot.pass_seconds > 0


def test_a_pilot_goes_on_until_it_is_long_beside_its_autocorrelation(tmp_path):
    problem = _steep_problem(tmp_path)

    short, long = (
        run_pilot(problem, _walk(problem, step_size=size), loss_batch_size=500, generator=make_generator(0, "p")).steps
        for size in (1.0, 0.1)
    )

    assert short == LENGTHS[0]
    assert long > LENGTHS[1]


def test_a_pilot_that_diverges_is_none(tmp_path):
    problem = _steep_problem(tmp_path)

    assert (
        run_pilot(problem, _walk(problem, step_size=9.0), loss_batch_size=9, generator=make_generator(0, "p")) is None
    )


def _first_order(correlation: float, *, steps: int, count: int, seed: int = 0) -> torch.Tensor:
    numbers = np.random.default_rng(seed)
    values = [numbers.normal(size=count)]
    for _ in range(steps - 1):
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * numbers.normal(size=count))
    return torch.tensor(np.array(values))


def _steep_problem(workspace) -> Problem:
    """Make losses whose slope far outweighs their curvature, 1; their mean has none at the checkpoint."""
    centres = 1e3 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    train = {"centre": centres, "hessian": torch.eye(2).repeat(4, 1, 1)}
    query = {"centre": torch.full((3, 2), math.nan), "hessian": torch.full((3, 2, 2), math.nan)}
    model = Quadratic(torch.zeros(2)).eval()
    return Problem(models=(model,), loss=quadratic_loss, train=train, query=query, reference=train, workspace=workspace)


def _walk(problem: Problem, *, step_size: float):
    sampler, generator = SGLD(step_size=step_size, inverse_temperature=1.5, localization=0.5), make_generator(0, "walk")
    model, loss, reference = problem.models[0], problem.loss, problem.reference
    return walk_on(sampler, model, loss, reference, steps=LENGTHS[-1], batch_size=4, generator=generator)
