"""What divides every method's scores alike: self-influence, a method's own way to it or not, and means of scores."""

import dataclasses
from typing import Any

import pytest
import torch

from tdabench.attributors.base import Unsupported, num_examples
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.like import MeanScores, divide_by_self_influence, measure_self_influence
from tdabench.attributors.running.run import AttributionWarning, run_attributor
from tdabench.seeds import make_generator
from tdabench.testing import check_attributor, make_image_problem, make_text_problem

SGLD = {"step_size": 1e-4, "inverse_temperature": 100.0, "localization": 1000.0, "batch_size": 16}


@dataclasses.dataclass(frozen=True)
class Plain:
    """A method with nothing but ``attribute``, which does what another one does."""

    method: Any

    def attribute(self, problem, *, generator):
        return self.method.attribute(problem, generator=generator)


def _divide(method, problem):
    """Return a method's scores as they are, and divided."""
    scores = run_attributor(method, problem, generator=make_generator(0, "like")).scores
    found = measure_self_influence(method, problem, generator=make_generator(0, "like"))
    return scores, divide_by_self_influence(scores, found.scores)


def _per_query(scores):
    """Leave out each query's factor."""
    return torch.nn.functional.normalize(scores.double(), dim=1)


def test_a_covariance_divided_by_self_influence_is_the_correlation_up_to_a_factor_of_the_query(tmp_path):
    problem = make_image_problem(tmp_path, num_train=7, num_query=3)
    generator = make_generator(0, "gaussian")
    mixing = torch.randn(10, 10, generator=generator)
    draws = torch.randn(3, 50, 10, generator=generator) @ mixing + 2
    draws[1, 3, 0] = torch.nan  # a chain that diverged counts neither here nor there
    chains = [{"train": one[:, :7], "query": one[:, 7:]} for one in draws]
    covariance, correlation = (
        BIF(**SGLD, chains=3, draws=50, estimate=estimate) for estimate in ("covariance", "correlation")
    )

    with pytest.warns(AttributionWarning, match="diverged and are left out"):
        expected, scores = (method.score_chains(chains, problem) for method in (correlation, covariance))
    own = measure_self_influence(covariance, problem, generator=generator).scores

    divided = divide_by_self_influence(scores, own)
    torch.testing.assert_close(_per_query(divided), _per_query(expected), rtol=0, atol=1e-6)
    assert (_per_query(scores) - _per_query(expected)).abs().max() > 0.01
    ones = measure_self_influence(correlation, problem, generator=generator).scores
    assert torch.equal(ones, torch.ones(7))


@pytest.mark.parametrize(
    "make",
    [
        lambda estimate: BIF(**SGLD, chains=2, draws=6, estimate=estimate),
        lambda estimate: LaplaceBIF(draws=8, batch_size=16, estimate=estimate),
    ],
    ids=["sgld", "laplace"],
)
def test_for_the_same_draws_a_sampled_covariance_divided_is_the_sampled_correlation(tmp_path, make):
    problem = make_image_problem(tmp_path, num_train=20, num_query=4)

    _, divided = _divide(make("covariance"), problem)

    expected = run_attributor(make("correlation"), problem, generator=make_generator(0, "like")).scores
    torch.testing.assert_close(_per_query(divided), _per_query(expected), rtol=0, atol=1e-6)


