import math
import re

import numpy as np
import pytest
import torch
from linear_chains import LinearChain, baoab_chain, sgld_chain
from scipy.integrate import quad
from torch import Tensor
from walks import make_walker_on, walk_on

from tdabench.attributors.base import Examples
from tdabench.attributors.bif import BIF
from tdabench.attributors.sampling.rmsprop_sgld import RMSpropSGLD
from tdabench.attributors.sampling.samplers import make_sampler
from tdabench.attributors.sampling.sgld import SGLD
from tdabench.attributors.sampling.walker import MarkovSampler
from tdabench.seeds import make_generator
from tdabench.testing import Quadratic, quadratic_loss

# A = n*beta*H + gamma*I has the eigenvalues 2.3 and 3.5: with this step size eps*A is 2.07 and 3.15, near the limit 4.
INVERSE_TEMPERATURE, LOCALIZATION, STEP_SIZE = 2.0, 0.7, 0.9
TURN = np.array([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
HESSIAN = TURN @ np.diag([0.8, 1.4]) @ TURN.T
PRECISION = INVERSE_TEMPERATURE * HESSIAN + LOCALIZATION * np.eye(2)
CHECKPOINT = np.array([1.0, -2.0])
CRITICAL = 2 * math.sqrt(STEP_SIZE * LOCALIZATION)
MEASURED = {"preconditioner": "frozen", "preconditioner_steps": 3, "stability": 0.5}
ADAPTIVE = {"preconditioner": "adaptive"}
BIF_SETTINGS = {"step_size": 0.9, "inverse_temperature": 2.0, "localization": 0.7, "chains": 2, "draws": 10}
SAMPLERS = {
    "sgld": {"sampler": "sgld"},
    "rmsprop_sgld": {"sampler": "rmsprop_sgld", **MEASURED},
    "baoab": {"sampler": "baoab"},
    "baoab of little friction": {"sampler": "baoab", "friction": 0.4},
    "preconditioned baoab": {"sampler": "baoab", "friction": 0.8, **MEASURED},
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@each_sampler
def test_positions_have_the_exact_stationary_law_of_the_sampler(sampler):
    slope, steps = np.array([0.5, -1.5]), 1500  # the checkpoint is no minimum: the chain walks to that of the potential
    examples = _quadratic([CHECKPOINT - np.linalg.solve(HESSIAN, slope)])
    law = _exact_chain(sampler, squares=slope**2, gradient_noise=np.zeros((2, 2)))

    positions = _sample(sampler, examples, steps=steps)

    expected = _closed_form(sampler, squares=slope**2)
    np.testing.assert_allclose(law.covariance(), expected, rtol=1e-9)
    assert (np.abs(np.cov(positions.T) - expected) < 4 * law.covariance_error(steps)).all()
    mean = CHECKPOINT - INVERSE_TEMPERATURE * np.linalg.solve(PRECISION, slope)
    assert (np.abs(positions.mean(axis=0) - mean) < 4 * law.mean_error(steps)).all()


@each_sampler
def test_minibatches_heat_the_stationary_law_as_much_as_their_noise_tells(sampler):
    # A minibatch of one of two examples has the gradient +g or -g at the checkpoint: all of its square is noise.
    slope, steps = np.array([1.8, 0.8]), 1500
    offset = np.linalg.solve(HESSIAN, slope)
    examples = _quadratic([CHECKPOINT - offset, CHECKPOINT + offset])
    gradient_noise = INVERSE_TEMPERATURE**2 * np.outer(slope, slope)
    law = _exact_chain(sampler, squares=slope**2, gradient_noise=gradient_noise)

    positions = _sample(sampler, examples, steps=steps)

    heat = np.abs(law.covariance() - _closed_form(sampler, squares=slope**2))
    assert (heat > 8 * law.covariance_error(steps)).any()
    assert (np.abs(np.cov(positions.T) - law.covariance()) < 4 * law.covariance_error(steps)).all()


@pytest.mark.parametrize("friction", [0.05, 0.7, 6.0])
@pytest.mark.parametrize("step_size", [0.01, 1.2])
def test_minibatches_heat_baoab_by_the_formula_that_its_page_gives(friction, step_size):
    precision, noise = np.array([[3.0]]), np.array([[2.5]])

    law = baoab_chain(
        precision, step_size=step_size, friction=friction, strength=np.ones(1), gradient_noise=noise
    ).covariance()

    heat = step_size * 2.5 / 4 / math.tanh(friction / 2) / (1 - step_size * 3.0 / 4)
    assert law.item() == pytest.approx((1 + heat) / 3.0, rel=1e-9)


@pytest.mark.parametrize(("factor", "stable"), [(0.99, True), (1.02, False)])
@each_sampler
def test_every_sampler_is_stable_up_to_the_same_limit(sampler, factor, stable):
    slope = np.array([0.5, -1.5])
    scale = np.diag(np.sqrt(_strength(sampler, slope**2)))
    limit = 4 / np.linalg.eigvalsh(scale @ PRECISION @ scale).max()
    examples = _quadratic([CHECKPOINT - np.linalg.solve(HESSIAN, slope)])

    positions = _sample(sampler, examples, steps=900, step_size=factor * limit)

    # Below the limit SGLD's variance is at most 100 / A; above it, 1,000 steps multiply the distance by 1.02 each, or
    # by exp(-f) of it where momentum is lost.
    assert (np.abs(positions[-1]).max() < 50) == stable


def test_adaptive_preconditioner_without_memory_samples_the_wider_law_of_the_dropped_drift():
    # Without memory G is a function of the position: small steps sample exp(-U) / G instead of exp(-U).
    floor, inverse_temperature, localization = 1.0, 0.5, 0.5

    def density(position: float) -> float:
        potential = inverse_temperature * (position + 1) ** 2 / 2 + localization * position**2 / 2
        return math.exp(-potential) * (floor + abs(position + 1))

    moments = [quad(lambda w, k=k: w**k * density(w), -9, 9, points=[-1])[0] for k in range(3)]
    mean = moments[1] / moments[0]
    expected = moments[2] / moments[0] - mean**2

    positions = _sample_separately(decay=0.0, step_size=0.05)

    # 10,000 parameters are chains of their own, their kurtosis below 3; the step size is worth a percent or two.
    assert positions.var() == pytest.approx(expected, rel=0.02 + 4 * math.sqrt(2 / 10_000))
    assert positions.mean() == pytest.approx(mean, abs=0.02 + 4 * math.sqrt(expected / 10_000))
    assert 1.30 < expected < 1.36  # of exp(-U), the variance is 1


@pytest.mark.parametrize(("decay", "low", "high"), [(0.9, 0.20, 0.30), (0.99, 0.05, 0.11), (None, -0.02, 0.03)])
def test_a_preconditioner_that_follows_the_chain_widens_it_by_what_its_page_says_and_a_frozen_one_does_not(
    decay, low, high
):
    positions = _sample_separately(decay=decay, step_size=0.05)

    # The variance of exp(-U) is 1; the standard error is 0.006: 10,000 parameters, each worth 5 draws. Frozen, the
    # step size widens it by 1 / (1 - 0.05 / 2 / 4) = 1.006.
    assert low < positions.var() - 1 < high


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "hmc"}, "sampler must be one of sgld, rmsprop_sgld, baoab, got 'hmc'"),
        ({"friction": 0.5}, "friction is a setting of sampler baoab, not of sgld; got 0.5"),
        ({"sampler": "rmsprop_sgld", "friction": 0.5}, "friction is a setting of sampler baoab, not of rmsprop_sgld"),
        ({"stability": 0.5}, "stability is a setting of sampler rmsprop_sgld and baoab, not of sgld; got 0.5"),
        ({"preconditioner": "frozen"}, "preconditioner is a setting of sampler rmsprop_sgld and baoab, not of sgld"),
        ({"sampler": "baoab", "decay": 0.9}, "decay is a setting of sampler rmsprop_sgld, not of baoab; got 0.9"),
        ({"sampler": "baoab", "friction": 0.0}, "friction must be positive and finite, got 0.0"),
        ({"sampler": "baoab", "friction": math.inf}, "friction must be positive and finite, got inf"),
        ({"sampler": "rmsprop_sgld", "stability": 0.0}, "stability must be positive and finite, got 0.0"),
        ({"sampler": "rmsprop_sgld", "stability": math.nan}, "stability must be positive and finite, got nan"),
        ({"sampler": "rmsprop_sgld", "preconditioner_steps": 0}, "preconditioner_steps must be at least 1, got 0"),
        ({"sampler": "rmsprop_sgld", **ADAPTIVE, "decay": 1.0}, "decay must lie in [0, 1), got 1.0"),
        ({"sampler": "rmsprop_sgld", **ADAPTIVE, "decay": math.nan}, "decay must lie in [0, 1), got nan"),
        ({"sampler": "rmsprop_sgld", "decay": 0.9}, "decay is for preconditioner: adaptive, which alone follows"),
        (
            {"sampler": "rmsprop_sgld", "preconditioner": "melted"},
            "preconditioner of sampler rmsprop_sgld must be frozen or adaptive, got 'melted'",
        ),
        ({"sampler": "baoab", **ADAPTIVE}, "preconditioner of sampler baoab must be frozen, got 'adaptive'"),
        ({"sampler": "baoab", "stability": 1.0}, "preconditioner_steps and stability are for preconditioner: frozen"),
        ({"sampler": "baoab", "localization": 0.0}, "Without localization, sampler baoab needs friction"),
    ],
)
def test_a_setting_that_is_of_no_use_or_out_of_range_is_an_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BIF(**{**BIF_SETTINGS, **settings})


