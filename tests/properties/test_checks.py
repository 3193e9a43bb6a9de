"""Methods that have or lack one property each, made for the purpose, are told apart."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, Unsupported, copy_model, num_examples, take
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.trak import TRAK
from tdabench.cost import phase
from tdabench.questions.properties.checks import PROPERTIES, Finding, find_properties
from tdabench.questions.properties.laboratory import NUM_QUERY, NUM_TRAIN, Laboratory
from tdabench.storage.records import save_tensors

CHECKS = {entry.key: entry.check for entry in PROPERTIES}


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A method that does what a test says."""

    behave: Callable[[Problem, torch.Generator], Tensor]

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        return self.behave(problem, generator)


@dataclasses.dataclass(frozen=True)
class TokenPlugin:
    """A method with scores of tokens, as a test says."""

    behave: Callable[[Problem], Tensor]

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        return torch.zeros(num_examples(problem.query), num_examples(problem.train))

    def attribute_tokens(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        return self.behave(problem)


def _find(key: str, method: object, tmp_path, num_models: int = 1) -> Finding:
    return CHECKS[key](Laboratory(method, num_models=num_models, seed=0, folder=tmp_path))


def _gradients(problem: Problem, examples: Examples, names: Callable[[str], bool] = lambda _: True) -> Tensor:
    """Return each example's gradient, by vmap: the model sees one example at a time."""
    model = copy_model(problem.models[0])
    parameters = {name: value.detach() for name, value in model.named_parameters() if names(name)}

    class Call(nn.Module):
        def __init__(self, moved):
            super().__init__()
            self.run = lambda image: torch.func.functional_call(model, moved, (image,))

        def forward(self, image):
            return self.run(image)

    def loss(moved, example):
        return problem.loss(Call(moved), {name: value[None] for name, value in example.items()}).sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, examples)
    return torch.cat([value.flatten(1) for value in found.values()], dim=1)


def _similarity(problem: Problem, _: torch.Generator | None = None) -> Tensor:
    return _gradients(problem, problem.query) @ _gradients(problem, problem.train).T


# Hessian-free


def _through_the_hessian(problem: Problem, generator: torch.Generator) -> Tensor:
    """Similarity of a gradient and a Hessian-vector product."""
    model = copy_model(problem.models[0])
    parameters = list(model.parameters())
    train = _gradients(problem, problem.train)
    gradient = torch.autograd.grad(problem.loss(model, problem.train).mean(), parameters, create_graph=True)
    flat = torch.cat([part.flatten() for part in gradient])
    product = torch.autograd.grad(flat @ train.mean(dim=0), parameters)
    direction = torch.cat([part.flatten() for part in product])
    return _similarity(problem) + (_gradients(problem, problem.query) @ direction)[:, None]


def _with_a_diagonal_on_disk(problem: Problem, generator: torch.Generator) -> Tensor:
    diagonal = _gradients(problem, problem.reference).square().mean(dim=0).bfloat16()
    save_tensors(problem.workspace / "diagonal.safetensors", {"diagonal": diagonal}, {})
    return _similarity(problem)


def _with_gradients_on_disk(problem: Problem, generator: torch.Generator) -> Tensor:
    save_tensors(problem.workspace / "gradients.safetensors", {"train": _gradients(problem, problem.train)}, {})
    return _similarity(problem)


def _with_an_inverse(problem: Problem, generator: torch.Generator) -> Tensor:
    train, query = _gradients(problem, problem.train), _gradients(problem, problem.query)
    return query @ torch.linalg.inv(train.T @ train / len(train) + torch.eye(train.shape[1])) @ train.T


def _with_a_solution(problem: Problem, generator: torch.Generator) -> Tensor:
    train, query = _gradients(problem, problem.train), _gradients(problem, problem.query)
    return query @ torch.linalg.solve(train.T @ train / len(train) + torch.eye(train.shape[1]), train.T)


def _with_a_small_inverse(problem: Problem, generator: torch.Generator) -> Tensor:
    """As TRAK does: in a projection whose size has nothing to do with the network's."""
    train, query = _gradients(problem, problem.train), _gradients(problem, problem.query)
    projection = torch.randn(train.shape[1], 20, generator=generator)
    train, query = train @ projection, query @ projection
    return query @ torch.linalg.inv(train.T @ train) @ train.T