def test_gradient_similarity_divided_is_the_cosine_up_to_the_querys_norm(tmp_path, example_gradients):
    problem = make_image_problem(tmp_path, num_train=30, num_query=8)
    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )

    scores, divided = _divide(Kronfluence(strategy="identity"), problem)

    cosines = divided.double() / query.norm(dim=1, keepdim=True)
    expected = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(train, dim=1).T
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-4)
    assert (_per_query(scores) - _per_query(expected)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (make_image_problem, Kronfluence(strategy="ekfac", damping=1e-3)),
        (make_image_problem, Kronfluence(strategy="kfac")),
        (make_image_problem, Kronfluence(strategy="diagonal")),
        (make_text_problem, Kronfluence(strategy="ekfac")),
        (make_text_problem, Kronfluence(strategy="identity")),
        (make_image_problem, BIF(**SGLD, chains=2, draws=4)),
        (make_text_problem, BIF(**SGLD, chains=1, draws=4, level="token")),
        (make_image_problem, LaplaceBIF(draws=5, batch_size=16)),
    ],
    ids=["ekfac", "kfac", "diagonal", "ekfac text", "gradsim text", "bif", "bif tokens", "laplace"],
)
def test_a_methods_own_way_is_the_diagonal_that_any_method_is_asked_for_in_blocks(tmp_path, make, method):
    problem = make(tmp_path, num_train=20, num_query=2)
    run_attributor(method, problem, generator=make_generator(0, "like"))

    own, whole, blocks = (
        measure_self_influence(one, problem, generator=make_generator(0, "like"), at_a_time=size)
        for one, size in ((method, 1), (Plain(method), 400), (Plain(method), 140))
    )

    assert own.scores.shape == (20,)
    torch.testing.assert_close(own.scores, whole.scores, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(blocks.scores, whole.scores, rtol=1e-4, atol=1e-8)
    assert set(own.cost.phases) == set(blocks.cost.phases) == {"normalize"}
    assert own.cost.phases["normalize"].passes < whole.cost.phases["normalize"].passes
    assert blocks.cost.phases["normalize"].seconds > 0
    assert not list(tmp_path.glob("tmp*"))


def test_what_cannot_be_divided_is_refused_with_the_count_and_zeros_stay():
    scores = torch.tensor([[1.0, 2.0, 0.0, 3.0], [1.0, 4.0, 0.0, 0.0]])

    divided = divide_by_self_influence(scores, torch.tensor([1.0, 4.0, -1.0, 9.0]))

    assert torch.equal(divided, torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 2.0, 0.0, 0.0]]))
    for wrong in (0.0, -4.0):
        with pytest.raises(Unsupported, match="the self-influence of 2 of 4 training examples is not positive"):
            divide_by_self_influence(scores, torch.tensor([1.0, wrong, wrong, wrong]))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Random(), "scores by chance have no self-influence"),
        (QueryIndependent(), "scores that ignore the query have no self-influence"),
    ],
)
def test_baselines_say_that_they_have_no_self_influence(tmp_path, method, message):
    problem = make_image_problem(tmp_path, num_train=8, num_query=2)

    with pytest.raises(Unsupported, match=message):
        measure_self_influence(method, problem, generator=make_generator(0, "like"))


def test_correlations_of_tokens_are_not_divided_again(tmp_path):
    problem = make_text_problem(tmp_path, num_train=6, num_query=2)
    method = BIF(**SGLD, chains=1, draws=4, level="token", estimate="correlation")

    with pytest.raises(Unsupported, match="with level: token a correlation is divided token by token already"):
        measure_self_influence(method, problem, generator=make_generator(0, "like"))


def test_the_public_check_compares_a_methods_own_way_with_its_scores():
    @dataclasses.dataclass(frozen=True)
    class Doubled(Plain):
        def self_influence(self, problem, *, generator):
            return 2 * self.method.self_influence(problem, generator=generator)

    check_attributor(Kronfluence(strategy="identity"))
    with pytest.raises(ValueError, match="self_influence\\(\\) of Doubled differs from its scores"):
        check_attributor(Doubled(Kronfluence(strategy="identity")))


@pytest.mark.parametrize(("found", "message"), [(torch.ones(7), "shape"), (torch.full((8,), torch.nan), "8 of 8")])
def test_self_influence_of_the_wrong_shape_or_not_finite_is_refused(tmp_path, unchecked_types, found, message):
    @dataclasses.dataclass(frozen=True)
    class Wrong(Plain):
        def self_influence(self, problem, *, generator):
            assert num_examples(problem.train) == 8
            return found

    problem = make_image_problem(tmp_path, num_train=8, num_query=2)

    with pytest.raises(ValueError, match=message):
        measure_self_influence(Wrong(Random()), problem, generator=make_generator(0, "like"))


def test_the_mean_of_equal_scores_is_the_same_to_the_last_bit_and_of_others_their_mean():
    scores = torch.randn(5, 7, generator=make_generator(0, "scores"))
    equal, others = MeanScores(), MeanScores()

    for _ in range(3):
        equal.add({"scores": scores})
    for factor in (1, 2, 6):
        others.add({"scores": factor * scores})

    assert torch.equal(equal.mean()["scores"], scores)
    torch.testing.assert_close(others.mean()["scores"], 3 * scores)