@pytest.mark.parametrize("height", [0.0, math.nan])
@pytest.mark.parametrize("sampler", [SAMPLERS["rmsprop_sgld"], SAMPLERS["preconditioned baoab"]])
def test_a_checkpoint_without_usable_gradients_has_no_preconditioner(sampler, height):
    examples = _quadratic([CHECKPOINT + height])

    with pytest.raises(ValueError, match=f"their root mean square at the checkpoint is {height}"):
        _sample(sampler, examples, steps=1)


def test_a_minibatch_does_not_choose_the_length_of_its_own_step():
    settings = {**SAMPLERS["rmsprop_sgld"], "preconditioner_steps": 4}
    examples = _quadratic([CHECKPOINT + 1.0, CHECKPOINT - 3.0])

    frozen, adaptive = (
        [
            step.position.clone()
            for step in walk_on(
                _make({**settings, **changes}, step_size=0.1), Quadratic(torch.tensor(CHECKPOINT)), quadratic_loss,
                examples, steps=2, batch_size=1, generator=make_generator(0, "chain"),
            )
        ]
        for changes in ({}, {**ADAPTIVE, "decay": 0.5})
    )  # fmt: skip

    # The first step has the preconditioner of the checkpoint; the second follows the first one's gradient.
    assert torch.equal(frozen[0], adaptive[0])
    assert not torch.equal(frozen[1], adaptive[1])


