"""What methods say of their batches, beside what passes through the networks."""

import dataclasses

import pytest
import torch
from tiny_language import make_language_problem
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from tdabench.attributors.base import Batched, Problem, num_examples
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.bm25 import BM25
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.run import run_attributor
from tdabench.attributors.trak import TRAK
from tdabench.seeds import make_generator
from tdabench.testing import make_image_problem

SGLD = BIF(step_size=1e-4, inverse_temperature=10.0, localization=10.0, chains=1, draws=3, batch_size=16)
LAPLACE = LaplaceBIF(draws=4, batch_size=90, loss_batch_size=20)
GRADSIM = Kronfluence(strategy="identity", query_batch_size=10, train_batch_size=50)
METHODS = {
    "losses": dataclasses.replace(SGLD, loss_batch_size=50),
    "minibatches": dataclasses.replace(SGLD, batch_size=70, loss_batch_size=20),
    "microbatches": dataclasses.replace(SGLD, batch_size=70, microbatch=30, loss_batch_size=20),
    "laplace": LAPLACE,
    "laplace, microbatches": dataclasses.replace(LAPLACE, microbatch=40),
    "trak": TRAK(proj_dim=110, batch_size=55),
    "gradsim": GRADSIM,
    "fit": Kronfluence(strategy="kfac", damping=0.1, fit_batch_size=60, train_batch_size=20, query_batch_size=10),
    "defaults": Kronfluence(strategy="kfac", damping=0.1),
    "query_independent": QueryIndependent(batch_size=35),
    "random": Random(),
}


def _watch(problem: Problem) -> list[int]:
    """List the examples of each pass through the networks."""
    seen: list[int] = [0]

    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        while is_functorch_wrapped_tensor(output):
            output = get_unwrapped(output)
        seen.append(output.numel() // 4)  # of four classes

    for model in problem.models:
        model.register_forward_hook(hook)
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_the_largest_pass_is_the_largest_batch_that_a_method_tells(tmp_path, name):
    problem, method = make_image_problem(tmp_path), METHODS[name]
    seen = _watch(problem)

    run_attributor(method, problem, generator=make_generator(0, "batches"))

    told = method.batch_sizes(problem)
    assert isinstance(method, Batched)
    assert max(seen) == max(min(most, num_examples(getattr(problem, part))) for part, most in told.items())


def test_what_is_told_does_not_depend_on_how_many_examples_there_are(tmp_path):
    few = make_image_problem(tmp_path, num_train=20, num_query=4)

    assert Kronfluence(strategy="ekfac").batch_sizes(few) == {"reference": 250, "train": 250, "query": 1000}
    assert SGLD.batch_sizes(few) == {"train": 500, "query": 500, "reference": 16}
    assert TRAK().batch_sizes(few) == {"train": 250, "query": 250, "reference": 0}


def test_rows_of_tokens_are_counted_by_their_length(tmp_path):
    problem = make_language_problem(tmp_path)
    length = problem.train["input_ids"].shape[1]

    assert SGLD.batch_sizes(problem)["train"] == 4096 // length
    assert QueryIndependent().batch_sizes(problem)["train"] == min(4096 // length, 250)
    assert Kronfluence(strategy="ekfac").batch_sizes(problem)["train"] == min(2048 // length, 250)
    assert set(BM25().batch_sizes(problem).values()) == {0}


def test_where_losses_of_tokens_are_kept_there_is_no_limit(tmp_path):
    assert dataclasses.replace(SGLD, level="token").batch_sizes(make_language_problem(tmp_path)) is None


def test_queries_whose_gradients_are_held_are_as_many_as_are_told(tmp_path, monkeypatch):
    problem = make_image_problem(tmp_path)
    held = []
    loader = torch.utils.data.DataLoader
    true_init = loader.__init__

    def watch(self, *arguments, **named):
        held.append((len(named["dataset"]), named["batch_size"]))
        true_init(self, *arguments, **named)

    monkeypatch.setattr(loader, "__init__", watch)
    run_attributor(GRADSIM, problem, generator=make_generator(0, "held"))

    assert (num_examples(problem.query), GRADSIM.batch_sizes(problem)["query"]) in held
