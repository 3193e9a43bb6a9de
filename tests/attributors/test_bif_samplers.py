"""What must hold of BIF whatever samples: closed forms, the public contract, chains that are independent."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, num_examples
from tdabench.attributors.bif import BIF
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, check_attributor, make_image_problem, quadratic_loss

INVERSE_TEMPERATURE, LOCALIZATION, STEP_SIZE = 2.0, 0.7, 0.7
CHECKPOINT = torch.tensor([1.0, -2.0])
SLOPE = torch.tensor([0.5, -1.5])
MEASURED = {"preconditioner": "frozen", "preconditioner_steps": 2, "stability": 3.0}
EXACT = {
    "sgld": {"sampler": "sgld"},
    "rmsprop_sgld": {"sampler": "rmsprop_sgld", **MEASURED},
    "baoab": {"sampler": "baoab"},
    "preconditioned baoab": {"sampler": "baoab", **MEASURED},
}
ALL = {
    **EXACT,
    "adaptive rmsprop_sgld": {"sampler": "rmsprop_sgld", "preconditioner": "adaptive", "preconditioner_steps": 2},
}
each_exact_sampler = pytest.mark.parametrize("sampler", EXACT.values(), ids=EXACT)
each_sampler = pytest.mark.parametrize("sampler", ALL.values(), ids=ALL)


@each_exact_sampler
def test_scores_are_the_exact_stationary_covariances_of_quadratic_losses(tmp_path, sampler):
    problem, draws = _quadratic_problem(tmp_path), 1500
    method = _bif(sampler, draws=draws, burn_in=10, steps_between_draws=2)

    scores = method.attribute(problem, generator=make_generator(0, "bif")).numpy()

    mean, covariance = _stationary_law(sampler, problem.reference)
    query, train = (_exact_losses(examples, mean, covariance) for examples in (problem.query, problem.train))
    slope = query.gradients @ covariance @ train.gradients.T
    curvature = np.einsum("jab,bc,icd,da->ji", query.hessians, covariance, train.hessians, covariance) / 2
    # As in test_bif.py; losses two steps apart have correlations of at most 0.32 (BAOAB's), and their products those
    # correlations' squares, so that a draw is worth at least (1 - 0.1) / (1 + 0.1) > 0.8 draws.
    products = np.einsum("tj,ti->tji", query.centred, train.centred)
    tolerance = 4 * products.std(axis=0) / math.sqrt(0.8 * 2 * draws)
    assert (np.abs(scores - slope - curvature) < tolerance).all()
    assert (np.abs(slope) > 2 * tolerance).any()
    assert (np.abs(curvature) > 2 * tolerance).any()


@each_exact_sampler
def test_scores_become_gradient_dot_products_when_localization_is_very_strong(tmp_path, sampler, example_gradients):
    problem = make_image_problem(tmp_path, num_train=40, num_query=12)
    problem.models[0][-1].weight.data.mul_(0.1)  # unsure, so that gradients are far above float32 rounding
    localization, draws = 2e6, 800
    method = BIF(
        step_size=2 / localization,
        inverse_temperature=1.0,
        localization=localization,
        chains=1,
        draws=draws,
        burn_in=5,
        steps_between_draws=2,
        batch_size=40,
        **sampler,
    )

    scores = method.attribute(problem, generator=make_generator(0, "bif"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    # The metric: 1 / gamma for BAOAB, with or without a preconditioner; else wider by the bias of the step size.
    metric = torch.ones(train.shape[1], dtype=torch.float64)
    if sampler["sampler"] != "baoab":
        metric = 1 / (1 - _strength(sampler, train.mean(dim=0)) / 2)
    expected = query * metric @ train.T / localization
    # As in test_bif.py: the noise of a score is 1 / sqrt(draws) = 0.035 of a product of norms, and below 0.06 if two
    # draws count for one, where cosines vary by more than 0.3: (0.06 / 0.3)^2 / 2 = 0.02 of the correlation.
    pair = torch.stack([scores.flatten().double(), expected.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98
    slope = (pair[0] @ pair[1] / pair[1].square().sum()).item()
    assert slope == pytest.approx(1, abs=4 * math.sqrt(2 / (draws / 2)))


@each_sampler
def test_every_sampler_keeps_the_public_contract(sampler):
    settings = {"step_size": 1e-3, "inverse_temperature": 10.0, "localization": 100.0, "chains": 2, "draws": 10}

    check_attributor(BIF(**settings, batch_size=32, **sampler))


@each_sampler
def test_correlation_lies_between_minus_one_and_one(tmp_path, sampler):
    method = _bif(sampler, draws=10, estimate="correlation")

    scores = method.attribute(_quadratic_problem(tmp_path), generator=make_generator(0, "bif"))

    # Float64 arithmetic on unit vectors.
    assert scores.abs().max() <= 1 + 1e-12
    assert scores.abs().max() > 0.1


@each_sampler
def test_a_chain_alone_is_the_same_as_among_others_in_any_order(tmp_path, sampler):
    problem, generator = _quadratic_problem(tmp_path), make_generator(0, "bif")
    method = _bif(sampler, draws=5, batch_size=2)

    forward = [method.sample_chain(problem, chain, generator=generator) for chain in (0, 1, 2)]
    backward = [method.sample_chain(problem, chain, generator=generator) for chain in (2, 1, 0)][::-1]
    alone = method.sample_chain(problem, 1, generator=make_generator(0, "bif"))

    for other in (*zip(forward, backward, strict=True), (forward[1], alone)):
        assert all(torch.equal(other[0][name], other[1][name]) for name in ("train", "query", "distance", "step_loss"))
    assert not torch.equal(forward[0]["train"], forward[1]["train"])
    together = method.attribute(problem, generator=make_generator(0, "bif"))
    assert torch.equal(together, method.score_chains(forward[:2], problem))


@each_sampler
def test_batch_norm_and_dropout_stay_as_at_the_checkpoint(tmp_path, sampler):
    with isolated_random_state(make_generator(0, "model")):
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 4)
        model = nn.Sequential(*layers).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, seen = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        seen.append({name: value.clone() for name, value in model.named_buffers()})
        assert not any(module.training for module in model.modules())
        return images.loss(model, examples)

    problem = dataclasses.replace(images, models=(model,), loss=loss)
    settings = {"step_size": 1e-3, "inverse_temperature": 10.0, "localization": 100.0, "chains": 1, "draws": 3}
    BIF(**settings, **sampler).attribute(problem, generator=make_generator(0, "bif"))

    assert seen
    assert all(torch.equal(value, before[name]) for buffers in seen for name, value in buffers.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@each_sampler
def test_a_step_costs_one_gradient_and_a_preconditioner_those_that_it_names(tmp_path, sampler):
    problem, gradients = _quadratic_problem(tmp_path), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        gradients.append(torch.is_grad_enabled())
        return quadratic_loss(model, examples)

    problem = dataclasses.replace(problem, loss=loss)
    _bif(sampler, draws=4, burn_in=1, steps_between_draws=2).sample_chain(problem, 0, generator=make_generator(0, "b"))

    assert sum(gradients) == 1 + 4 * 2 + sampler.get("preconditioner_steps", 0)


@each_sampler
def test_a_minibatch_in_parts_gives_the_same_draws_and_is_in_memory_a_part_at_a_time(tmp_path, sampler):
    images, sizes = make_image_problem(tmp_path, num_train=20, num_query=3), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        if torch.is_grad_enabled():
            sizes.append(num_examples(examples))
        return images.loss(model, examples)

    problem = dataclasses.replace(images, loss=loss)
    settings = {"step_size": 1e-3, "inverse_temperature": 10.0, "localization": 100.0, "chains": 1, "draws": 4}
    method = BIF(**settings, batch_size=7, **sampler)
    whole = method.sample_chain(problem, 0, generator=make_generator(0, "bif"))
    sizes.clear()
    parts = dataclasses.replace(method, microbatch=3).sample_chain(problem, 0, generator=make_generator(0, "bif"))

    assert sizes[:3] == [3, 3, 1]
    assert set(sizes) == {3, 1}
    for name in ("train", "query", "distance", "step_loss"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(whole["train"][0], whole["train"][1])


@dataclasses.dataclass(frozen=True)
class _ExactLosses:
    gradients: np.ndarray
    hessians: np.ndarray
    centred: np.ndarray


def _bif(sampler: dict[str, object], **settings: object) -> BIF:
    law = {"step_size": STEP_SIZE, "inverse_temperature": INVERSE_TEMPERATURE, "localization": LOCALIZATION}
    return BIF(**{**law, "chains": 2, **settings}, **sampler)


def _quadratic_problem(workspace: Path) -> Problem:
    """Make four training examples, three queries, and reference examples whose mean gradient is ``SLOPE``."""
    generator = make_generator(0, "quadratic")
    mean = torch.tensor([[1.1, 0.3], [0.3, 1.1]])
    factors = 0.3 * torch.randn(11, 2, 2, generator=generator)
    hessians = mean + factors + factors.mT
    hessians[3] = 4 * mean - hessians[:3].sum(dim=0)
    gradients = torch.randn(11, 2, generator=generator)
    gradients[3] = 4 * SLOPE - gradients[:3].sum(dim=0)
    examples = {"centre": CHECKPOINT - torch.linalg.solve(hessians, gradients), "hessian": hessians}
    reference, train, query = (
        {name: values[part] for name, values in examples.items()} for part in (slice(4), slice(4, 8), slice(8, 11))
    )
    return Problem(
        models=(Quadratic(CHECKPOINT).eval(),),
        loss=quadratic_loss,
        train=train,
        query=query,
        reference=reference,
        workspace=workspace,
    )


def _strength(sampler: dict[str, object], gradient: Tensor) -> Tensor:
    """Return the preconditioner that minibatches of all examples measure."""
    if "preconditioner" not in sampler:
        return torch.ones_like(gradient)
    floor = sampler["stability"] * gradient.square().mean().sqrt()
    return floor / (floor + gradient.abs())


def _stationary_law(sampler: dict[str, object], reference: Examples) -> tuple[np.ndarray, np.ndarray]:
    hessian = reference["hessian"].double().mean(dim=0).numpy()
    precision = INVERSE_TEMPERATURE * hessian + LOCALIZATION * np.eye(2)
    mean = CHECKPOINT.numpy() - INVERSE_TEMPERATURE * np.linalg.solve(precision, SLOPE.numpy())
    if sampler["sampler"] == "baoab":
        return mean, np.linalg.inv(precision)
    strength = np.diag(_strength(sampler, SLOPE.double()).numpy())
    return mean, np.linalg.inv(precision - STEP_SIZE / 4 * precision @ strength @ precision)


def _exact_losses(examples: Examples, mean: np.ndarray, covariance: np.ndarray) -> _ExactLosses:
    """Return the gradients at the chain's mean, and centred losses at draws of the exact stationary law."""
    hessians = examples["hessian"].double().numpy()
    gradients = np.einsum("iab,ib->ia", hessians, mean - examples["centre"].double().numpy())
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance, size=50_000)
    losses = draws @ gradients.T + np.einsum("ta,iab,tb->ti", draws, hessians, draws) / 2
    return _ExactLosses(gradients, hessians, losses - losses.mean(axis=0))
