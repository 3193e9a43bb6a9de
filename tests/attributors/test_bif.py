import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors import bif
from tdabench.attributors.base import Examples, Problem
from tdabench.attributors.bif import BIF
from tdabench.attributors.estimates.estimators import loss_covariance
from tdabench.attributors.run import AttributionWarning
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.storage.records import load_tensors
from tdabench.testing import Quadratic, make_image_problem, make_self_problem, quadratic_loss

CHECKPOINT = torch.tensor([1.0, -2.0])
SETTINGS = {"step_size": 0.7, "inverse_temperature": 2.0, "localization": 0.7, "chains": 2, "draws": 10}


def test_scores_are_the_exact_stationary_covariances_of_quadratic_losses(tmp_path):
    problem = _quadratic_problem(tmp_path)
    method = BIF(**{**SETTINGS, "draws": 1500}, burn_in=8, steps_between_draws=2)

    scores = method.attribute(problem, generator=make_generator(0, "bif")).numpy()

    covariance = _stationary_covariance(problem.reference)
    query, train = (_exact_losses(examples, covariance) for examples in (problem.query, problem.train))
    slope = query.gradients @ covariance @ train.gradients.T
    curvature = np.einsum("jab,bc,icd,da->ji", query.hessians, covariance, train.hessians, covariance) / 2
    # The standard error of a covariance from N independent draws is the standard deviation of the products of the
    # centred losses over sqrt(N), here from 100,000 draws of the exact stationary law. Draws two steps apart have
    # correlations of at most 0.225^2 = 0.05 and count as independent.
    products = np.einsum("tj,ti->tji", query.centred, train.centred)
    tolerance = 4 * products.std(axis=0) / math.sqrt(2 * 1500)
    assert (np.abs(scores - slope - curvature) < tolerance).all()
    # Both terms are seen, and so is the bias of the step size: without it S = A^-1 is about half as wide.
    assert (np.abs(slope) > 2 * tolerance).any()
    assert (np.abs(curvature) > 2 * tolerance).any()


