import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_losses import Linear, linear_loss
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors import laplace_bif
from tdabench.attributors.base import Examples, Problem, num_examples
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.run import AttributionWarning, run_attributor
from tdabench.attributors.sampling.laplace import measure_curvature, posterior_variances
from tdabench.seeds import fork_generator, isolated_random_state, make_generator
from tdabench.storage.records import load_tensors
from tdabench.testing import Quadratic, check_attributor, make_image_problem, quadratic_loss

# Gradients of the reference examples, each along a parameter of its own: their diagonal Fisher has no chance in it.
HEIGHTS = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def test_scores_of_linear_losses_are_gradients_through_the_posterior_of_the_curvature(tmp_path):
    problem = _linear_problem(tmp_path)
    method = LaplaceBIF(draws=6, chains=2, batch_size=8, localization=0.3, metric_damping=0.2, amplitude=0.5)

    scores = method.attribute(problem, generator=make_generator(0, "bif"))

    generator, expected = make_generator(0, "bif"), []
    for _ in range(2):
        curvature = measure_curvature(
            problem.models[0],
            linear_loss,
            problem.reference,
            directions=5,
            batch_size=8,
            metric_damping=0.2,
            generator=fork_generator(generator),
        )
        variances = posterior_variances(curvature, localization=0.3, amplitude=0.5)
        directions = (curvature.basis * curvature.scale).double()
        posterior = directions.T @ variances.diag() @ directions
        expected.append(problem.query["slope"].double() @ posterior @ problem.train["slope"].double().T)
    assert not torch.allclose(expected[0], expected[1], rtol=0.1, atol=0)
    mean = torch.stack(expected).mean(dim=0)
    # Rounding of float32 losses.
    torch.testing.assert_close(scores, mean, rtol=0, atol=1e-5 * mean.abs().max().item())


def test_small_strongly_localized_draws_give_the_influence_of_the_diagonal_fisher(tmp_path):
    problem = _quadratic_problem(tmp_path)
    method = LaplaceBIF(draws=20, localization=1e9, metric_damping=0.1, amplitude=1e-6)

    scores = method.attribute(problem, generator=make_generator(0, "bif"))

    train, query = (_checkpoint_gradients(problem.models[0], examples) for examples in (problem.train, problem.query))
    expected = query @ _localized_posterior(amplitude=1e-6).diag() @ train.T
    # Terms of second order are smaller by the amplitude; the curvature's share of the precision is 1e-9.
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_examples_without_a_gradient_have_the_covariance_of_their_curvatures(tmp_path):
    problem = _quadratic_problem(tmp_path)
    flat = [
        {**examples, "centre": problem.models[0].position.detach().expand_as(examples["centre"])}
        for examples in (problem.train, problem.query)
    ]
    problem = dataclasses.replace(problem, train=flat[0], query=flat[1])
    method = LaplaceBIF(draws=300, chains=4, localization=1e9, metric_damping=0.1, amplitude=1.0)

    scores = method.attribute(problem, generator=make_generator(0, "bif")).numpy()

    posterior = _localized_posterior(amplitude=1.0).diag().numpy()
    train, query = (examples["hessian"].numpy() for examples in flat)
    expected = np.einsum("jab,bc,icd,da->ji", query, posterior, train, posterior) / 2
    # The standard error is the deviation of the centred losses' products over the root of the number of draws,
    # here from Gaussian draws. (The chains' exact covariances make it smaller.)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(4), posterior, size=50_000)
    centred_query, centred_train = (
        losses - losses.mean(axis=0)
        for losses in (np.einsum("ta,iab,tb->ti", draws, hessians, draws) / 2 for hessians in (query, train))
    )
    products = np.einsum("tj,ti->tji", centred_query, centred_train)
    tolerance = 4 * products.std(axis=0) / math.sqrt(4 * 300)
    assert (np.abs(scores - expected) < tolerance).all()
    assert (np.abs(expected) > 2 * tolerance).any()


