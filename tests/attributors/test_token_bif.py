import collections
import dataclasses
import re

import numpy as np
import pytest
import torch
from token_problems import CHECKPOINT, HESSIAN, make_language_problem, make_quadratic_tokens
from walks import break_chain

from tdabench.attributors.base import Attributor, Problem, TokenAttributor, Unsupported
from tdabench.attributors.bif import BIF
from tdabench.attributors.bm25 import BM25
from tdabench.attributors.estimates import room as token_room
from tdabench.attributors.estimates.blocks import block_side, least_memory
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.attributors.estimates.room import token_scores_bytes
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.running.run import AttributionWarning
from tdabench.attributors.sampling import method as sampled
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors

# Steps of 0.003 a parameter: losses move by far more than they are rounded.
LANGUAGE = BIF(step_size=1e-5, inverse_temperature=100.0, localization=100.0, chains=2, draws=6, batch_size=3)
LAPLACE = LaplaceBIF(draws=5, chains=2, batch_size=3, amplitude=5.0)
estimated = pytest.mark.parametrize("estimate", ["covariance", "correlation"])
LAPLACE_OF_TOKENS = dataclasses.replace(LAPLACE, curvature="token")
each_method = pytest.mark.parametrize(
    "method", [LANGUAGE, LAPLACE, LAPLACE_OF_TOKENS], ids=["sgld", "laplace", "laplace of tokens"]
)


# What the scores are


def test_scores_of_tokens_are_the_exact_stationary_covariances_of_quadratic_losses(tmp_path):
    problem = make_quadratic_tokens(tmp_path)
    method = BIF(
        step_size=0.7, inverse_temperature=2.0, localization=0.7, chains=2, draws=1000, burn_in=8, steps_between_draws=2
    )

    scores = method.attribute_tokens(problem, generator=make_generator(0, "bif")).numpy()

    precision = 2.0 * HESSIAN.double().numpy() + 0.7 * np.eye(2)
    covariance = np.linalg.inv(precision) @ np.linalg.inv(np.eye(2) - 0.7 * precision / 4)
    (q, h), (t, k) = (_derivatives(examples) for examples in (problem.query, problem.train))
    slope = np.einsum("qsa,ab,itb->qsit", q, covariance, t)
    curvature = np.einsum("qsab,bc,itcd,da->qsit", h, covariance, k, covariance) / 2
    # As in test_bif.py: draws two steps apart count as independent.
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance, size=20_000)
    query, train = (_centred_losses(draws, *derivatives) for derivatives in ((q, h), (t, k)))
    squares = np.einsum("nqs,nit->qsit", query**2, train**2) / len(draws) - (slope + curvature) ** 2
    tolerance = 4 * np.sqrt(squares / (2 * 1000))
    assert (np.abs(scores - slope - curvature) < tolerance).all()
    assert (np.abs(slope) > 2 * tolerance).any()
    assert (np.abs(curvature) > 2 * tolerance).any()


@each_method
def test_scores_of_tokens_sum_to_those_of_sequences(tmp_path, method):
    problem = make_language_problem(tmp_path)

    by_token = method.attribute_tokens(problem, generator=make_generator(0, "bif"))

    assert by_token.shape == (3, 6, 5, 8)
    sequences = method.attribute(problem, generator=make_generator(0, "bif"))
    assert (by_token.sum(dim=(1, 3)) - sequences).abs().max() < 1e-5 * sequences.abs().max()


@estimated
def test_each_score_is_the_estimate_of_its_two_tokens(tmp_path, estimate):
    problem = make_language_problem(tmp_path)
    method = dataclasses.replace(LANGUAGE, estimate=estimate)

    scores = method.attribute_tokens(problem, generator=make_generator(0, "bif"))

    chains = _sample_tokens(method, problem)
    query, train = (torch.stack([chain[name] for chain in chains]) for name in ("query_tokens", "train_tokens"))
    function = loss_covariance if estimate == "covariance" else loss_correlation
    for j, t, i, s in ((0, 4, 0, 2), (2, 1, 4, 7), (1, 5, 3, 3)):
        expected = function(query[:, :, j, t, None], train[:, :, i, s, None])
        torch.testing.assert_close(scores[j, t, i, s], expected.squeeze(), rtol=1e-9, atol=1e-15)


