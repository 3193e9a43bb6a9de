import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_losses import Linear, linear_loss

from tdabench.attributors.base import Problem
from tdabench.attributors.chains import DIVERGED, join_examples, measure_losses
from tdabench.attributors.run import AttributionWarning
from tdabench.attributors.traces import (
    estimate_scores,
    loss_correlation,
    loss_covariance,
    require_estimate,
)
from tdabench.records import load_tensors
from tdabench.seeds import make_generator


@dataclasses.dataclass(frozen=True)
class _Settings:
    estimate: str = "covariance"


def test_correlation_equals_numpy_on_one_chain_and_is_zero_for_a_loss_that_never_moved():
    query, train = _draw_traces(chains=1)
    train[..., 2] = 3.0

    correlation = loss_correlation(query, train).numpy()

    still, moving = correlation[:, 2], np.delete(correlation, 2, axis=1)
    expected = np.corrcoef(query[0].T, np.delete(train[0].numpy(), 2, axis=1).T)[: query.shape[2], query.shape[2] :]
    np.testing.assert_allclose(moving, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(still, 0)


def test_covariance_equals_numpy_on_one_chain():
    query, train = _draw_traces(chains=1)

    covariance = loss_covariance(query, train).numpy()

    expected = np.cov(query[0].T, train[0].T)[: query.shape[2], query.shape[2] :]
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-12)


def test_covariance_of_several_chains_is_the_mean_of_theirs():
    query, train = _draw_traces(chains=3)

    covariance = loss_covariance(query, train)

    apart = [loss_covariance(query[[chain]], train[[chain]]) for chain in range(3)]
    torch.testing.assert_close(covariance, torch.stack(apart).mean(dim=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimate", [loss_covariance, loss_correlation])
def test_a_constant_added_to_the_losses_of_a_chain_changes_nothing(estimate):
    query, train = _draw_traces(chains=3)
    shift = torch.tensor([5.0, -3.0, 0.0], dtype=torch.float64)[:, None, None]

    shifted = estimate(query + shift, train - 2 * shift)

    # Rounding of values near 10 in float64, over 20 draws.
    torch.testing.assert_close(shifted, estimate(query, train), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimate", [loss_covariance, loss_correlation])
def test_an_estimate_from_a_single_draw_is_an_error(estimate):
    query, train = _draw_traces(chains=2)

    with pytest.raises(ValueError, match="needs at least 2 draws a chain, got 1"):
        estimate(query[:, :1], train[:, :1])


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_losses_of_training_examples_and_then_queries_are_measured_without_a_graph(tmp_path, batch_size):
    problem = _problem(tmp_path)
    model = problem.models[0]

    losses = measure_losses(model, problem, join_examples(problem), batch_size)

    assert not losses.requires_grad
    expected = torch.cat([linear_loss(model, examples).detach() for examples in (problem.train, problem.query)])
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("estimate", "function"), [("covariance", loss_covariance), ("correlation", loss_correlation)])
def test_scores_are_the_estimate_that_the_settings_name_and_their_traces_are_kept(tmp_path, estimate, function):
    query, train = _draw_traces(chains=2)

    scores = estimate_scores(_Settings(estimate), _chains(train, query), _problem(tmp_path), remedy="be careful")

    torch.testing.assert_close(scores, function(query, train), rtol=0, atol=0)
    kept = load_tensors(tmp_path / "traces.safetensors")
    assert torch.equal(kept["train"], train)
    assert torch.equal(kept["query"], query)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, DIVERGED, -DIVERGED])
@pytest.mark.parametrize("example", [0, 7])
def test_a_chain_with_one_diverged_loss_is_left_out_with_a_warning_but_kept_on_disk(tmp_path, example, value):
    query, train = _draw_traces(chains=3)
    traces = torch.cat([train, query], dim=2)
    traces[1, -1, example] = value

    with pytest.warns(
        AttributionWarning, match=re.escape("BIF chains [1] of 3 diverged and are left out: be careful.")
    ):
        scores = estimate_scores(
            _Settings(), _chains(*traces.split([5, 3], dim=2)), _problem(tmp_path), remedy="be careful"
        )

    torch.testing.assert_close(scores, loss_covariance(query[[0, 2]], train[[0, 2]]), rtol=0, atol=0)
    kept = load_tensors(tmp_path / "traces.safetensors")
    torch.testing.assert_close(torch.cat([kept["train"], kept["query"]], dim=2), traces, rtol=0, atol=0, equal_nan=True)


def test_large_losses_below_the_limit_are_no_divergence(tmp_path):
    query, train = _draw_traces(chains=2)
    train[1, 0, 0] = 0.999 * DIVERGED

    scores = estimate_scores(_Settings(), _chains(train, query), _problem(tmp_path), remedy="be careful")

    torch.testing.assert_close(scores, loss_covariance(query, train), rtol=0, atol=0)


def test_nothing_but_diverged_chains_is_an_error_that_names_the_remedy(tmp_path):
    query, train = _draw_traces(chains=2)
    traces = torch.cat([train, query], dim=2)
    traces[:, 3] = torch.nan

    with pytest.raises(ValueError, match=re.escape("Every BIF chain diverged: be careful.")):
        estimate_scores(_Settings(), _chains(*traces.split([5, 3], dim=2)), _problem(tmp_path), remedy="be careful")


@pytest.mark.parametrize("estimate", ["covariance", "correlation"])
def test_both_estimates_are_known(estimate):
    require_estimate(estimate)


def test_an_unknown_estimate_is_an_error():
    with pytest.raises(ValueError, match="estimate must be covariance or correlation, got 'cosine'"):
        require_estimate("cosine")


def _problem(workspace: Path) -> Problem:
    """Make five training examples and three queries, as many as ``_draw_traces`` has."""
    slopes = torch.randn(8, 4, generator=make_generator(0, "slopes"))
    train, query = ({"slope": slopes[part]} for part in (slice(5), slice(5, 8)))
    model = Linear(torch.linspace(-1, 1, 4))
    return Problem(models=(model,), loss=linear_loss, train=train, query=query, reference=train, workspace=workspace)


def _draw_traces(chains: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = make_generator(0, "traces")
    shared = torch.randn(chains, 20, 1, generator=generator, dtype=torch.float64)
    query, train = (
        shared + torch.randn(chains, 20, count, generator=generator, dtype=torch.float64) for count in (3, 5)
    )
    return query, train


def _chains(train: torch.Tensor, query: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"train": of_train, "query": of_query} for of_train, of_query in zip(train, query, strict=True)]
