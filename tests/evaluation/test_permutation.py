import itertools
import math

import pytest
import torch

from tdabench.evaluation.lds import rank_correlation
from tdabench.evaluation.permutation import draw_permutations, permutation_null
from tdabench.seeds import make_generator


def test_the_null_is_the_mean_lds_of_permuted_predictions_alike_for_every_query():
    predicted, measured = _draw(5, 7)
    everything = torch.tensor(list(itertools.permutations(range(5))))

    band = permutation_null(predicted, measured, everything, confidence=0.9)

    means = torch.stack([rank_correlation(predicted[order], measured).mean() for order in everything])
    observed = rank_correlation(predicted, measured).mean()
    low, high = means.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    assert (band.low, band.high) == pytest.approx((low, high), abs=1e-12)
    assert band.p_value == pytest.approx((1 + int((means >= observed - 1e-12).sum())) / 121)


def test_what_queries_share_widens_the_band():
    shared = [values.expand(40, 50) for values in _draw(40, 1)]
    permutations = draw_permutations(40, count=500, generator=make_generator(0))

    wide, narrow = (permutation_null(*sides, permutations, confidence=0.95) for sides in (shared, _draw(40, 50)))

    # A correlation of 40 independent values has a standard deviation of 1 / sqrt(39), a mean of 50 of them a 50th.
    assert wide.high == pytest.approx(1.96 / 39**0.5, rel=0.2)
    assert narrow.high == pytest.approx(1.96 / (39 * 50) ** 0.5, rel=0.2)


def test_constant_queries_are_left_out_and_without_others_there_is_no_band():
    predicted, measured = _draw(20, 3)
    with_constant = torch.cat([predicted, torch.zeros(20, 1, dtype=torch.float64)], dim=1)
    permutations = draw_permutations(20, count=100, generator=make_generator(0))

    band = permutation_null(with_constant, torch.cat([measured, measured[:, :1]], dim=1), permutations, confidence=0.95)
    nothing = permutation_null(torch.zeros(20, 3).double(), measured, permutations, confidence=0.95)

    assert band == permutation_null(predicted, measured, permutations, confidence=0.95)
    assert all(math.isnan(value) for value in (nothing.low, nothing.high, nothing.p_value))


def _draw(subsets: int, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.randn(2, subsets, queries, generator=make_generator(0, "null"), dtype=torch.float64)
    return first, second
