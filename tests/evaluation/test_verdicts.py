"""Warnings of simulated chains: each has its own, and none of the others."""

import math

import pytest
import torch

from tdabench.questions.diagnostics.diagnose import diagnose_traces
from tdabench.seeds import make_generator

PARAMETERS, EXAMPLES, INVERSE_TEMPERATURE = 200, 30, 100.0


def _diagnose(
    *, step_size=(0.01, 0.01), start=0.0, localization=10.0, draws=400, burn_in=0, between=1, **changes
) -> dict:
    r"""Diagnose SGLD on the losses |w - c_i|^2 / 2, whose mean has its minimum at 0, from the checkpoint ``start``.

    A step multiplies what is left of the way by 1 - eps (n beta + gamma) / 2, so that it is stable below an eps of 4 /
    110 = 0.036 with the default localization, and forgets in 2 / (110 eps) steps.

    Args:
        step_size: Of each chain.
    """
    generator = make_generator(0, "chains")
    centres = torch.randn(EXAMPLES, PARAMETERS, generator=generator, dtype=torch.float64)
    centres -= centres.mean(dim=0)
    checkpoint = torch.full((PARAMETERS,), start, dtype=torch.float64)
    sizes = torch.tensor(step_size, dtype=torch.float64)[:, None]
    position, kept = checkpoint.repeat(len(sizes), 1), []
    for count in range(1, burn_in + draws * between + 1):
        force = INVERSE_TEMPERATURE * position + localization * (position - checkpoint)
        noise = torch.randn(position.shape, generator=generator, dtype=torch.float64)
        position = position - sizes / 2 * force + sizes.sqrt() * noise
        if count > burn_in and (count - burn_in) % between == 0:
            kept.append(position)
    positions = torch.stack(kept, dim=1)  # (chain, draw, parameter)
    losses = _losses(positions, centres)
    steps = burn_in + between * torch.arange(1, draws + 1).repeat(len(sizes), 1)
    settings = {
        "inverse_temperature": INVERSE_TEMPERATURE,
        "train_checkpoint": _losses(checkpoint[None, None], centres)[0, 0],
        "distance": (positions - checkpoint).norm(dim=2),
        "draw_step": steps,
    }
    return diagnose_traces(losses, losses[..., :5], **{**settings, **changes})


def _losses(positions: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    squares = positions.square().sum(dim=2, keepdim=True) + centres.square().sum(dim=1)
    return squares / 2 - positions @ centres.T


def test_chains_that_have_settled_have_no_warning_and_the_coefficient_of_their_stationary_law():
    result = _diagnose(burn_in=20)

    assert (result["warning"], result["short_warning"]) == ("", "")
    # The variance of a coordinate is 1 / (110 (1 - 110 eps / 4)), of PARAMETERS of them.
    expected = INVERSE_TEMPERATURE * PARAMETERS / 2 / (110 * (1 - 110 * 0.01 / 4))
    found = result["learning_coefficient"]
    assert found["mean"] == pytest.approx(expected, abs=4 * found["error"])
    assert found["error"] < 0.02 * expected
    assert abs(result["distance"]["growth"]) < 0.05
    assert result["distance"]["median"] == pytest.approx(math.sqrt(2 * expected / INVERSE_TEMPERATURE), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "short", "sentence"),
    [
        ({"step_size": (0.01, 0.01, 0.05), "burn_in": 20}, "a chain diverged",
         "1 of 3 chains diverged and are left out."),
        ({"step_size": (0.05, 0.05)}, "all chains diverged", "2 of 2 chains diverged."),
        ({"step_size": (2e-4, 2e-4), "draws": 200}, "chains not settled, few effective draws", "R-hat is above 1.05"),
        ({"step_size": (1e-9, 1e-9)}, "step size does nothing",
         "The step size does nothing: the losses have moved by 0.0"),
        ({"step_size": (1e-40, 1e-40), "start": 1.0}, "step size does nothing",
         "No loss ever moves: the step size is too small to do anything."),
        # Settled where localization holds them fast: as small a loss, but no fault.
        ({"step_size": (1e-8, 1e-8), "localization": 1e8, "burn_in": 20}, "", ""),
        # The mean loss falls by 200 * 0.2^2 / 2 = 4 nats, less what the temperature adds.
        *(({"start": 0.2, "burn_in": 20, **changes}, "checkpoint far from a minimum",
           "The draws have a lower mean training loss than the checkpoint, by 2.")
          for changes in ({}, {"inverse_temperature": None}, {"between": 3, "markov": False})),
    ],
)  # fmt: skip
def test_each_fault_is_named_and_no_other(settings, short, sentence):
    result = _diagnose(**settings)

    assert result["short_warning"] == short
    assert result["warning"].startswith(sentence)
    assert bool(result["warning"]) == bool(short)


def test_older_traces_without_a_checkpoint_or_a_distance_are_diagnosed_as_before():
    old = _diagnose(burn_in=20, train_checkpoint=None, distance=None, draw_step=None)
    new = _diagnose(burn_in=20)

    assert (old["learning_coefficient"], old["distance"], old["descent"], old["warning"]) == (None, None, None, "")
    for name in ("rhat", "effective_draws", "drift", "covariance", "fluctuation"):
        assert old[name] == new[name]


def test_false_alarms_of_a_checkpoint_at_its_minimum_are_rare():
    # Losses of draws that are as often below the checkpoint's as above: thirty runs of two chains of 100 draws.
    generator = make_generator(0, "alarms")
    runs = [1 + torch.randn(2, 100, 20, generator=generator) for _ in range(30)]

    found = [
        diagnose_traces(run, run, inverse_temperature=100.0, train_checkpoint=torch.ones(20))["short_warning"]
        for run in runs
    ]

    assert not any(found)