def test_scores_become_gradient_dot_products_when_localization_is_very_strong(tmp_path, example_gradients):
    problem = make_image_problem(tmp_path, num_train=40, num_query=12)
    problem.models[0][-1].weight.data.mul_(0.1)  # unsure, so that gradients are far above float32 rounding
    # eps * gamma = 2: every position is a fresh draw of N(w*, S) with S = 1 / (gamma (1 - eps gamma / 4)) = 2 / gamma.
    localization = 2e6
    method = BIF(
        step_size=2 / localization,
        inverse_temperature=1.0,
        localization=localization,
        chains=2,
        draws=1000,
        batch_size=16,
    )

    scores = method.attribute(problem, generator=make_generator(0, "bif"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    similarities = query @ train.T
    # A score has the standard error |g_j| |g_i| sqrt((1 + cos^2) / N) with N = 2000 draws: 0.03 of a product of norms
    # whose cosines vary by more than 0.3. That costs the correlation less than (0.03 / 0.3)^2 / 2 = 0.005.
    cosines = similarities / (query.norm(dim=1)[:, None] * train.norm(dim=1))
    assert cosines.std() > 0.3
    pair = torch.stack([scores.flatten().double(), similarities.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99
    # The slope averages over all pairs: it is better known than a single variance, to sqrt(2 / N) = 0.032.
    slope = (pair[0] @ pair[1] / pair[1].square().sum()).item() * localization / 2
    assert slope == pytest.approx(1, abs=4 * 0.032)


@pytest.mark.parametrize("estimate", ["covariance", "correlation"])
def test_training_on_an_example_is_predicted_to_help_itself(tmp_path, estimate):
    problem = make_self_problem(make_image_problem(tmp_path, num_train=12, num_query=4))
    settings = {"step_size": 1e-3, "inverse_temperature": 10.0, "localization": 100.0, "chains": 2, "draws": 10}

    scores = BIF(**settings, estimate=estimate).attribute(problem, generator=make_generator(0, "bif"))

    assert (scores.diagonal() > 0).all()
    assert scores.diagonal().mean() > scores.mean()


def test_correlation_lies_between_minus_one_and_one(tmp_path):
    problem = _quadratic_problem(tmp_path)

    scores = BIF(**SETTINGS, estimate="correlation").attribute(problem, generator=make_generator(0, "bif"))

    # Float64 arithmetic on unit vectors.
    assert scores.abs().max() <= 1 + 1e-12
    assert scores.abs().max() > 0.1


def test_scores_are_the_same_for_the_same_generator_and_others_for_another(tmp_path):
    problem = _quadratic_problem(tmp_path)

    first, again, other = (
        BIF(**SETTINGS).attribute(problem, generator=make_generator(0, "bif", index)) for index in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_chains_have_their_own_noise_and_their_traces_are_kept(tmp_path):
    problem = _quadratic_problem(tmp_path)

    scores = BIF(**SETTINGS).attribute(problem, generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    assert {name: tuple(trace.shape) for name, trace in traces.items()} == {
        "train": (2, 10, 4),
        "query": (2, 10, 3),
        "train_checkpoint": (4,),
        "query_checkpoint": (3,),
        "distance": (2, 10),
        "step_loss": (2, 10),
        "cpu_seconds": (2, 10),
        "draw_step": (2, 10),
    }
    assert not torch.equal(traces["train"][0], traces["train"][1])
    torch.testing.assert_close(loss_covariance(traces["query"], traces["train"]), scores, rtol=0, atol=0)


def test_burn_in_and_thinning_leave_out_the_steps_that_they_name(tmp_path):
    problem = _quadratic_problem(tmp_path)
    every = BIF(**{**SETTINGS, "chains": 1, "draws": 11})
    thinned = BIF(**{**SETTINGS, "chains": 1, "draws": 3}, burn_in=2, steps_between_draws=3)

    traces = []
    for method in (every, thinned):
        method.attribute(problem, generator=make_generator(0, "bif"))
        traces.append(load_tensors(tmp_path / "traces.safetensors")["query"])

    # Counted from 1: two steps of burn-in, then every third step.
    assert torch.equal(traces[1], traces[0][:, [4, 7, 10]])


def test_the_size_of_a_forward_pass_changes_nothing(tmp_path):
    problem = _quadratic_problem(tmp_path)

    whole, divided = (
        BIF(**SETTINGS, loss_batch_size=size).attribute(problem, generator=make_generator(0, "bif"))
        for size in (500, 2)
    )

    torch.testing.assert_close(whole, divided, rtol=1e-5, atol=1e-6)


def test_models_are_left_as_they_were(tmp_path):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    with isolated_random_state(make_generator(0, "model")):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)).eval()
    model[0].bias.requires_grad_(False)
    problem = dataclasses.replace(problem, models=(model,))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    BIF(**{**SETTINGS, "step_size": 1e-3}).attribute(problem, generator=make_generator(0, "bif"))

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_batch_norm_and_dropout_stay_as_at_the_checkpoint(tmp_path):
    with isolated_random_state(make_generator(0, "model")):
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 4)
        model = nn.Sequential(*layers).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        seen.append({name: value.clone() for name, value in model.named_buffers()})
        assert not any(module.training for module in model.modules())
        return functional.cross_entropy(model(examples["image"]), examples["label"], reduction="none")

    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    problem = dataclasses.replace(problem, models=(model,), loss=loss)

    BIF(**{**SETTINGS, "step_size": 1e-3, "draws": 5}).attribute(problem, generator=make_generator(0, "bif"))

    assert len(seen) == 2 * (1 + 5 + 5)  # the checkpoint, steps and draws of each chain
    assert all(torch.equal(value, before[name]) for buffers in seen for name, value in buffers.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scores_within_a_memory_that_is_told_are_those_without_a_limit(tmp_path):
    problem = _quadratic_problem(tmp_path)

    free, limited = (
        BIF(**SETTINGS, memory_gib=limit).attribute(problem, generator=make_generator(0, "bif"))
        for limit in (None, 1e-6)
    )

    torch.testing.assert_close(limited, free.float(), rtol=1e-5, atol=1e-7)


def test_an_absurd_step_size_is_an_error_that_says_so(tmp_path):
    problem = _quadratic_problem(tmp_path)
    # Each step multiplies the distance by about 10^5: float32 overflows after a few.
    method = BIF(**{**SETTINGS, "step_size": 1e5, "draws": 40})

    with pytest.raises(ValueError, match=re.escape("Every BIF chain diverged: lower step_size (100000.0).")):
        method.attribute(problem, generator=make_generator(0, "bif"))


def test_a_diverged_chain_among_good_ones_is_left_out_with_a_warning(tmp_path, monkeypatch):
    problem = _quadratic_problem(tmp_path)
    _break_chain(monkeypatch, 1)
    method = BIF(**{**SETTINGS, "chains": 3})

    with pytest.warns(AttributionWarning, match=re.escape("BIF chains [1] of 3 diverged and are left out")):
        scores = method.attribute(problem, generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    assert traces["train"][1].isnan().any()
    torch.testing.assert_close(loss_covariance(traces["query"][[0, 2]], traces["train"][[0, 2]]), scores)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"steps_between_draws": 0}, "steps_between_draws must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"loss_batch_size": 0}, "loss_batch_size must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": math.nan}, "step_size must be positive and finite, got nan"),
        ({"inverse_temperature": -1.0}, "inverse_temperature must be at least 0 and finite, got -1.0"),
        ({"localization": -1.0}, "localization must be at least 0 and finite, got -1.0"),
        ({"memory_gib": 0.0}, "memory_gib must be positive and finite, or null for no limit, got 0.0"),
        ({"estimate": "cosine"}, "estimate must be covariance or correlation, got 'cosine'"),
    ],
)
def test_a_setting_out_of_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BIF(**{**SETTINGS, **setting})


@dataclasses.dataclass(frozen=True)
class _ExactLosses:
    gradients: np.ndarray
    hessians: np.ndarray
    centred: np.ndarray


def _quadratic_problem(workspace: Path) -> Problem:
    """Make four training examples and three queries; at the checkpoint the mean training gradient is zero.

    The mean Hessian has the eigenvalues 0.8 and 1.4: with ``SETTINGS``, eps*A is 1.61 and 2.45 (see test_sgld.py).
    """
    generator = make_generator(0, "quadratic")
    mean = torch.tensor([[1.1, 0.3], [0.3, 1.1]])
    factors = 0.3 * torch.randn(7, 2, 2, generator=generator)
    hessians = mean + factors + factors.mT
    hessians[3] = 4 * mean - hessians[:3].sum(dim=0)
    gradients = torch.randn(7, 2, generator=generator)
    gradients[3] = -gradients[:3].sum(dim=0)
    centres = CHECKPOINT - torch.linalg.solve(hessians, gradients)
    train, query = ({"centre": centres[part], "hessian": hessians[part]} for part in (slice(4), slice(4, 7)))
    model = Quadratic(CHECKPOINT).eval()
    return Problem(models=(model,), loss=quadratic_loss, train=train, query=query, reference=train, workspace=workspace)


def _stationary_covariance(reference: Examples) -> np.ndarray:
    hessian = reference["hessian"].double().mean(dim=0).numpy()
    precision = SETTINGS["inverse_temperature"] * hessian + SETTINGS["localization"] * np.eye(2)
    return np.linalg.inv(precision) @ np.linalg.inv(np.eye(2) - SETTINGS["step_size"] * precision / 4)


def _exact_losses(examples: Examples, covariance: np.ndarray) -> _ExactLosses:
    """Return the gradients at the chain's mean, and centred losses at draws of the exact stationary law."""
    hessians = examples["hessian"].double().numpy()
    offset = (CHECKPOINT - examples["centre"]).double().numpy()
    gradients = np.einsum("iab,ib->ia", hessians, offset)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance, size=100_000)
    losses = draws @ gradients.T + np.einsum("ta,iab,tb->ti", draws, hessians, draws) / 2
    return _ExactLosses(gradients, hessians, losses - losses.mean(axis=0))


def _break_chain(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """Let the parameters of one chain become NaN at its last step."""
    sample_chain, started = bif.sample_chain, []

    def sample(*arguments, steps: int, **settings):
        index = len(started)
        started.append(index)
        for count, step in enumerate(sample_chain(*arguments, steps=steps, **settings)):
            if index == broken and count == steps - 1:
                step.model.position.data.fill_(torch.nan)
            yield step

    monkeypatch.setattr(bif, "sample_chain", sample)