@estimated
@pytest.mark.parametrize("memory_gib", [None, 1.2e-5])
def test_positions_that_do_not_count_have_a_score_of_exactly_zero(tmp_path, estimate, memory_gib):
    problem = make_language_problem(tmp_path)
    method = dataclasses.replace(LANGUAGE, estimate=estimate, memory_gib=memory_gib)

    scores = method.attribute_tokens(problem, generator=make_generator(0, "bif"))

    query, train = (examples["labels"] != -100 for examples in (problem.query, problem.train))
    query[:, 0] = train[:, 0] = False  # nothing predicts the first
    counts = query[:, :, None, None] & train
    assert (scores[~counts] == 0).all()
    assert (scores[counts] != 0).all()


# Both of the paper's implementations


@pytest.mark.parametrize("memory_gib", [None, 1e-6, 1e-5])
@estimated
def test_implementation_b_is_the_sum_over_tokens(tmp_path, memory_gib, estimate):
    problem = make_language_problem(tmp_path)
    method = dataclasses.replace(LANGUAGE, estimate=estimate, level="token")

    by_token = method.attribute_tokens(problem, generator=make_generator(0, "bif"))
    sequences = dataclasses.replace(method, memory_gib=memory_gib).attribute(
        problem, generator=make_generator(0, "bif")
    )

    torch.testing.assert_close(sequences, by_token.sum(dim=(1, 3)), rtol=1e-9, atol=1e-12)


