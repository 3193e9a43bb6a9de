import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import take
from tdabench.attributors.bif import BIF
from tdabench.questions.properties.problems import (
    GROUPS,
    FalseCurvature,
    make_flat_problem,
    make_token_problem,
    next_token_losses,
    rewrite,
)
from tdabench.seeds import make_generator
from tdabench.testing import make_image_problem


def _hessian(model: nn.Module, loss, examples) -> Tensor:
    """Return the Hessian of the summed loss by the first layer's weight, flattened."""
    name, weight = next(iter(model.named_parameters()))

    class Call(nn.Module):
        def __init__(self, moved):
            super().__init__()
            self.run = lambda image: torch.func.functional_call(model, {name: moved}, (image,))

        def forward(self, image):
            return self.run(image)

    size = weight.numel()
    return torch.func.hessian(lambda moved: loss(Call(moved), examples).sum())(weight.detach()).reshape(size, size)


# The network, written in another way


@pytest.mark.parametrize("own_layers", [False, True])
@pytest.mark.parametrize("false_curvature", [False, True])
def test_a_rewritten_network_has_the_same_losses_and_gradients(
    tmp_path, example_gradients, own_layers, false_curvature
):
    problem = make_image_problem(tmp_path, num_train=12)
    model = problem.models[0]

    other = rewrite(model, own_layers=own_layers, false_curvature=false_curvature)

    assert problem.loss(other, problem.train).equal(problem.loss(model, problem.train))
    assert example_gradients(other, problem.loss, problem.train).equal(
        example_gradients(model, problem.loss, problem.train)
    )
    assert not other.training


def test_a_network_of_own_layers_has_no_known_one(tmp_path):
    other = rewrite(make_image_problem(tmp_path).models[0], own_layers=True, false_curvature=False)

    assert not [module for module in other.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def test_false_curvature_changes_second_derivatives_and_nothing_else():
    spy = FalseCurvature(curvature=5.0)
    inputs = torch.tensor([0.3, -1.2], dtype=torch.float64)

    first = torch.func.jacrev(spy)(inputs)
    second = torch.func.hessian(lambda values: spy(values).sum())(inputs)

    assert spy(inputs).equal(inputs)
    assert first.equal(torch.eye(2, dtype=torch.float64))
    assert second.equal(5 * torch.eye(2, dtype=torch.float64))
    assert torch.func.jvp(spy, (inputs,), (torch.ones_like(inputs),))[1].equal(torch.ones_like(inputs))


# Examples without a gradient


@pytest.mark.parametrize("role", ["train", "query"])
def test_flat_examples_have_no_gradient_and_the_others_have(tmp_path, example_gradients, role):
    problem = make_flat_problem(tmp_path, curved=True)

    gradients = example_gradients(problem.models[0], problem.loss, getattr(problem, role)).norm(dim=1)

    assert gradients[:GROUPS].eq(0).all()
    assert gradients[GROUPS:].gt(0).all()


def test_a_flat_example_has_the_hessian_of_its_formula(tmp_path):
    problem = make_flat_problem(tmp_path, curved=True)
    model = problem.models[0]

    found = _hessian(model, problem.loss, take(problem.train, slice(3, 4)))

    pixel = torch.zeros(64)
    pixel[3] = 3.0
    expected = 2 * torch.kron(torch.diag(torch.full((8,), 0.1)), pixel[:, None] * pixel)
    assert torch.allclose(found, expected, atol=1e-6)


def test_without_curvature_flat_losses_are_constant_and_the_others_unchanged(tmp_path):
    curved, flat = (make_flat_problem(tmp_path, curved=curved) for curved in (True, False))
    hessian = _hessian(flat.models[0], flat.loss, take(flat.train, slice(0, GROUPS)))

    assert hessian.eq(0).all()
    for role in ("train", "query"):
        first, second = getattr(curved, role), getattr(flat, role)
        assert first["image"].equal(second["image"])
        assert first["label"].equal(second["label"])
        assert curved.loss(curved.models[0], first).equal(flat.loss(flat.models[0], second))


def test_the_covariance_of_two_like_flat_losses_is_half_the_trace_of_hshs(tmp_path):
    """Where only the localization holds the chain, S is 1 / gamma times what the step size adds, in every direction."""
    problem = make_flat_problem(tmp_path, curved=True)
    model = problem.models[0]
    model[4].weight.requires_grad_(False)
    step_size, localization = 2e-4, 5000.0
    # A step halves the distance to the checkpoint: draws five apart are nearly independent.
    method = BIF(
        step_size=step_size, inverse_temperature=0.0, localization=localization, chains=2, draws=600, burn_in=20,
        steps_between_draws=5,
    )  # fmt: skip
    small = {name: take(getattr(problem, name), slice(0, GROUPS)) for name in ("train", "query")}

    scores = method.attribute(dataclasses.replace(problem, **small), generator=make_generator(0))

    variance = 1 / localization / (1 - step_size * localization / 4)
    first, second = (_hessian(model, problem.loss, take(small[role], slice(0, 1))) for role in ("query", "train"))
    expected = (first @ second).trace().item() * variance**2 / 2
    # A pair's covariance of two chi-square-like losses, 8 degrees of freedom, has this relative error.
    error = expected * math.sqrt((1 + 1 + 12 / 8) / 1200)
    like = scores.diagonal()
    assert like.mean().item() == pytest.approx(expected, abs=4 * error / GROUPS**0.5)
    assert (scores - torch.diag(like)).abs().max().item() < 5 / 1200**0.5 * expected


# Tokens


def test_token_losses_are_those_of_the_next_token(tmp_path):
    problem = make_token_problem(tmp_path)
    tokens, model = problem.query["input_ids"], problem.models[0]

    found = problem.token_loss(model, problem.query)

    assert problem.token_loss is next_token_losses
    assert found.shape == (3, 5)
    chance = model(tokens).log_softmax(dim=2)
    assert found[1, 2].item() == pytest.approx(-chance[1, 2, tokens[1, 3]].item())
    assert problem.loss(model, problem.query)[1].item() == pytest.approx(found[1].mean().item())