def test_sampling_a_wholly_frozen_model_is_an_error():
    model, examples = Quadratic(torch.zeros(2)).requires_grad_(False), _quadratic([CHECKPOINT])

    with pytest.raises(ValueError, match="Sampling needs parameters that require a gradient"):
        make_walker_on(model, quadratic_loss, examples, batch_size=1, generator=make_generator(0, "chain"))


def test_the_given_model_is_left_in_its_mode_and_the_copy_is_in_eval_mode():
    model = Quadratic(torch.zeros(2, dtype=torch.float64)).train()

    *_, last = walk_on(
        SGLD(step_size=0.1, inverse_temperature=1.0, localization=1.0), model, quadratic_loss,
        _quadratic([CHECKPOINT]), steps=3, batch_size=1, generator=make_generator(0, "chain"),
    )  # fmt: skip

    assert model.training
    assert model.position.eq(0).all()
    assert not last.model.training
    assert torch.equal(last.model.position, last.position)
    assert last.distance() == pytest.approx(last.position.norm().item())


def _make(sampler: dict[str, object], *, step_size: float) -> MarkovSampler:
    law = {"step_size": step_size, "inverse_temperature": INVERSE_TEMPERATURE, "localization": LOCALIZATION}
    return make_sampler(BIF(**law, **sampler, chains=1, draws=2))