def test_amplitude_is_the_deviation_of_the_loss_of_a_lone_reference_example(tmp_path):
    problem = _linear_problem(tmp_path)
    lone = {"slope": problem.train["slope"][:1]}
    problem = dataclasses.replace(problem, train=lone, reference=lone)

    LaplaceBIF(draws=5, amplitude=0.25).attribute(problem, generator=make_generator(0, "bif"))

    trace = load_tensors(tmp_path / "traces.safetensors")["train"][0, :, 0]
    assert trace.std().item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("estimate", ["covariance", "correlation"])
def test_attributor_keeps_the_public_contract(estimate):
    check_attributor(LaplaceBIF(draws=24, batch_size=32, estimate=estimate))


def test_correlation_is_that_of_the_traces_and_lies_between_minus_one_and_one(tmp_path):
    scores = LaplaceBIF(draws=6, chains=2, estimate="correlation").attribute(
        _linear_problem(tmp_path), generator=make_generator(0, "bif")
    )

    traces = load_tensors(tmp_path / "traces.safetensors")
    torch.testing.assert_close(loss_correlation(traces["query"], traces["train"]), scores, rtol=0, atol=0)
    # Float64 arithmetic on unit vectors.
    assert scores.abs().max() <= 1 + 1e-12
    assert scores.abs().max() > 0.1


def test_traces_are_kept(tmp_path):
    scores = LaplaceBIF(draws=6, chains=2).attribute(_linear_problem(tmp_path), generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    shapes = {name: tuple(trace.shape) for name, trace in traces.items()}
    assert shapes["train"] == (2, 6, 9)
    assert shapes["query"] == (2, 6, 4)
    torch.testing.assert_close(loss_covariance(traces["query"], traces["train"]), scores, rtol=0, atol=0)


def test_a_chain_depends_on_nothing_but_its_own_stream(tmp_path):
    problem = _linear_problem(tmp_path)
    generator = make_generator(0, "bif")
    fork_generator(generator)

    traces = []
    for chains, stream in ((2, make_generator(0, "bif")), (1, generator)):
        LaplaceBIF(draws=6, chains=chains).attribute(problem, generator=stream)
        traces.append(load_tensors(tmp_path / "traces.safetensors")["train"])

    assert torch.equal(traces[0][1], traces[1][0])
    assert not torch.equal(traces[0][0], traces[0][1])


def test_scores_are_the_same_for_the_same_generator_and_others_for_another(tmp_path):
    problem = _linear_problem(tmp_path)

    first, again, other = (
        LaplaceBIF(draws=6).attribute(problem, generator=make_generator(0, "bif", index)) for index in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_size_of_a_forward_pass_changes_nothing(tmp_path):
    problem = make_image_problem(tmp_path, num_train=16, num_query=5)

    whole, divided = (
        LaplaceBIF(draws=6, loss_batch_size=size).attribute(problem, generator=make_generator(0, "bif"))
        for size in (500, 4)
    )

    torch.testing.assert_close(whole, divided, rtol=0, atol=1e-4 * whole.abs().max().item())


def test_gradients_in_parts_are_the_same_gradients(tmp_path):
    problem, sizes = make_image_problem(tmp_path, num_train=16, num_query=5), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        if torch.is_grad_enabled():
            sizes.append(num_examples(examples))
        return images_loss(model, examples)

    images_loss = problem.loss
    problem = dataclasses.replace(problem, loss=loss)
    whole, parts = (
        LaplaceBIF(draws=6, batch_size=8, microbatch=size).attribute(problem, generator=make_generator(0, "bif"))
        for size in (None, 3)
    )

    assert sizes == [8] * 5 + [3, 3, 2] * 5
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4 * whole.abs().max().item())


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

    LaplaceBIF(draws=5).attribute(problem, generator=make_generator(0, "bif"))

    assert len(seen) == 1 + 4 + 5
    assert all(torch.equal(value, before[name]) for buffers in seen for name, value in buffers.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cost_is_that_of_the_curvature_and_of_the_draws(tmp_path):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4)

    cost = run_attributor(LaplaceBIF(draws=5), problem, generator=make_generator(0, "bif")).cost

    assert set(cost.phases) == {"fit", "score"}
    assert all(part.seconds > 0 for part in cost.phases.values())
    assert cost.phases["fit"].disk_bytes == 0


def test_an_absurd_amplitude_is_an_error_that_says_so(tmp_path):
    method = LaplaceBIF(draws=5, chains=2, amplitude=1e9)

    with pytest.raises(ValueError, match=re.escape("Every BIF chain diverged: lower amplitude (1000000000.0).")):
        method.attribute(_linear_problem(tmp_path), generator=make_generator(0, "bif"))


def test_a_diverged_chain_among_good_ones_is_left_out_with_a_warning(tmp_path, monkeypatch):
    _break_chain(monkeypatch, 1)

    with pytest.warns(AttributionWarning, match=re.escape("BIF chains [1] of 3 diverged and are left out")):
        scores = LaplaceBIF(draws=5, chains=3).attribute(_linear_problem(tmp_path), generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    assert traces["train"][1].isnan().any()
    expected = loss_covariance(traces["query"][[0, 2]], traces["train"][[0, 2]])
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 2}, "draws must be at least 3, got 2"),
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"loss_batch_size": 0}, "loss_batch_size must be at least 1, got 0"),
        ({"localization": 0.0}, "localization must be positive and finite, got 0.0"),
        ({"metric_damping": -1.0}, "metric_damping must be positive and finite, got -1.0"),
        ({"amplitude": math.nan}, "amplitude must be positive and finite, got nan"),
        ({"amplitude": math.inf}, "amplitude must be positive and finite, got inf"),
        ({"memory_gib": 0.0}, "memory_gib must be positive and finite, or null for no limit, got 0.0"),
        ({"estimate": "cosine"}, "estimate must be covariance or correlation, got 'cosine'"),
    ],
)
def test_a_setting_out_of_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LaplaceBIF(**{"draws": 5, **setting})


