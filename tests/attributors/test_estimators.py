import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from tdabench.attributors.estimates.estimators import (
    StreamingCovariance,
    loss_correlation,
    loss_covariance,
)
from tdabench.seeds import make_generator

CHAINS, DRAWS, QUERY, TRAIN = 3, 20, 3, 5
# Chain by chain, where the draws are cut.
CUTS = st.lists(st.sets(st.integers(1, DRAWS - 1)), min_size=CHAINS, max_size=CHAINS)


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


@hypothesis.given(cuts=CUTS, data=st.data())
def test_a_stream_of_blocks_of_draws_in_any_order_gives_what_all_at_once_give(cuts, data):
    query, train = _draw_traces(CHAINS)
    stream = StreamingCovariance(QUERY, TRAIN)

    for chain, draws in data.draw(st.permutations(_blocks(cuts))):
        stream.update(chain, query[chain, draws], train[chain, draws])

    _assert_equal(stream, query, train)


def test_a_stream_can_be_asked_in_between_and_goes_on():
    query, train = _draw_traces(chains=1)
    stream = StreamingCovariance(QUERY, TRAIN)

    for draw in range(DRAWS):
        stream.update(0, query[0, draw : draw + 1], train[0, draw : draw + 1])
        if draw:
            expected = loss_covariance(query[:, : draw + 1], train[:, : draw + 1])
            torch.testing.assert_close(stream.covariance(), expected, rtol=0, atol=1e-12)


def test_losses_that_lie_far_from_zero_lose_no_digits_in_a_stream():
    query, train = _draw_traces(chains=2)
    stream = StreamingCovariance(QUERY, TRAIN)

    for draw in range(DRAWS):
        for chain in range(2):
            stream.update(chain, query[chain, draw : draw + 1] + 1e6, train[chain, draw : draw + 1] - 1e6)

    # Values near 1e6 are known to 1e-10 in float64. Sums of products, less those of means, would be wrong by 1e-3.
    torch.testing.assert_close(stream.covariance(), loss_covariance(query, train), rtol=0, atol=1e-8)


def test_a_stream_of_losses_of_which_one_never_moved_has_no_correlation_with_it():
    query, train = _draw_traces(chains=2)
    train[..., 2] = 0.3
    stream = StreamingCovariance(QUERY, TRAIN)

    for chain, start in itertools.product(range(2), range(0, DRAWS, 7)):
        stream.update(chain, query[chain, start : start + 7], train[chain, start : start + 7])

    assert (stream.correlation()[:, 2].abs() < 1e-3).all()
    assert (stream.correlation().abs() <= 1 + 1e-12).all()


def test_float32_losses_are_summed_in_float64():
    query, train = (losses.float() for losses in _draw_traces(chains=2))
    stream = StreamingCovariance(QUERY, TRAIN)

    for chain in range(2):
        stream.update(chain, query[chain], train[chain])

    torch.testing.assert_close(stream.covariance(), loss_covariance(query, train), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimate", ["covariance", "correlation"])
@pytest.mark.parametrize("chains", [0, 2])
def test_a_stream_without_two_draws_of_a_chain_is_an_error(estimate, chains):
    query, train = _draw_traces(chains=2)
    stream = StreamingCovariance(QUERY, TRAIN)
    for chain in range(chains):
        stream.update(chain, query[chain, :1], train[chain, :1])

    with pytest.raises(ValueError, match=f"A {estimate} needs at least 2 draws a chain, got {min(chains, 1)}"):
        getattr(stream, estimate)()


def _blocks(cuts: list[set[int]]) -> list[tuple[int, slice]]:
    """Return each chain's blocks of draws."""
    edges = [[0, *sorted(inner), DRAWS] for inner in cuts]
    return [(chain, slice(*pair)) for chain, ends in enumerate(edges) for pair in itertools.pairwise(ends)]


def _assert_equal(stream: StreamingCovariance, query: torch.Tensor, train: torch.Tensor) -> None:
    torch.testing.assert_close(stream.covariance(), loss_covariance(query, train), rtol=0, atol=1e-12)
    torch.testing.assert_close(stream.correlation(), loss_correlation(query, train), rtol=0, atol=1e-12)


def _draw_traces(chains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw losses that have something in common, and other means in each chain."""
    generator = make_generator(0, "traces")
    shared = torch.randn(chains, DRAWS, 1, generator=generator, dtype=torch.float64)
    shared += 3 * torch.arange(chains)[:, None, None]
    query, train = (
        shared + torch.randn(chains, DRAWS, count, generator=generator, dtype=torch.float64) for count in (QUERY, TRAIN)
    )
    return query, train
