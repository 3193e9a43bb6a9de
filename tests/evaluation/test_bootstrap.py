import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from tdabench.evaluation.bootstrap import Resamples, draw_resamples, resampled_means
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
    sides = torch.from_numpy(pair).double()[..., None]
    once = Resamples(
        subsets=torch.from_numpy(counts).float()[None].expand(2, -1), queries=torch.ones(2, 1, dtype=torch.uint8)
    )

    means = resampled_means(sides, [(0, 1), (1, 0)], once)

    repeated = np.repeat(pair, counts, axis=1)
    if any(len(set(values)) <= 1 for values in repeated.tolist()):
        assert means.both.isnan().all()
    else:
        expected = stats.spearmanr(*repeated).statistic
        assert means.both.flatten().tolist() == pytest.approx([expected] * 4, abs=1e-6)
        assert torch.equal(means.both, means.subsets)


def test_every_resample_of_many_pairs_equals_repeated_rows_and_columns():
    # More queries and resamples than a block has, three pairs with two first sides, ties, and a constant query.
    generator = make_generator(0, "bootstrap")
    sides = torch.randn(4, 8, 70, generator=generator, dtype=torch.float64)
    sides[1] = sides[1].round()
    sides[0, :, 3] = sides[0, :, 3].round()
    sides[2, :, 5] = 0
    pairs = [(0, 1), (0, 2), (3, 1)]
    resamples = draw_resamples(8, 70, resamples=1010, generator=generator)

    means = resampled_means(sides, pairs, resamples)

    for row in (0, 500, 1009):
        chosen = torch.arange(8).repeat_interleave(resamples.subsets[row].long())
        queries = torch.arange(70).repeat_interleave(resamples.queries[row].long())
        for column, (first, second) in enumerate(pairs):
            correlation = rank_correlation(sides[first][chosen], sides[second][chosen])
            assert means.subsets[row, column].item() == pytest.approx(correlation.nanmean().item(), abs=1e-6)
            assert means.both[row, column].item() == pytest.approx(correlation[queries].nanmean().item(), abs=1e-6)


def test_resamples_hold_as_many_as_there_are_and_follow_the_multinomial_law():
    resamples = draw_resamples(20, 7, resamples=4000, generator=make_generator(0, "draw"))

    assert (resamples.subsets.sum(dim=1) == 20).all()
    assert (resamples.queries.sum(dim=1) == 7).all()
    for counts, size in ((resamples.subsets, 20), (resamples.queries.float(), 7)):
        assert counts.mean().item() == pytest.approx(1, abs=1e-6)
        assert counts.var(dim=0).mean().item() == pytest.approx(1 - 1 / size, rel=0.05)


def test_the_number_of_threads_is_given_back_also_after_an_error():
    before = torch.get_num_threads()
    resamples = draw_resamples(5, 2, resamples=3, generator=make_generator(0))

    with pytest.raises(IndexError):
        resampled_means(torch.zeros(1, 5, 2), [(0, 1)], resamples)

    assert torch.get_num_threads() == before


def test_a_resample_of_one_subset_has_no_correlation():
    single = Resamples(subsets=torch.tensor([[4.0, 0, 0, 0]]), queries=torch.ones(1, 2, dtype=torch.uint8))

    means = resampled_means(torch.randn(2, 4, 2, generator=make_generator(0)), [(0, 1)], single)

    assert math.isnan(means.both.item())
    assert math.isnan(means.subsets.item())
