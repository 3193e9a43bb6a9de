import dataclasses
import re
from pathlib import Path

import pytest
import torch
from linear_losses import Linear, linear_loss

from tdabench.attributors.base import Problem
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.attributors.estimates.traces import estimate_scores
from tdabench.attributors.running.run import AttributionWarning
from tdabench.attributors.sampling.chains import DIVERGED, join_examples, measure_losses
from tdabench.seeds import make_generator
from tdabench.storage.records import load_tensors


@dataclasses.dataclass(frozen=True)
class _Settings:
    estimate: str = "covariance"
    memory_gib: float | None = None


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


def test_scores_that_do_not_fit_in_the_memory_that_is_told_are_the_same(tmp_path):
    query, train = _draw_traces(chains=2)
    settings = _Settings("correlation", memory_gib=1e-6)

    scores = estimate_scores(settings, _chains(train, query), _problem(tmp_path), remedy="be careful")

    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, loss_correlation(query, train).float(), rtol=0, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["traces.safetensors"]


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
