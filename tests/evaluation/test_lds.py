import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from torch import Tensor

from tdabench.evaluation.lds import average_ranks, average_retrains, linear_datamodeling_score
from tdabench.seeds import make_generator

# Few different whole numbers, so that sums are exact and there are ties.
CASES = st.tuples(st.integers(3, 8), st.integers(1, 3), st.integers(1, 6)).flatmap(
    lambda sizes: st.tuples(
        arrays.arrays(np.int64, (sizes[1], sizes[2]), elements=st.integers(-3, 3)),
        arrays.arrays(bool, (sizes[0], sizes[2])),
        arrays.arrays(np.int64, (sizes[0], sizes[1]), elements=st.integers(-3, 3)),
    )
)


@settings(max_examples=50)
@given(case=CASES, data=st.data())
def test_lds_is_scipys_and_knows_no_order_of_examples_subsets_or_queries(case, data):
    scores, masks, losses = case
    query, train, subset = (data.draw(st.permutations(range(size))) for size in (*scores.shape, len(masks)))

    lds = _lds(scores, masks, losses)

    summed = masks.astype(int) @ scores.T
    pairs = [(summed[:, index], -losses[:, index]) for index in range(len(scores))]
    constant = [min(len(set(side.tolist())) for side in pair) == 1 for pair in pairs]
    expected = [np.nan if one else stats.spearmanr(*pair).statistic for one, pair in zip(constant, pairs, strict=True)]
    np.testing.assert_allclose(lds, expected, rtol=0, atol=1e-12)
    turned = _lds(scores[query][:, train], masks[subset][:, train], losses[subset][:, query])
    np.testing.assert_allclose(turned, lds[query], rtol=0, atol=1e-12)


@settings(max_examples=50)
@given(case=CASES, shift=st.integers(-5, 5), stretch=st.integers(1, 9))
def test_lds_knows_ranks_alone_and_changes_its_sign_with_the_scores(case, shift, stretch):
    scores, masks, losses = case

    lds = _lds(scores, masks, losses)

    np.testing.assert_allclose(_lds(-scores, masks, losses), -lds, rtol=0, atol=1e-12)
    np.testing.assert_allclose(_lds(scores, masks, -losses), -lds, rtol=0, atol=1e-12)
    np.testing.assert_allclose(_lds(scores, masks, np.exp(losses)), lds, rtol=0, atol=1e-12)
    # Of the sums too: one example that every subset has shifts them, and a factor stretches them.
    everywhere = np.concatenate([masks, np.ones((len(masks), 1), dtype=bool)], axis=1)
    moved = np.concatenate([scores * stretch, np.full((len(scores), 1), shift)], axis=1)
    np.testing.assert_allclose(_lds(moved, everywhere, losses), lds, rtol=0, atol=1e-12)


def _lds(scores: np.ndarray, masks: np.ndarray, losses: np.ndarray) -> np.ndarray:
    numbers = [torch.from_numpy(np.ascontiguousarray(values)) for values in (scores, masks, losses)]
    return linear_datamodeling_score(numbers[0].double(), numbers[1], numbers[2].double()).numpy()


@settings(max_examples=50)
@given(values=arrays.arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)))
def test_average_ranks_equal_scipy(values):
    ranks = average_ranks(torch.from_numpy(values).double()[:, None])[:, 0]

    assert ranks.tolist() == stats.rankdata(values).tolist()


def test_lds_is_nan_for_a_query_with_equal_sums_also_where_rounding_tells_them_apart():
    # Every example stands twice, at far places, and each subset holds one of the two: all sums are equal.
    generator = make_generator(0, "equal")
    values, order = torch.rand(100, generator=generator, dtype=torch.float64), torch.randperm(100, generator=generator)
    first = torch.rand(20, 100, generator=generator) < 0.5
    scores, masks = torch.cat([values, values[order]])[None], torch.cat([first, ~first[:, order]], dim=1)
    losses = torch.rand(20, 1, generator=generator)

    lds = linear_datamodeling_score(scores, masks, losses)

    assert (masks.double() @ scores.T).unique().numel() > 1
    assert lds.isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores, masks, losses: (scores[1:], masks, losses), "disagree: (2, 30), (20, 30), (20, 3)"),
        (lambda scores, masks, losses: (scores[:, 1:], masks, losses), "disagree: (3, 29), (20, 30), (20, 3)"),
        (lambda scores, masks, losses: (scores, masks[1:], losses), "disagree: (3, 30), (19, 30), (20, 3)"),
        (lambda scores, masks, losses: (scores, masks[:2], losses[:2]), "needs at least 3 subsets, got 2"),
        (
            lambda scores, masks, losses: (scores, masks, losses.log()),
            "needs finite losses; a retrained model diverged",
        ),
        (lambda scores, masks, losses: (scores.sqrt(), masks, losses), "The LDS needs finite scores"),
    ],
)
def test_a_wrong_input_is_an_error(unchecked_types, change, message):
    case = change(*_draw_case(num_query=3))

    with pytest.raises(ValueError, match=re.escape(message)):
        linear_datamodeling_score(*case)


def test_retrains_of_a_subset_are_averaged():
    masks, losses = _draw_bank(subsets=4)

    truth = average_retrains(masks, losses)

    torch.testing.assert_close(truth.losses, losses.double().mean(dim=1), rtol=0, atol=1e-12)
    assert torch.equal(truth.masks, masks)
    assert (truth.diverged, truth.dropped) == (0, 0)


def test_diverged_retrains_are_left_out_of_the_mean_and_subsets_without_any_are_dropped():
    masks, losses = _draw_bank(subsets=5)
    losses[1, 0] = torch.nan
    losses[2, 1, 0] = torch.inf  # one query suffices
    losses[3] = torch.nan

    truth = average_retrains(masks, losses)

    expected = losses.double().mean(dim=1)
    expected[1], expected[2] = losses[1, 1].double(), losses[2, 0].double()
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(truth.losses, expected[kept], rtol=0, atol=1e-12)
    assert torch.equal(truth.masks, masks[kept])
    assert (truth.diverged, truth.dropped) == (4, 1)


def test_too_few_converged_subsets_are_an_error_that_counts_them():
    masks, losses = _draw_bank(subsets=4)
    losses[:2] = torch.nan

    with pytest.raises(
        ValueError, match="4 of 8 retrained models diverged, which leaves 2 subsets and the LDS needs 3"
    ):
        average_retrains(masks, losses)


def _draw_case(num_query: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw whole-numbered scores and losses from few values, so that there are ties on both sides."""
    generator = make_generator(0, "lds")
    scores = torch.randint(-2, 3, (num_query, 30), generator=generator).float()
    masks = torch.rand(20, 30, generator=generator) < 0.5
    losses = torch.randint(0, 8, (20, num_query), generator=generator).float() / 4
    return scores, masks, losses


def _draw_bank(subsets: int) -> tuple[Tensor, Tensor]:
    generator = make_generator(0, "bank")
    return torch.rand(subsets, 6, generator=generator) < 0.5, torch.rand(subsets, 2, 3, generator=generator)