def _sample(sampler: dict[str, object], examples: Examples, *, steps: int, step_size: float = STEP_SIZE) -> np.ndarray:
    """Sample a chain with minibatches of one, and leave out a burn-in of 100 steps."""
    model, generator = Quadratic(torch.tensor(CHECKPOINT)), make_generator(0, "chain")
    moved = _make(sampler, step_size=step_size)
    chain = walk_on(moved, model, quadratic_loss, examples, steps=steps + 100, batch_size=1, generator=generator)
    return torch.stack([step.position.clone() for step in chain])[100:].numpy()


def _quadratic(centres: list[np.ndarray]) -> Examples:
    hessians = torch.tensor(HESSIAN).repeat(len(centres), 1, 1)
    return {"centre": torch.tensor(np.stack(centres)), "hessian": hessians}


def _strength(sampler: dict[str, object], squares: np.ndarray) -> np.ndarray:
    if "preconditioner" not in sampler:
        return np.ones(2)
    floor = sampler["stability"] * math.sqrt(squares.mean())
    return floor / (floor + np.sqrt(squares))


def _exact_chain(sampler: dict[str, object], *, squares: np.ndarray, gradient_noise: np.ndarray) -> LinearChain:
    settings = {"step_size": STEP_SIZE, "strength": _strength(sampler, squares), "gradient_noise": gradient_noise}
    if sampler["sampler"] == "baoab":
        return baoab_chain(PRECISION, friction=sampler.get("friction", CRITICAL), **settings)
    return sgld_chain(PRECISION, **settings)


def _closed_form(sampler: dict[str, object], *, squares: np.ndarray) -> np.ndarray:
    """Return the stationary covariance without gradient noise: BAOAB has no bias of the step size."""
    strength = np.diag(_strength(sampler, squares))
    bias = 0 if sampler["sampler"] == "baoab" else STEP_SIZE / 4 * PRECISION @ strength @ PRECISION
    return np.linalg.inv(PRECISION - bias)


def _sample_separately(*, decay: float | None, step_size: float) -> np.ndarray:
    """Sample 10,000 independent parameters with n*beta*H = gamma = 1/2 and the gradient 1 at the checkpoint 0.

    Their positions at every 40th of the last 400 of 900 steps; without ``decay``, with a frozen preconditioner.
    """
    preconditioner = {"preconditioner": "frozen"} if decay is None else {**ADAPTIVE, "decay": decay}
    sampler = RMSpropSGLD(
        step_size=step_size, inverse_temperature=0.5, localization=0.5, preconditioner_steps=1, **preconditioner
    )
    model, examples = Quadratic(torch.zeros(10_000)), {"centre": torch.full((1, 10_000), -1.0)}
    generator = make_generator(0, "chain")
    chain = walk_on(sampler, model, _separate_loss, examples, steps=900, batch_size=1, generator=generator)
    positions = [step.position.clone() for count, step in enumerate(chain) if count >= 500 and count % 40 == 0]
    return torch.stack(positions).double().numpy()


def _separate_loss(model: Quadratic, examples: Examples) -> Tensor:
    return model(examples["centre"]).square().sum(dim=1) / 2
