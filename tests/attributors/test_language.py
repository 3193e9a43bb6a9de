"""Every built-in method on a language model, by the same contract."""

import copy
import dataclasses

import pytest
import torch
from tiny_language import NUM_QUERY, NUM_TRAIN, language_loss, make_language_problem, pad_problem

from tdabench import examples
from tdabench.attributors.base import Problem, take
from tdabench.attributors.baselines import QueryIndependent, Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.bm25 import BM25
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.catalogue import METHODS as CATALOGUE
from tdabench.attributors.running.run import Attribution, run_attributor
from tdabench.attributors.trak import TRAK
from tdabench.seeds import make_generator

CHAIN = {"inverse_temperature": 100.0, "localization": 100.0, "chains": 2, "draws": 8, "batch_size": 8}
# A row's loss is correlated with itself by 1; a covariance needs more draws than a test has to rank it first.
CHAIN |= {"step_size": 1e-4, "estimate": "correlation"}
FACTORED = {"fit_batch_size": 13, "train_batch_size": 13, "query_batch_size": 4}
METHODS = {
    "bif": BIF(**CHAIN),
    "bif_baoab": BIF(sampler="baoab", **CHAIN),
    "bif_rmsprop": BIF(sampler="rmsprop_sgld", preconditioner_steps=4, **CHAIN),
    "bif_laplace": LaplaceBIF(draws=40, batch_size=16),
    "ekfac": Kronfluence(strategy="ekfac", damping=1e-3),
    "kfac": Kronfluence(strategy="kfac", damping=1e-3),
    "diagonal": Kronfluence(strategy="diagonal", damping=1e-3),
    "gradsim": Kronfluence(strategy="identity"),
    "trak": TRAK(proj_dim=110, regularization=1.0),
    "bm25": BM25(),
    "random": Random(),
    "query_independent": QueryIndependent(),
}
BLIND = ("random", "query_independent")
# Settings that change speed and memory only, smaller than by default.
SMALLER = {
    "bif": {"loss_batch_size": 13},
    "bif_baoab": {"loss_batch_size": 13},
    "bif_rmsprop": {"loss_batch_size": 13},
    "bif_laplace": {"loss_batch_size": 13},
    "trak": {"batch_size": 33},
    "query_independent": {"batch_size": 13},
    "ekfac": FACTORED,
    "kfac": FACTORED,
    "diagonal": FACTORED,
    "gradsim": FACTORED,
}


def test_every_built_in_method_is_tried():
    assert [key for key, *_ in CATALOGUE] == list(METHODS)


@pytest.fixture(scope="module")
def attributions(tmp_path_factory) -> dict[str, Attribution]:
    """Return every method's scores of the same problem."""
    folder = tmp_path_factory.mktemp("language")
    return {key: _run(method, make_language_problem(folder / key)) for key, method in METHODS.items()}


@pytest.mark.parametrize("key", METHODS)
def test_scores_are_finite_repeatable_and_nothing_is_touched(tmp_path, attributions, key):
    problem = make_language_problem(tmp_path / "again")
    train = copy.deepcopy(problem.train)

    again = _run(METHODS[key], problem)  # which checks that scores are finite and the model is as it was

    assert again.scores.shape == (NUM_QUERY, NUM_TRAIN)
    assert torch.equal(again.scores, attributions[key].scores)
    assert all(torch.equal(values, train[name]) for name, values in problem.train.items())


@pytest.mark.parametrize("key", [key for key in METHODS if key not in BLIND])
def test_a_query_that_was_trained_on_is_helped_most_by_its_twin(attributions, key):
    scores = attributions[key].scores

    twins = scores.diagonal()
    ranks = (scores >= twins[:, None] - 1e-6 * twins[:, None].abs()).sum(dim=1)
    assert (twins > 0).all()
    # By chance a twin is among the first 5 of 120 once in 24, and six of them once in 10^8.
    assert (ranks <= 5).all(), ranks


@pytest.mark.parametrize("key", SMALLER)
def test_scores_depend_on_no_batch_size(tmp_path, attributions, key):
    small = dataclasses.replace(METHODS[key], **SMALLER[key])

    parts = _run(small, make_language_problem(tmp_path / "parts"))

    _assert_same(parts, attributions[key])


@pytest.mark.parametrize("key", METHODS)
def test_scores_depend_on_no_padding(tmp_path, attributions, key):
    problem = make_language_problem(tmp_path / "problem")

    padded = _run(METHODS[key], pad_problem(problem, tmp_path / "padded"))

    _assert_same(padded, attributions[key])


@pytest.mark.parametrize("key", ["bif", "bif_laplace", "query_independent"])
def test_a_pass_has_4096_tokens_at_most_unless_told_otherwise(tmp_path, monkeypatch, key):
    monkeypatch.setattr(examples, "TOKENS_AT_ONCE", 10 * 12)
    problem = make_language_problem(tmp_path / "problem")
    sizes = []

    def watch(model, rows):
        sizes.append(len(rows["input_ids"]))
        return problem.loss(model, rows)

    _run(METHODS[key], dataclasses.replace(problem, loss=watch))

    minibatch = getattr(METHODS[key], "batch_size", None) or 0
    assert max(sizes) == max(10, minibatch)
    assert sizes.count(10) >= NUM_TRAIN // 10


def test_a_row_and_the_same_row_padded_have_one_gradient(tmp_path, example_gradients):
    problem = make_language_problem(tmp_path / "problem")
    rows = take(problem.train, slice(3))

    plain, padded = (
        example_gradients(problem.models[0], language_loss, take(entry.train, slice(3)))
        for entry in (problem, pad_problem(problem, tmp_path / "padded"))
    )

    assert (rows["labels"][0] != -100).any()
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-6 * plain.abs().max().item())


@pytest.mark.parametrize("key", METHODS)
def test_passes_are_counted(attributions, key):
    passes = sum(part.passes for part in attributions[key].cost.phases.values())

    assert passes == 0 if key in ("random", "bm25") else passes >= NUM_TRAIN + NUM_QUERY


@pytest.mark.slow
def test_settings_are_found_on_a_language_model(tmp_path):
    problem = make_language_problem(tmp_path / "problem")
    rows = take(problem.train, slice(12))
    problem = dataclasses.replace(problem, train=rows, reference=rows)
    method = dataclasses.replace(METHODS["bif"], step_size="auto", steps_between_draws="auto", burn_in="auto")

    proposed = method.calibrate(problem, generator=make_generator(0, "language"))["proposed"]

    # Within a factor of a hundred of what the other tests use.
    assert 1e-6 < proposed["step_size"] < 1e-2
    assert proposed["steps_between_draws"] >= 1


def _run(method, problem: Problem) -> Attribution:
    return run_attributor(method, problem, generator=make_generator(0, "language"))


def _assert_same(found: Attribution, expected: Attribution) -> None:
    # float32 rounding of sums in another order, magnified by chains and inverses; a padding token that counts, or a
    # batch that is left out, changes some score by more than 1 %.
    tolerance = 2e-3 * expected.scores.abs().max().item()
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=tolerance)
