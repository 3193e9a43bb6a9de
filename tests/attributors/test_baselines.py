import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import Problem, take
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import make_image_problem


@pytest.mark.parametrize("frozen", [False, True])
def test_query_independent_scores_are_the_mean_over_queries_of_gradient_dot_products(
    tmp_path, example_gradients, frozen
):
    problem = _unsure_problem(tmp_path)
    problem.models[0][0].requires_grad_(not frozen)

    scores = QueryIndependent().attribute(problem, generator=make_generator(0, "baseline"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    expected = (query @ train.T).mean(dim=0).expand(7, -1)
    # float32 sums of some 200 products.
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.recurrent(images[:, 0])[0][:, -1])


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = (part[:, None] for part in self.project(images[:, 0]).chunk(3, dim=-1))
        return self.head(nn.functional.scaled_dot_product_attention(query, key, value)[:, 0].mean(dim=1))


@pytest.mark.parametrize("network", [_Recurrent, _Attention])
def test_query_independent_scores_of_operators_without_a_forward_mode_rule_are_gradient_dot_products_too(
    tmp_path, example_gradients, network
):
    with isolated_random_state(make_generator(0, "network")):
        problem = dataclasses.replace(_unsure_problem(tmp_path), models=(network().eval(),))

    scores = QueryIndependent(batch_size=6).attribute(problem, generator=make_generator(0, "baseline"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    expected = (query @ train.T).mean(dim=0).expand(7, -1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_query_independent_scores_are_the_same_for_every_query(tmp_path):
    problem = _unsure_problem(tmp_path)

    scores = QueryIndependent().attribute(problem, generator=make_generator(0, "baseline"))

    assert torch.equal(scores, scores[:1].expand(7, -1))
    assert scores[0].unique().numel() > 1


def test_query_independent_scores_do_not_depend_on_the_batch_size(tmp_path):
    problem = _unsure_problem(tmp_path)

    whole, divided = (
        QueryIndependent(batch_size=size).attribute(problem, generator=make_generator(0, "baseline"))
        for size in (250, 3)
    )

    torch.testing.assert_close(whole, divided, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


def test_random_scores_depend_on_the_generator_alone(tmp_path):
    problem = make_image_problem(tmp_path, num_train=20, num_query=7)
    backwards = dataclasses.replace(problem, train=take(problem.train, torch.arange(20).flip(0)))

    first, again, other_data, other_seed = (
        Random().attribute(chosen, generator=make_generator(seed, "baseline"))
        for chosen, seed in ((problem, 0), (problem, 0), (backwards, 0), (problem, 1))
    )

    assert first.shape == (7, 20)
    assert torch.equal(first, again)
    assert torch.equal(first, other_data)
    assert not torch.equal(first, other_seed)


def test_random_scores_have_a_mean_lds_of_about_zero(tmp_path):
    problem = make_image_problem(tmp_path, num_train=30, num_query=200)
    generator = make_generator(0, "bank")
    masks = torch.rand(40, 30, generator=generator) < 0.5
    losses = torch.randn(40, 200, generator=generator)

    scores = Random().attribute(problem, generator=make_generator(0, "baseline"))

    mean = linear_datamodeling_score(scores, masks, losses).mean().item()
    # Each query's correlation over 40 subsets has the variance 1 / 39, and the scores of 200 queries are independent.
    assert mean == pytest.approx(0, abs=4 / (39 * 200) ** 0.5)


def _unsure_problem(workspace: Path) -> Problem:
    """Make a problem whose model is unsure: gradients p - y of a sure one are all rounding."""
    problem = make_image_problem(workspace, num_train=20, num_query=7)
    problem.models[0][-1].weight.data.mul_(0.1)
    return problem
