import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from torch import Tensor

from tdabench.evaluation.intervals import _WeightedRanks, bootstrap_interval, bootstrap_means, over_repeats
from tdabench.evaluation.lds import rank_correlation
from tdabench.seeds import make_generator

SIZES = st.integers(3, 9)


@settings(max_examples=60)
@given(
    case=SIZES.flatmap(
        lambda size: st.tuples(
            arrays.arrays(np.int64, (2, size), elements=st.integers(-2, 2)),
            arrays.arrays(np.int64, size, elements=st.integers(0, 3)),
        )
    )
)
def test_correlation_with_counts_equals_scipy_on_repeated_rows_whatever_the_ties(case):
    pair, counts = case
    first, second = torch.from_numpy(pair).double()[..., None]

    correlation = _WeightedRanks(first, second).correlation(torch.from_numpy(counts).double()).item()

    repeated = np.repeat(pair, counts, axis=1)
    if any(len(set(values)) <= 1 for values in repeated.tolist()):
        assert math.isnan(correlation)
    else:
        assert correlation == pytest.approx(stats.spearmanr(*repeated).statistic, abs=1e-12)


def test_correlation_with_every_subset_counted_once_is_the_lds_of_every_query():
    predicted, measured = _draw_bank(make_generator(0, "bank"))
    predicted[:, 0] = predicted[:, 0].round()  # ties

    correlation = _WeightedRanks(predicted, measured).correlation(torch.ones(len(predicted), dtype=torch.float64))

    torch.testing.assert_close(correlation, rank_correlation(predicted, measured), rtol=0, atol=1e-12)


def test_standard_error_is_the_spread_over_fresh_banks_which_one_over_queries_alone_misses():
    banks = [_draw_bank(make_generator(0, "bank", index)) for index in range(300)]
    lds = torch.stack([rank_correlation(*bank) for bank in banks])  # (bank, query)

    errors = [_interval(*bank, resamples=200).standard_error for bank in banks[:10]]

    spread = lds.mean(dim=1).std().item()
    over_queries = (lds.std(dim=1) / lds.shape[1] ** 0.5).mean().item()
    # The spread over 300 banks is known to 1 / sqrt(600) = 4%, the mean of ten bootstraps to some 5%. A two-way
    # bootstrap counts the variance of single pairs up to three times (Owen, 2007), a small part of it here.
    assert 0.8 < np.mean(errors) / spread < 1.4
    assert over_queries < 0.6 * spread


def test_interval_holds_the_mean_and_widens_with_the_confidence():
    bank = _draw_bank(make_generator(0, "bank"))

    narrow, wide = (_interval(*bank, confidence=confidence) for confidence in (0.5, 0.95))

    assert narrow.mean == wide.mean == rank_correlation(*bank).mean().item()
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_equal_generators_give_paired_resamples():
    predicted, measured = _draw_bank(make_generator(0, "bank"))
    noise = torch.randn(predicted.shape, generator=make_generator(0, "noise"), dtype=torch.float64)

    means, same_ranks, similar = (
        _means(values, measured, seed=0) for values in (predicted, predicted.exp(), predicted + 0.1 * noise)
    )
    unpaired = _means(predicted + 0.1 * noise, measured, seed=1)

    assert torch.equal(means, same_ranks)
    # Two methods that are nearly the same differ by much less than their resamples do.
    assert (means - similar).std() < 0.5 * (means - unpaired).std()


def test_queries_with_constant_scores_are_left_out_of_mean_and_resamples():
    predicted, measured = _draw_bank(make_generator(0, "bank"))
    with_constant = torch.cat([predicted, torch.zeros(len(predicted), 1, dtype=torch.float64)], dim=1)

    interval = _interval(with_constant, torch.cat([measured, measured[:, :1]], dim=1))

    assert interval.mean == pytest.approx(rank_correlation(predicted, measured).mean().item(), abs=1e-12)
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.standard_error)


def test_interval_is_nan_where_every_query_is_constant():
    measured = torch.randn(6, 2, generator=make_generator(0, "measured"), dtype=torch.float64)

    interval = _interval(torch.ones_like(measured), measured)

    assert all(math.isnan(value) for value in (interval.mean, interval.low, interval.high, interval.standard_error))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_over_repeats_is_that_of_student(confidence):
    means = [0.31, 0.35, 0.28, 0.40, 0.33]

    interval = over_repeats(means, confidence)

    error = stats.sem(means)
    low, high = stats.t.interval(confidence, len(means) - 1, loc=np.mean(means), scale=error)
    expected = [np.mean(means), low, high, error]
    assert [interval.mean, interval.low, interval.high, interval.standard_error] == pytest.approx(expected, abs=1e-12)


def test_interval_of_a_single_repeat_is_nan():
    interval = over_repeats([0.3], 0.95)

    assert interval.mean == pytest.approx(0.3)
    assert all(math.isnan(value) for value in (interval.low, interval.high, interval.standard_error))


def _draw_bank(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw what is predicted and measured for 30 subsets and 25 queries that share much of their luck.

    A subset is good or bad for all queries alike, and its retrained model is lucky or unlucky for all alike: the
    correlation of the two shared parts over the 30 subsets moves every query's LDS together.
    """
    good, lucky = torch.randn(2, 30, 1, generator=generator, dtype=torch.float64)
    own, noise = torch.randn(2, 30, 25, generator=generator, dtype=torch.float64)
    predicted = good + 0.5 * own
    return predicted, predicted + lucky + noise


def _interval(predicted: Tensor, measured: Tensor, *, resamples: int = 200, confidence: float = 0.95):
    return bootstrap_interval(
        predicted,
        measured,
        resamples=resamples,
        confidence=confidence,
        generator=make_generator(0, "bootstrap"),
    )


def _means(predicted: Tensor, measured: Tensor, *, seed: int) -> Tensor:
    return bootstrap_means(predicted, measured, resamples=200, generator=make_generator(seed, "bootstrap"))