@pytest.mark.parametrize(
    ("behave", "holds"),
    [
        (_similarity, True),
        (_with_gradients_on_disk, True),
        (_with_a_small_inverse, True),
        (_through_the_hessian, False),
        (_with_a_diagonal_on_disk, False),
        (_with_an_inverse, False),
        (_with_a_solution, False),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_who_uses_curvature_is_not_hessian_free(tmp_path, behave, holds):
    assert _find("hessian_free", Plugin(behave), tmp_path).holds is holds


def test_second_derivatives_are_found_by_the_change_of_the_scores(tmp_path):
    found = _find("hessian_free", Plugin(_through_the_hessian), tmp_path)

    change = float(found.measured.partition("scores change by ")[2].partition(" ")[0])
    assert change > 0.1
    assert "scores change by 0 " in _find("hessian_free", Plugin(_similarity), tmp_path).measured


# Architecture


def _of_known_layers(problem: Problem, generator: torch.Generator) -> Tensor:
    """Leave out what is not in nn.Linear, without a word."""
    known = {name for name, module in problem.models[0].named_modules() if type(module) is nn.Linear}
    if not known:
        return torch.zeros(num_examples(problem.query), num_examples(problem.train))

    def keep(name: str) -> bool:
        return name.rpartition(".")[0] in known

    return _gradients(problem, problem.query, keep) @ _gradients(problem, problem.train, keep).T


def _of_a_layer_by_name(problem: Problem, generator: torch.Generator) -> Tensor:
    if not any(type(module) is nn.Linear for module in problem.models[0].modules()):
        raise KeyError("no nn.Linear")
    return _similarity(problem)


def test_a_method_for_any_network_is_architecture_agnostic(tmp_path):
    assert _find("architecture_agnostic", Plugin(_similarity), tmp_path).holds is True


def test_a_method_that_leaves_out_unknown_layers_is_not_architecture_agnostic(tmp_path):
    found = _find("architecture_agnostic", Plugin(_of_known_layers), tmp_path)

    assert found == Finding(holds=False, measured="scores change by 1")


def test_a_method_that_stops_at_unknown_layers_is_not_architecture_agnostic_and_says_why(tmp_path):
    found = _find("architecture_agnostic", Plugin(_of_a_layer_by_name), tmp_path)

    assert found == Finding(holds=False, measured="KeyError: 'no nn.Linear'")


# Fit and queries


def _with_a_fit(problem: Problem, generator: torch.Generator) -> Tensor:
    with phase("fit"):
        train = _gradients(problem, problem.train)
    return _gradients(problem, problem.query) @ train.T


def _with_an_empty_fit(problem: Problem, generator: torch.Generator) -> Tensor:
    with phase("fit"):
        torch.ones(300, 300) @ torch.ones(300, 300)
    return _similarity(problem)


def test_a_fit_with_passes_is_counted_example_by_example(tmp_path):
    found = _find("no_fit_phase", Plugin(_with_a_fit), tmp_path)

    assert found == Finding(holds=False, measured=f"{NUM_TRAIN} forward passes in the phase fit")


@pytest.mark.parametrize("behave", [_similarity, _with_an_empty_fit])
def test_without_passes_in_it_there_is_no_fit_phase(tmp_path, behave):
    assert _find("no_fit_phase", Plugin(behave), tmp_path).holds is True


def _passes(problem: Problem, *, query: int, train_for_each_query: int = 0) -> Tensor:
    model, num_query = problem.models[0], num_examples(problem.query)
    with torch.no_grad():
        for _ in range(query):
            problem.loss(model, problem.query)
        for _ in range(num_query):
            problem.loss(model, take(problem.train, slice(train_for_each_query)))
    return torch.zeros(num_query, num_examples(problem.train))


@pytest.mark.parametrize(
    ("query", "train", "models", "holds"),
    [(1, 0, 1, True), (2, 0, 1, True), (3, 0, 1, False), (0, 3, 1, False), (1, 1, 1, True), (5, 0, 3, True)],
)
def test_an_added_query_may_cost_two_passes_a_checkpoint(tmp_path, query, train, models, holds):
    method = Plugin(lambda problem, _: _passes(problem, query=query, train_for_each_query=train))

    found = _find("amortises_over_queries", method, tmp_path, models)

    assert found.holds is holds
    assert found.measured.startswith(f"{query + train}.0 forward passes an added query, with {models} ")


def test_passes_of_one_example_at_a_time_under_vmap_are_counted(tmp_path):
    found = _find("amortises_over_queries", Plugin(_similarity), tmp_path)

    assert found.measured.startswith("1.0 forward passes an added query")


def test_work_on_the_training_set_is_no_cost_of_a_query(tmp_path):
    def train_often(problem: Problem, _: torch.Generator) -> Tensor:
        for _ in range(20):
            problem.loss(problem.models[0], problem.train)
        return _passes(problem, query=1)

    assert _find("amortises_over_queries", Plugin(train_often), tmp_path).holds is True
    assert NUM_QUERY < NUM_TRAIN


# Tokens


@pytest.mark.parametrize(
    ("behave", "holds"),
    [
        (lambda problem: torch.ones(3, 5, 10, 5), True),
        (lambda problem: torch.ones(10, 5, 3, 5), False),
        (lambda problem: torch.ones(3, 10), False),
        (lambda problem: torch.full((3, 5, 10, 5), math.nan), False),
    ],
    ids=["scores", "transposed", "whole sequences", "nan"],
)
def test_scores_of_tokens_need_their_shape_and_finite_values(tmp_path, behave, holds):
    assert _find("per_token", TokenPlugin(behave), tmp_path).holds is holds


def test_a_method_sees_the_token_losses_of_the_language_problem(tmp_path):
    def covariance(problem: Problem) -> Tensor:
        query, train = (problem.token_loss(problem.models[0], part) for part in (problem.query, problem.train))
        return torch.einsum("qs,nt->qsnt", query, train)

    assert _find("per_token", TokenPlugin(covariance), tmp_path).holds is True


def test_a_method_without_scores_of_tokens_is_not_per_token(tmp_path):
    assert _find("per_token", Random(), tmp_path) == Finding(holds=False, measured="it has no attribute_tokens")


# Higher order


def _loss_covariance(problem: Problem, generator: torch.Generator, draws: int = 400) -> Tensor:
    """Covariance of losses under noise on the parameters."""
    model = copy_model(problem.models[0])
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    losses = []
    with torch.no_grad():
        for _ in range(draws):
            noise = 0.02 * torch.randn(start.shape, generator=generator)
            nn.utils.vector_to_parameters(start + noise, model.parameters())
            losses.append(torch.cat([problem.loss(model, part) for part in (problem.query, problem.train)]))
    centred = (torch.stack(losses) - torch.stack(losses).mean(dim=0)).double()
    count = num_examples(problem.query)
    return centred[:, :count].T @ centred[:, count:] / (draws - 1)


def _pixels(problem: Problem, generator: torch.Generator) -> Tensor:
    query, train = (part["image"].flatten(1) for part in (problem.query, problem.train))
    return query @ train.T


def test_a_covariance_of_losses_sees_curvature_where_there_is_no_gradient(tmp_path):
    assert _find("higher_order", Plugin(_loss_covariance), tmp_path).holds is True


def test_a_noisy_covariance_of_losses_is_averaged_over_runs(tmp_path):
    calls = []

    def noisy(problem: Problem, generator: torch.Generator) -> Tensor:
        calls.append(problem)
        return _loss_covariance(problem, generator, draws=2)

    assert _find("higher_order", Plugin(noisy), tmp_path).holds is True
    assert len(calls) == 1 + 16 + 16


def test_gradients_give_exactly_nothing_where_there_is_no_gradient(tmp_path):
    found = _find("higher_order", Plugin(_similarity), tmp_path)

    assert found == Finding(holds=False, measured="0.0 standard errors between like and unlike examples")


def test_similar_pixels_are_no_curvature(tmp_path):
    found = _find("higher_order", Plugin(_pixels), tmp_path)

    assert found.holds is False
    assert "without curvature" in found.measured


def test_random_scores_are_no_curvature(tmp_path):
    assert _find("higher_order", Random(), tmp_path).holds is False


# All of them


def test_a_check_that_cannot_run_says_why_and_stops_no_other():
    def refuse(problem: Problem, _: torch.Generator) -> Tensor:
        if num_examples(problem.query) == 2 * NUM_QUERY:
            raise Unsupported("too many queries")
        if problem.train["image"][0].count_nonzero() == 1:
            raise RuntimeError("a fault\nin two lines")
        return _similarity(problem)

    found = find_properties(Plugin(refuse))

    assert found["amortises_over_queries"] == Finding(holds=None, measured="too many queries")
    assert found["higher_order"] == Finding(holds=None, measured="RuntimeError: a fault in two lines")
    assert found["hessian_free"].holds is True
    assert found["architecture_agnostic"].holds is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            BIF(step_size=1e-4, inverse_temperature=200.0, localization=1000.0, chains=2, draws=100, burn_in=10),
            {"hessian_free", "architecture_agnostic", "no_fit_phase", "higher_order"},
        ),
        (Kronfluence(strategy="ekfac"), {"amortises_over_queries"}),
        (Kronfluence(strategy="diagonal"), {"amortises_over_queries"}),
        (Kronfluence(strategy="identity"), {"hessian_free", "no_fit_phase", "amortises_over_queries"}),
        (TRAK(), {"hessian_free", "architecture_agnostic", "amortises_over_queries"}),
        (QueryIndependent(), {"hessian_free", "architecture_agnostic", "no_fit_phase", "amortises_over_queries"}),
    ],
    ids=["bif", "ekfac", "diagonal", "gradsim", "trak", "query_independent"],
)
def test_the_built_in_methods_have_these_properties(method, expected):
    found = find_properties(method, num_models=2)

    assert {key for key, finding in found.items() if finding.holds} == expected | (
        {"per_token"} if hasattr(method, "attribute_tokens") else set()
    )
    assert None not in {finding.holds for finding in found.values()}
