"""What must hold of BIF whatever draws: closed forms, the public contract, chains that are independent."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from walks import break_chain

from tdabench.attributors.base import Attributor, ChainAttributor, Examples, Problem, num_examples
from tdabench.attributors.baselines import Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.run import AttributionWarning, run_chain, score_chains
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.storage.records import load_record, load_tensors
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
ADAPTIVE = {"sampler": "rmsprop_sgld", "preconditioner": "adaptive", "preconditioner_steps": 2}
NETWORK = {"step_size": 1e-3, "inverse_temperature": 10.0, "localization": 100.0, "draws": 10, "chains": 2}
ON_NETWORKS = {
    **{name: BIF(**NETWORK, batch_size=32, **sampler) for name, sampler in {**EXACT, "adaptive": ADAPTIVE}.items()},
    "laplace": LaplaceBIF(draws=24, chains=2, batch_size=32),
}
each_exact_sampler = pytest.mark.parametrize("sampler", EXACT.values(), ids=EXACT)
each_sampler = pytest.mark.parametrize("sampler", [*EXACT.values(), ADAPTIVE], ids=[*EXACT, "adaptive"])
each_method = pytest.mark.parametrize("method", ON_NETWORKS.values(), ids=ON_NETWORKS)
kinds = pytest.mark.parametrize("method", [ON_NETWORKS["sgld"], ON_NETWORKS["laplace"]], ids=["BIF", "LaplaceBIF"])


@each_exact_sampler
def test_scores_are_the_exact_stationary_covariances_of_quadratic_losses(tmp_path, sampler):
    problem, draws = _quadratic_problem(tmp_path), 1500
    method = _bif(sampler, draws=draws, burn_in=10, steps_between_draws=2)

    scores = method.attribute(problem, generator=make_generator(0, "bif")).numpy()

    mean, covariance = _stationary_law(sampler, problem.reference)
    query, train = (_exact_losses(examples, mean, covariance) for examples in (problem.query, problem.train))
    slope = query.gradients @ covariance @ train.gradients.T
    curvature = np.einsum("jab,bc,icd,da->ji", query.hessians, covariance, train.hessians, covariance) / 2
    # The standard error of a covariance from N independent draws is the standard deviation of the products of the
    # centred losses over sqrt(N), here from draws of the exact stationary law. Losses two steps apart have correlations
    # of at most 0.32 (BAOAB's), and their products those correlations' squares, so that a draw is worth at least
    # (1 - 0.1) / (1 + 0.1) > 0.8 draws.
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
    # The noise of a score is 1 / sqrt(draws) = 0.035 of a product of norms, and below 0.06 if two
    # draws count for one, where cosines vary by more than 0.3: (0.06 / 0.3)^2 / 2 = 0.02 of the correlation.
    pair = torch.stack([scores.flatten().double(), expected.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98
    slope = (pair[0] @ pair[1] / pair[1].square().sum()).item()
    assert slope == pytest.approx(1, abs=4 * math.sqrt(2 / (draws / 2)))


@each_method
def test_every_method_keeps_the_public_contract(method):
    check_attributor(method)


@kinds
def test_traces_are_kept_and_the_scores_are_their_estimate(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    for estimate, function in (("covariance", loss_covariance), ("correlation", loss_correlation)):
        scores = dataclasses.replace(method, draws=6, estimate=estimate).attribute(
            problem, generator=make_generator(0, "bif")
        )

        traces = load_tensors(tmp_path / "traces.safetensors")
        torch.testing.assert_close(function(traces["query"], traces["train"]), scores, rtol=0, atol=0)
        assert (scores.abs().max() <= 1 + 1e-12) >= (estimate == "correlation")
    assert load_record(tmp_path / "traces.safetensors")["markov"] == isinstance(method, BIF)
    assert {name: tuple(trace.shape) for name, trace in traces.items()} == {
        "train": (2, 6, 8), "query": (2, 6, 4), "train_checkpoint": (8,), "query_checkpoint": (4,), "distance": (2, 6),
        "step_loss": (2, 6), "cpu_seconds": (2, 6), "draw_step": (2, 6),
    }  # fmt: skip
    assert not torch.equal(traces["train"][0], traces["train"][1])


def test_burn_in_and_thinning_leave_out_the_steps_that_they_name(tmp_path):
    problem = _quadratic_problem(tmp_path)

    every, thinned = (
        _bif(EXACT["sgld"], chains=1, **schedule).sample_chain(problem, 0, generator=make_generator(0, "bif"))["query"]
        for schedule in ({"draws": 11}, {"draws": 3, "burn_in": 2, "steps_between_draws": 3})
    )

    # Counted from 1: two steps of burn-in, then every third step.
    assert torch.equal(thinned, every[[4, 7, 10]])


@each_method
def test_chains_that_are_sampled_apart_in_any_order_are_those_of_the_method(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    method, generator = dataclasses.replace(method, draws=4, chains=3), make_generator(0, "bif")
    many = dataclasses.replace(method, chains=5)

    chains = {chain: run_chain(many, problem, chain, generator=generator)[0] for chain in (2, 0, 1)}
    apart = score_chains(method, problem, [chains[chain] for chain in range(3)]).scores

    whole = method.attribute(problem, generator=make_generator(0, "bif"))
    other = method.attribute(problem, generator=make_generator(1, "bif"))
    assert torch.equal(apart, whole.float())
    assert not torch.equal(other, whole)
    assert not torch.equal(chains[0]["train"], chains[1]["train"])


@kinds
def test_the_cost_of_a_chain_is_measured_and_that_of_its_scores_apart(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    chain, cost = run_chain(method, problem, 0, generator=make_generator(0, "bif"))
    attribution = score_chains(dataclasses.replace(method, chains=1), problem, [chain])

    assert set(cost.phases) == ({"score"} if isinstance(method, BIF) else {"fit", "score"})
    assert all(part.seconds > 0 for part in cost.phases.values())
    assert set(attribution.cost.phases) == {"score"}
    assert attribution.cost.phases["score"].disk_bytes > 0  # the traces


@each_method
def test_batch_norm_and_dropout_stay_as_at_the_checkpoint_and_the_model_is_left_as_it_was(tmp_path, method):
    with isolated_random_state(make_generator(0, "model")):
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 4)
        model = nn.Sequential(*layers).eval()
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, seen = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        seen.append({name: value.clone() for name, value in [*model.named_buffers(), ("0.bias", model[0].bias)]})
        assert not any(module.training for module in model.modules())
        return images.loss(model, examples)

    problem = dataclasses.replace(images, models=(model,), loss=loss)
    dataclasses.replace(method, chains=1, draws=5).attribute(problem, generator=make_generator(0, "bif"))

    assert len(seen) >= 1 + 4 + 5
    assert all(torch.equal(value, before[name]) for buffers in seen for name, value in buffers.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@each_method
def test_passes_in_parts_give_the_same_draws_and_are_in_memory_a_part_at_a_time(tmp_path, method):
    images, sizes = make_image_problem(tmp_path, num_train=20, num_query=3), {True: [], False: []}

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        sizes[torch.is_grad_enabled()].append(num_examples(examples))
        return images.loss(model, examples)

    problem, method = dataclasses.replace(images, loss=loss), dataclasses.replace(method, draws=4, batch_size=7)
    whole = method.sample_chain(problem, 0, generator=make_generator(0, "bif"))
    sizes[True].clear()
    sizes[False].clear()
    parts = dataclasses.replace(method, microbatch=3, loss_batch_size=5).sample_chain(
        problem, 0, generator=make_generator(0, "bif")
    )

    assert sizes[True][:3] == [3, 3, 1]
    assert set(sizes[True]) == {3, 1}
    assert max(sizes[False]) == 5
    for name in ("train", "query", "distance", "step_loss"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5, equal_nan=True)
    assert not torch.equal(whole["train"][0], whole["train"][1])


@each_sampler
def test_a_step_costs_one_gradient_and_a_preconditioner_those_that_it_names(tmp_path, sampler):
    problem, gradients = _quadratic_problem(tmp_path), []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        gradients.append(torch.is_grad_enabled())
        return quadratic_loss(model, examples)

    problem = dataclasses.replace(problem, loss=loss)
    _bif(sampler, draws=4, burn_in=1, steps_between_draws=2).sample_chain(problem, 0, generator=make_generator(0, "b"))

    assert sum(gradients) == 1 + 4 * 2 + sampler.get("preconditioner_steps", 0)


# Chains that go wrong


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        # Each step multiplies the distance by about 10^5: float32 overflows after a few.
        (BIF(**{**NETWORK, "step_size": 1e5, "draws": 40}), "lower step_size (100000.0)"),
        (LaplaceBIF(draws=5, chains=2, amplitude=1e9), "lower amplitude (1000000000.0)"),
    ],
)
def test_nothing_but_diverged_chains_is_an_error_that_names_the_remedy(tmp_path, method, remedy):
    with pytest.raises(ValueError, match=re.escape(f"Every BIF chain diverged: {remedy}.")):
        method.attribute(_quadratic_problem(tmp_path), generator=make_generator(0, "bif"))


@kinds
def test_a_diverged_chain_among_good_ones_is_left_out_with_a_warning(tmp_path, monkeypatch, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    break_chain(monkeypatch, 1)

    with pytest.warns(AttributionWarning, match=re.escape("BIF chains [1] of 3 diverged and are left out")):
        scores = dataclasses.replace(method, chains=3).attribute(problem, generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    assert traces["train"][1].isnan().any()
    expected = loss_covariance(traces["query"][[0, 2]], traces["train"][[0, 2]])
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@kinds
def test_a_checkpoint_of_nan_is_named_by_the_methods_that_sample(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    problem.models[0][0].weight.data[0] = math.nan

    with pytest.raises(ValueError, match=r"loss is NaN .* 8 of 8 training examples and 4 of 4 queries"):
        method.attribute(problem, generator=make_generator(0, "bif"))


# Settings


SHARED = [
    ({"chains": 0}, "chains must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"microbatch": 0}, "microbatch must be at least 1, got 0"),
    ({"loss_batch_size": 0}, "loss_batch_size must be at least 1, got 0"),
    ({"memory_gib": 0.0}, "memory_gib must be positive and finite, or null for no limit, got 0.0"),
    ({"estimate": "cosine"}, "estimate must be covariance or correlation, got 'cosine'"),
    ({"restrict": []}, "restrict must be a list of patterns of names, or null, got []"),
    ({"token_estimate": "online"}, "token_estimate must be traces, got 'online': leave it out, and set memory_gib"),
]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *SHARED,
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"steps_between_draws": 0}, "steps_between_draws must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": math.nan}, "step_size must be positive and finite, got nan"),
        ({"inverse_temperature": -1.0}, "inverse_temperature must be at least 0 and finite, got -1.0"),
        ({"localization": -1.0}, "localization must be at least 0 and finite, got -1.0"),
        ({"level": "word"}, "level must be sequence or token, got 'word'"),
    ],
)
def test_a_setting_of_bif_out_of_range_is_an_error(unchecked_types, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BIF(**{**NETWORK, **setting})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *SHARED,
        ({"draws": 2}, "draws must be at least 3, got 2"),
        ({"localization": 0.0}, "localization must be positive and finite, got 0.0"),
        ({"metric_damping": -1.0}, "metric_damping must be positive and finite, got -1.0"),
        ({"amplitude": math.nan}, "amplitude must be positive and finite, got nan"),
        ({"amplitude": math.inf}, "amplitude must be positive and finite, got inf"),
        ({"curvature": "word"}, "curvature must be example or token, got 'word'"),
    ],
)
def test_a_setting_of_laplace_bif_out_of_range_is_an_error(unchecked_types, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LaplaceBIF(**{"draws": 5, **setting})


def test_a_method_is_known_to_sample_chains_by_its_methods():
    assert all(isinstance(method, ChainAttributor) for method in ON_NETWORKS.values())
    assert isinstance(Random(), Attributor)
    assert not isinstance(Random(), ChainAttributor)


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
