import dataclasses
import math
import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tdabench.attributors.base import Problem, chain_generator, num_examples
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.bm25 import BM25
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.trak import TRAK
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, check_attributor, make_image_problem, make_text_problem, quadratic_loss

SGLD = {"step_size": 1e-4, "inverse_temperature": 100.0, "localization": 100.0, "chains": 2, "draws": 20}


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A method that does what a test says, and returns what it gives."""

    behave: Callable[[Problem, torch.Generator], Tensor]

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        return self.behave(problem, generator)


@pytest.mark.parametrize(
    "method",
    [
        BIF(**SGLD, estimate="correlation"),
        *(Kronfluence(strategy=strategy, damping=1e-2) for strategy in ("ekfac", "kfac", "diagonal", "identity")),
        TRAK(proj_dim=101),
    ],
    ids=["normalised bif", "ekfac", "kfac", "diagonal", "gradsim", "trak"],
)
def test_built_in_methods_pass(method):
    check_attributor(method)


@pytest.mark.parametrize(
    "method",
    [
        BIF(**SGLD, estimate="covariance"),
        LaplaceBIF(draws=20, batch_size=8, curvature="token"),
        Kronfluence(strategy="identity"),
        BM25(),
    ],
    ids=["bif", "laplace", "gradsim", "bm25"],
)
def test_built_in_methods_pass_on_text(method):
    check_attributor(method, text=True)


def test_a_method_with_the_sign_the_wrong_way_round_fails_on_text():
    def behave(problem, generator):
        return -BM25().attribute(problem, generator=generator)

    with pytest.raises(ValueError, match="Is the sign the wrong way round"):
        check_attributor(Plugin(behave), text=True)


def test_text_problem_is_learned_by_its_models_and_has_padding(tmp_path):
    problem = make_text_problem(tmp_path)

    losses = problem.token_loss(problem.models[0], problem.train)
    counted = problem.train["labels"] >= 0
    assert losses[counted].mean() < 0.8 * math.log(40)
    assert (losses[~counted] == 0).all()
    assert (~counted[:, 1:]).any()
    torch.testing.assert_close(losses.sum(dim=1), problem.loss(problem.models[0], problem.train))


@pytest.mark.parametrize("method", [Random(), QueryIndependent()], ids=["random", "query_independent"])
def test_built_in_baselines_pass_without_the_claim_to_be_informative(method):
    check_attributor(method, informative=False)


def test_a_plug_in_that_keeps_the_contract_passes():
    check_attributor(Plugin(lambda problem, _: _similarity(problem)))


def test_an_object_without_attribute_is_an_error(unchecked_types):
    with pytest.raises(TypeError, match=re.escape("object has no method attribute(problem, *, generator)")):
        check_attributor(object())


@pytest.mark.parametrize(
    ("error", "change", "message"),
    [
        (ValueError, lambda scores: scores.T, "shape (train, query) = (144, 24); return them transposed"),
        (ValueError, lambda scores: scores[:, 1:], "must have the shape (query, train) = (24, 144), got (24, 143)"),
        (ValueError, lambda scores: scores / 0 * 0, "3456 of 3456 scores are NaN"),
        (TypeError, lambda scores: scores.numpy(), "must return a floating-point tensor, got ndarray"),
        (TypeError, lambda scores: scores.int(), "must return a floating-point tensor, got torch.int32"),
    ],
    ids=["transposed", "wrong shape", "nan", "numpy", "integers"],
)
def test_a_wrong_result_is_an_error(unchecked_types, error, change, message):
    with pytest.raises(error, match=re.escape(message)):
        check_attributor(Plugin(lambda problem, _: change(_similarity(problem))))


@pytest.mark.parametrize(
    "told", [{"queries": 5}, {"train": -1}, {"query": 2.5}, {"train": True}, [250, 250, 0]], ids=str
)
def test_batches_that_a_plan_can_not_use_are_an_error(unchecked_types, told):
    class Batching(Plugin):
        def batch_sizes(self, problem: Problem) -> object:
            return told

    with pytest.raises(ValueError, match=rf"batch_sizes\(\) of Batching must give .* got {re.escape(repr(told))}\."):
        check_attributor(Batching(lambda problem, _: _similarity(problem)))


def test_a_setting_of_that_name_is_no_method():
    class Sized(Plugin):
        batch_sizes = (64, 128)

    check_attributor(Sized(lambda problem, _: _similarity(problem)))


def test_negative_scores_for_helpful_examples_are_an_error():
    with pytest.raises(
        ValueError, match=r"Plugin gives an example a mean score of -.* Is the sign the wrong way round"
    ):
        check_attributor(Plugin(lambda problem, _: -_similarity(problem)))


def test_scores_that_do_not_know_an_example_from_the_others_are_an_error():
    with pytest.raises(ValueError, match="gives an example a mean score of 1 on itself and 1 on others"):
        check_attributor(Plugin(lambda problem, _: torch.ones_like(_similarity(problem))))


def test_changing_a_model_is_an_error():
    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        problem.models[1][0].weight.data.zero_()
        return _similarity(problem)

    with pytest.raises(ValueError, match=re.escape("Plugin changed models[1]")):
        check_attributor(Plugin(behave))


@pytest.mark.parametrize(
    ("role", "key"), [("train", "image"), ("train", "label"), ("query", "image"), ("reference", "label")]
)
def test_changing_examples_is_an_error(role, key):
    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        scores = _similarity(problem)
        getattr(problem, role)[key].add_(1)
        return scores

    # The reference set is the training set, which is looked at first.
    found = "train" if role == "reference" else role
    with pytest.raises(ValueError, match=re.escape(f"Plugin changed problem.{found}['{key}']: work on a copy")):
        check_attributor(Plugin(behave))


@pytest.mark.parametrize(
    ("library", "draw"),
    [
        ("torch", lambda: torch.rand(3)),
        ("torch", lambda: torch.manual_seed(0)),
        ("numpy", lambda: np.random.rand()),  # noqa: NPY002
        ("numpy", lambda: np.random.seed(0)),  # noqa: NPY002
        ("random", random.random),
        ("random", lambda: random.seed(0)),
    ],
)
def test_moving_a_global_random_state_is_an_error(library, draw):
    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        draw()
        return _similarity(problem)

    with (
        isolated_random_state(make_generator(0, "global")),
        pytest.raises(ValueError, match=f"Plugin moved {library}'s global random state"),
    ):
        check_attributor(Plugin(behave))


def test_other_scores_on_a_second_run_are_an_error():
    count = iter(range(10))

    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        return _similarity(problem) + next(count)

    with pytest.raises(ValueError, match=re.escape("gives other scores on a second run (largest difference 1)")):
        check_attributor(Plugin(behave))


def test_scores_kept_in_the_workspace_do_not_hide_that_a_second_run_differs():
    count = iter(range(10))

    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        kept = problem.workspace / "folder" / "scores.pt"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            (problem.workspace / "file").touch()
            torch.save(_similarity(problem) + next(count), kept)
        return torch.load(kept)

    with pytest.raises(ValueError, match="gives other scores on a second run"):
        check_attributor(Plugin(behave))


def test_scores_drawn_from_the_given_generator_are_repeatable():
    def behave(problem: Problem, generator: torch.Generator) -> Tensor:
        scores = _similarity(problem)
        return scores + 1e-3 * torch.randn(scores.shape, generator=generator)

    check_attributor(Plugin(behave))


@dataclasses.dataclass(frozen=True)
class Chains:
    """A method with chains whose stream is what a test says."""

    stream: Callable[[Problem, int, torch.Generator], torch.Generator]
    chains: int = 2

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.rand((), generator=self.stream(problem, chain, generator))}

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Tensor:
        return _similarity(problem) + sum(chain["noise"] * place for place, chain in enumerate(chains))


def test_chains_with_streams_of_their_own_pass():
    check_attributor(Chains(chain_generator))


def test_chains_that_share_a_stream_are_an_error():
    with pytest.raises(ValueError, match=r"Chains gives other scores if its chains are sampled apart \(largest"):
        check_attributor(Chains(lambda _problem, _chain, generator: generator))


def test_image_problem_is_the_same_for_the_same_seed(tmp_path):
    first, again, other = (make_image_problem(tmp_path, num_train=8, num_query=4, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first.train["image"], again.train["image"])
    assert not torch.equal(first.train["image"], other.train["image"])
    assert all(
        torch.equal(value, again.models[1].state_dict()[name]) for name, value in first.models[1].state_dict().items()
    )
    assert not torch.equal(first.models[0][0].weight, first.models[1][0].weight)


def test_image_problem_is_learned_by_its_models(tmp_path):
    problem = make_image_problem(tmp_path)

    losses = problem.loss(problem.models[0], problem.query)

    # Guessing one of four classes costs log(4) = 1.39 nats.
    assert num_examples(problem.query) == 24
    assert losses.mean() < 0.5
    assert not problem.models[0].training


def test_quadratic_loss_is_the_written_out_form():
    centre = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[1.0, 0.0], [0.0, 4.0]]])
    model = Quadratic(torch.tensor([3.0, 1.0]))

    losses = quadratic_loss(model, {"centre": centre, "hessian": hessian})

    # Distances (2, -1) and (3, 2): (2*4 - 2*2 + 3*1) / 2 and (9 + 4*4) / 2.
    assert losses.tolist() == [3.5, 12.5]


def _similarity(problem: Problem) -> Tensor:
    query, train = (examples["image"].flatten(1) for examples in (problem.query, problem.train))
    return query @ train.T