def _linear_problem(workspace: Path) -> Problem:
    """Make nine training examples, four queries and twenty reference examples of two tensors of parameters."""
    generator = make_generator(0, "linear")
    train, query, reference = ({"slope": torch.randn(count, 12, generator=generator)} for count in (9, 4, 20))
    model = Linear(torch.linspace(-1, 1, 7), torch.linspace(0, 1, 5)).eval()
    return Problem(
        models=(model,), loss=linear_loss, train=train, query=query, reference=reference, workspace=workspace
    )


def _quadratic_problem(workspace: Path) -> Problem:
    """Make five training examples and three queries, and reference examples with the gradients ``HEIGHTS``."""
    generator = make_generator(0, "quadratic")
    checkpoint = torch.linspace(-1, 1, 4, dtype=torch.float64)
    factors = torch.randn(8, 4, 4, generator=generator, dtype=torch.float64)
    centres = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    train, query = (
        {"centre": centres[part], "hessian": (factors @ factors.mT)[part]} for part in (slice(5), slice(5, 8))
    )
    reference = {"centre": checkpoint - HEIGHTS.diag(), "hessian": torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)}
    return Problem(
        models=(Quadratic(checkpoint).eval(),),
        loss=quadratic_loss,
        train=train,
        query=query,
        reference=reference,
        workspace=workspace,
    )


def _localized_posterior(*, amplitude: float) -> Tensor:
    r"""Return the diagonal of :math:`\alpha^2 D^{-1} / \mathrm{tr}(D^{-1} F)`, where the Fisher's precision is lost."""
    fisher = HEIGHTS.square() / 4
    metric = fisher + 0.1 * fisher.mean()
    return amplitude**2 / metric / (fisher / metric).sum()


def _checkpoint_gradients(model: Quadratic, examples: Examples) -> Tensor:
    return torch.einsum("iab,ib->ia", examples["hessian"], model.position.detach() - examples["centre"])


def _break_chain(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """Let the parameters of one chain become NaN at its third draw."""
    sample_laplace, started = laplace_bif.sample_laplace, []

    def sample(*arguments, **settings):
        index = len(started)
        started.append(index)
        for draw, step in enumerate(sample_laplace(*arguments, **settings)):
            if index == broken and draw == 2:
                step.model.blocks[0].data.fill_(torch.nan)
            yield step

    monkeypatch.setattr(laplace_bif, "sample_laplace", sample)