def test_scores_within_a_memory_that_is_told_are_those_without_a_limit(tmp_path):
    problem = make_language_problem(tmp_path)

    free, limited = (
        dataclasses.replace(LANGUAGE, memory_gib=limit).attribute_tokens(problem, generator=make_generator(0, "bif"))
        for limit in (None, 1.2e-5)
    )

    assert limited.dtype == torch.float32
    torch.testing.assert_close(limited, free.float(), rtol=1e-5, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["traces.safetensors"]


# Chains


@each_method
def test_token_chains_that_are_sampled_apart_give_the_scores_of_the_method(tmp_path, method):
    problem = make_language_problem(tmp_path)

    whole = method.attribute_tokens(problem, generator=make_generator(0, "bif"))
    apart = method.score_token_chains(_sample_tokens(method, problem), problem)

    assert torch.equal(apart, whole)


@each_method
def test_a_token_chain_is_the_chain_of_sequences_and_keeps_its_traces(tmp_path, method):
    problem = make_language_problem(tmp_path)

    method.attribute_tokens(problem, generator=make_generator(0, "bif"))

    traces = load_tensors(tmp_path / "traces.safetensors")
    assert load_record(tmp_path / "traces.safetensors")["markov"] == isinstance(method, BIF)
    chain = method.sample_chain(problem, 1, generator=make_generator(0, "bif"))
    assert traces.keys() == chain.keys()
    for name in ("train", "query", "train_checkpoint"):
        torch.testing.assert_close(traces[name][1] if traces[name].ndim == 3 else traces[name], chain[name])


def test_one_forward_pass_a_draw_gives_tokens_and_sequences(tmp_path):
    problem, seen = make_language_problem(tmp_path), collections.Counter()

    def count(name, loss):
        def counted(model, examples):
            seen[name] += len(examples["input_ids"])
            return loss(model, examples)

        return counted

    counting = dataclasses.replace(
        problem, loss=count("loss", problem.loss), token_loss=count("token_loss", problem.token_loss)
    )
    LANGUAGE.sample_token_chain(counting, 0, generator=make_generator(0, "bif"))

    assert seen == {"token_loss": (1 + 6) * (5 + 3), "loss": 6 * 3}


def test_a_diverged_chain_is_left_out_with_a_warning(tmp_path, monkeypatch):
    problem = make_language_problem(tmp_path)
    method = dataclasses.replace(LANGUAGE, chains=3)
    good = method.score_token_chains([_sample_tokens(method, problem)[chain] for chain in (0, 2)], problem)
    break_chain(monkeypatch, 1)

    with pytest.warns(
        AttributionWarning, match=re.escape("BIF chains [1] of 3 diverged and are left out: lower step_size (1e-05).")
    ):
        scores = method.attribute_tokens(problem, generator=make_generator(0, "bif"))

    torch.testing.assert_close(scores, good)


# What they need


def test_the_bytes_that_are_told_are_those_of_the_tensors(tmp_path):
    problem = make_language_problem(tmp_path)

    told = token_scores_bytes(queries=3, query_positions=6, train=5, train_positions=8, chains=2, draws=6)

    chains = _sample_tokens(LANGUAGE, problem)
    assert told.losses == sum(chain[name].nbytes for name in ("query_tokens", "train_tokens") for chain in chains)
    assert told.scores == LANGUAGE.score_token_chains(chains, problem).float().nbytes


def test_a_limit_of_memory_that_holds_no_pair_of_sequences_is_an_error_with_the_numbers(tmp_path):
    method = dataclasses.replace(LANGUAGE, memory_gib=1e-6)

    message = (
        "memory_gib is 1e-06, and scores of tokens need 6.63e-06 at least: 3 x 6 x 5 x 8 scores (queries x positions x "
        "training examples x positions) x 4 bytes = 2,880 bytes. Raise it, or ask for fewer queries"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        method.attribute_tokens(make_language_problem(tmp_path), generator=make_generator(0, "bif"))


@pytest.mark.parametrize("side", [1, 8, 100, 1024])
@pytest.mark.parametrize("draws", [2, 500])
def test_the_least_limit_that_is_named_is_enough(side, draws):
    least = least_memory(side, draws=draws) / 2**30

    assert side <= block_side(least, draws=draws) <= side + 2


def test_more_than_the_machine_has_is_an_error_before_a_chain_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(token_room.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(sampled, "record_chain", None)

    with pytest.raises(ValueError, match=r"need 28,128 bytes of memory, .* there are 10,000: .*Set memory_gib"):
        LANGUAGE.attribute_tokens(make_language_problem(tmp_path), generator=make_generator(0, "bif"))


def test_a_disk_without_room_for_the_scores_is_an_error_before_a_chain_is_sampled(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(token_room.shutil, "disk_usage", lambda path: usage(2_879))
    monkeypatch.setattr(sampled, "record_chain", None)
    method = dataclasses.replace(LANGUAGE, memory_gib=1.2e-5)

    with pytest.raises(ValueError, match=r"has 2,879 bytes free in .*3 x 6 x 5 x 8 scores .* = 2,880 bytes"):
        method.attribute_tokens(make_language_problem(tmp_path), generator=make_generator(0, "bif"))


@pytest.mark.parametrize("ask", ["attribute_tokens", "attribute"])
def test_a_problem_without_tokens_is_not_supported(tmp_path, ask):
    problem = dataclasses.replace(make_language_problem(tmp_path), token_loss=None)
    method = dataclasses.replace(LANGUAGE, level="token")

    with pytest.raises(Unsupported, match="need a language model: this problem has no token_loss"):
        getattr(method, ask)(problem, generator=make_generator(0, "bif"))


@pytest.mark.parametrize("ask", ["attribute_tokens", "attribute"])
def test_a_curvature_of_tokens_needs_tokens(tmp_path, ask):
    problem = dataclasses.replace(make_language_problem(tmp_path), token_loss=None)

    with pytest.raises(Unsupported, match="need"):
        getattr(LAPLACE_OF_TOKENS, ask)(problem, generator=make_generator(0, "bif"))


def test_gradients_of_tokens_in_parts_give_the_same_draws(tmp_path):
    problem = make_language_problem(tmp_path)
    whole, parts = (
        dataclasses.replace(LAPLACE_OF_TOKENS, microbatch=size).attribute(problem, generator=make_generator(0, "bif"))
        for size in (None, 2)
    )

    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4 * whole.abs().max().item())


def test_a_method_is_known_to_score_tokens_by_its_method():
    assert isinstance(LANGUAGE, TokenAttributor)
    assert isinstance(LaplaceBIF(draws=4), TokenAttributor)
    other = BM25()
    assert isinstance(other, Attributor)
    assert not isinstance(other, TokenAttributor)


def _sample_tokens(method: BIF | LaplaceBIF, problem: Problem) -> list[dict[str, torch.Tensor]]:
    return [
        method.sample_token_chain(problem, chain, generator=make_generator(0, "bif")) for chain in range(method.chains)
    ]


def _derivatives(examples: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return every token's gradient and Hessian at the checkpoint."""
    hessian, offset = (part.double().numpy() for part in (examples["hessian"], CHECKPOINT - examples["centre"]))
    return np.einsum("ipab,ipb->ipa", hessian, offset), hessian


def _centred_losses(draws: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    losses = np.einsum("na,ipa->nip", draws, gradient) + np.einsum("na,ipab,nb->nip", draws, hessian, draws) / 2
    return losses - losses.mean(axis=0)
