import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_losses import Linear, linear_loss
from torch import Tensor

from tdabench.attributors.base import Examples, Problem
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.sampling.laplace import measure_curvature, posterior_variances
from tdabench.attributors.sampling.walker import make_walker
from tdabench.seeds import fork_generator, make_generator
from tdabench.storage.records import load_tensors
from tdabench.testing import Quadratic, quadratic_loss

# Gradients of the reference examples, each along a parameter of its own: their diagonal Fisher has no chance in it.
HEIGHTS = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def test_scores_of_linear_losses_are_gradients_through_the_posterior_of_the_curvature(tmp_path):
    problem = _linear_problem(tmp_path)
    method = LaplaceBIF(draws=6, chains=2, batch_size=8, localization=0.3, metric_damping=0.2, amplitude=0.5)

    scores = method.attribute(problem, generator=make_generator(0, "bif"))

    generator, expected = make_generator(0, "bif"), []
    for _ in range(2):
        walker = make_walker(problem.models[0], problem, batch_size=8, generator=fork_generator(generator))
        curvature = measure_curvature(walker, directions=5, metric_damping=0.2)
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
