"""Passes that a method makes, beside what hooks on the network itself see of it."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from tdabench.attributors import kronfluence
from tdabench.attributors.adapters import kronfluence_layers
from tdabench.attributors.base import Problem, batches, num_examples
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.passes import counted
from tdabench.attributors.running.run import run_attributor
from tdabench.attributors.trak import TRAK
from tdabench.cost import measure_cost, passes_so_far, phase
from tdabench.seeds import make_generator
from tdabench.testing import make_image_problem

TRAIN, QUERIES = 144, 24


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A method that does what a test says, and scores nothing."""

    behave: Callable[[Problem], object]

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        self.behave(problem)
        return torch.ones(num_examples(problem.query), num_examples(problem.train))


@pytest.fixture
def problem(tmp_path) -> Problem:
    return make_image_problem(tmp_path)


def _watch(problem: Problem) -> list[float]:
    """List what passes through the networks: 1 an example forward, 2 more when a gradient comes back."""
    seen: list[float] = []

    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        raw, transformed = output, is_functorch_wrapped_tensor(output)
        while is_functorch_wrapped_tensor(raw):
            raw = get_unwrapped(raw)
        examples = raw.numel() / 4  # of four classes
        seen.append(examples * (3 if transformed else 1))
        if output.requires_grad and not transformed:
            output.register_hook(lambda gradient: seen.append(2 * examples))

    for model in problem.models:
        model.register_forward_hook(hook)
    return seen


def _passes(method: object, problem: Problem) -> dict[str, float]:
    cost = run_attributor(method, problem, generator=make_generator(0, "passes")).cost
    return {name: part.passes for name, part in cost.phases.items()}


METHODS = {
    "bif": BIF(step_size=1e-4, inverse_temperature=10.0, localization=10.0, chains=2, draws=3, burn_in=2,
               steps_between_draws=2, batch_size=16, loss_batch_size=50),
    "bif_laplace": LaplaceBIF(draws=6, batch_size=16),
    "trak": TRAK(proj_dim=110, batch_size=50),
    "gradsim": Kronfluence(strategy="identity", query_batch_size=10, train_batch_size=50),
    "ekfac": Kronfluence(strategy="ekfac", damping=0.1, fit_batch_size=40),
    "kfac": Kronfluence(strategy="kfac", damping=0.1, fit_batch_size=40),
    "diagonal": Kronfluence(strategy="diagonal", damping=0.1, fit_batch_size=40),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_pass_through_the_network_is_counted(problem, monkeypatch, method):
    # But for those that look whether kronfluence can be trusted with the model: they are the benchmark's.
    monkeypatch.setattr(kronfluence, "compare_with_autograd", lambda problem, layers: None)
    monkeypatch.setattr(kronfluence_layers, "_find_faults", lambda problem, names: ())
    seen = _watch(problem)

    passes = _passes(METHODS[method], problem)

    assert sum(passes.values()) == sum(seen) > 0


def test_bif_makes_the_passes_that_its_settings_say(problem):
    passes = _passes(METHODS["bif"], problem)

    steps = 2 * (2 + 3 * 2) * 16 * 3
    checkpoint_and_draws = 2 * (1 + 3) * (TRAIN + QUERIES)
    assert passes["score"] == steps + checkpoint_and_draws


def test_passes_are_charged_to_the_phase_that_makes_them(problem):
    passes = _passes(METHODS["trak"], problem)

    # Two checkpoints; a training example has a gradient, and a forward pass for its weight.
    assert passes == {"fit": 2 * TRAIN * 4, "score": 2 * QUERIES * 3}


def test_a_query_independent_score_costs_gradients_of_the_queries_and_derivatives_of_the_rest(problem):
    assert _passes(QueryIndependent(batch_size=50), problem)["score"] == QUERIES * 3 + TRAIN * 2


def test_chance_makes_no_pass(problem):
    assert _passes(Random(), problem) == {"score": 0.0}


# Plug-ins that know nothing of it


def test_a_loss_is_counted_once_without_a_gradient_and_three_times_with_one(problem):
    def behave(problem: Problem) -> None:
        with phase("fit"), torch.no_grad():
            problem.loss(problem.models[0], problem.train)
        for batch in batches(problem.query, 10):
            problem.loss(problem.models[0], batch).sum().backward()

    assert _passes(Plugin(behave), _frozen_gradients(problem)) == {"fit": TRAIN, "score": 3 * QUERIES}


def _frozen_gradients(problem: Problem) -> Problem:
    return dataclasses.replace(problem, models=tuple(copy.deepcopy(model) for model in problem.models))


def test_losses_of_tokens_are_counted_too(problem):
    def behave(problem: Problem) -> None:
        with torch.no_grad():
            problem.token_loss(problem.models[0], problem.query)

    both = dataclasses.replace(problem, token_loss=lambda model, examples: model(examples["image"]))

    assert _passes(Plugin(behave), both) == {"score": QUERIES}


def _call_model(problem: Problem) -> None:
    problem.models[0](problem.query["image"])


def _call_copy(problem: Problem) -> None:
    copy.deepcopy(problem.models[1])(problem.query["image"])


def _call_part(problem: Problem) -> None:
    next(iter(problem.models[0].children()))(problem.query["image"])


def _call_in_transform(problem: Problem) -> None:
    def loss_of_one(image: Tensor, label: Tensor) -> Tensor:
        return problem.loss(problem.models[0], {"image": image[None], "label": label[None]})[0]

    torch.func.vmap(loss_of_one)(problem.query["image"], problem.query["label"])


@pytest.mark.parametrize("call", [_call_model, _call_copy, _call_part, _call_in_transform])
def test_calls_that_nothing_counts_make_the_number_unknown_and_not_zero(problem, call):
    def behave(problem: Problem) -> None:
        call(problem)
        with phase("known"), torch.no_grad():
            problem.loss(problem.models[0], problem.query)

    passes = _passes(Plugin(behave), problem)

    assert math.isnan(passes["score"])
    assert passes["known"] == QUERIES


def test_a_method_may_say_itself_what_a_library_does(problem):
    def behave(problem: Problem) -> None:
        with counted(100), counted(7):  # the outer one says it all
            _call_model(problem)
            problem.loss(problem.models[0], problem.query)

    assert _passes(Plugin(behave), problem) == {"score": 100}


def test_the_models_are_left_without_hooks_also_after_an_error(problem):
    def behave(problem: Problem) -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        _passes(Plugin(behave), problem)

    assert not list(_hooks(problem))


def test_models_can_be_pickled_while_they_are_watched(problem):
    def behave(problem: Problem) -> None:
        assert list(_hooks(problem))
        pickle.dumps(problem.models[0])

    assert _passes(Plugin(behave), problem) == {"score": 0}


def _hooks(problem: Problem) -> Iterator[object]:
    for model in problem.models:
        for module in model.modules():
            yield from module._forward_hooks.values()


# The measurement


def test_passes_are_unknown_where_nothing_counts_them():
    with measure_cost() as cost:
        pass

    assert math.isnan(cost.phases["score"].passes)


def test_passes_so_far_are_those_of_all_phases():
    outside = passes_so_far()
    found = []
    with measure_cost(passes=True), phase("fit"):
        with counted(3):
            pass
        with phase("inner"), counted(4):
            pass
        found.append(passes_so_far())

    assert found == [7]
    assert math.isnan(outside)
