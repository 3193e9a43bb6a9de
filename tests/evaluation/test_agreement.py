import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.agreement.compare import agree_by_query, compare_methods
from tdabench.seeds import make_generator

NAMES = ("first", "second", "third")


def _draw_scores(*, queries: int = 7, train: int = 40, levels: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Draw three methods' scores around a common part; with ``levels``, rounded so that many tie."""
    generator = make_generator(seed, "scores")
    common = torch.randn(queries, train, generator=generator)
    scores = {name: common + torch.randn(queries, train, generator=generator) for name in NAMES}
    return {name: (values * levels).round() / levels if levels else values for name, values in scores.items()}


def _compare(scores: dict[str, Tensor], num_scored: int = 7, **changes) -> list[dict]:
    settings = EvaluationSettings(**{"top": 5, "resamples": 200, **changes})
    return compare_methods(scores, settings, num_scored=num_scored, generator=make_generator(0, "bootstrap"))


@pytest.mark.parametrize("levels", [None, 2], ids=["no ties", "ties"])
def test_the_correlation_is_spearmans_over_train_examples(levels):
    scores = _draw_scores(levels=levels)

    found = agree_by_query(scores, top=5)["rank_correlation"]

    for index, pair in enumerate(itertools.combinations(NAMES, 2)):
        for query in range(7):
            expected = stats.spearmanr(*(scores[name][query] for name in pair)).statistic
            assert found[query, index].item() == pytest.approx(expected, abs=1e-12)


def test_the_overlap_is_the_share_that_both_tops_have():
    scores = _draw_scores()

    found = agree_by_query(scores, top=5)

    for sign, overlap in ((1, found["overlap"]), (-1, found["harmful_overlap"])):
        tops = {
            name: [set((sign * row).argsort(descending=True)[:5].tolist()) for row in values]
            for name, values in scores.items()
        }
        for index, (first, second) in enumerate(itertools.combinations(NAMES, 2)):
            expected = [len(a & b) / 5 for a, b in zip(tops[first], tops[second], strict=True)]
            assert overlap[:, index].tolist() == pytest.approx(expected)


def test_ties_at_the_last_place_share_it_as_if_broken_by_lot():
    first = torch.tensor([[4.0, 3.0, 3.0, 3.0, 1.0, 0.0]])
    second = torch.tensor([[5.0, 4.0, 4.0, 0.0, 0.0, 0.0]])
    lots = [
        len({0, *a} & {0, b}) / 2 for a in itertools.combinations((1, 2, 3), 1) for b in (1, 2)
    ]  # each method's place 2 by lot

    found = agree_by_query({"first": first, "second": second}, top=2)["overlap"]

    assert found.item() == pytest.approx(sum(lots) / len(lots))


def test_a_method_with_constant_scores_has_no_correlation_and_the_overlap_of_chance():
    scores = {**_draw_scores(), "second": torch.ones(7, 40)}

    rows = {(row["first"], row["second"]): row for row in _compare(scores)}

    for pair in (("first", "second"), ("second", "third")):
        assert math.isnan(rows[pair]["rank_correlation"])
        assert rows[pair]["nan_queries"] == 7
        assert rows[pair]["overlap"] == pytest.approx(5 / 40)
    assert rows["first", "third"]["nan_queries"] == 0


def test_a_nan_query_pulls_no_resample_towards_zero():
    scores = _draw_scores(queries=60)
    scores = {name: torch.cat([values[:30], values[:30]]) for name, values in scores.items()}
    half = {name: values.clone() for name, values in scores.items()}
    half["first"][30:] = 0

    row, expected = (_compare(part, num_scored=60, resamples=2000)[0] for part in (half, scores))

    assert row["nan_queries"] == 30
    assert row["rank_correlation"] == pytest.approx(expected["rank_correlation"])
    centre = (row["rank_low"] + row["rank_high"]) / 2
    assert centre == pytest.approx(expected["rank_correlation"], abs=0.02)


def test_helpful_and_harmful_examples_are_told_apart():
    first, second = torch.arange(20.0)[None], torch.arange(20.0)[None].clone()
    second[0, :10] = second[0, :10].flip(0)  # agrees on the helpful half, not on the harmful one

    row = _compare({"first": first, "second": second}, num_scored=1)[0]

    assert row["overlap"] == 1
    assert row["harmful_overlap"] == 0


def test_tuning_queries_do_not_count():
    scores = _draw_scores(queries=12)
    changed = {name: torch.cat([values[:7], -values[7:].flip(1)]) for name, values in scores.items()}

    assert _compare(scores) == _compare(changed)
    assert _compare(scores)[0]["queries"] == 7


def test_the_interval_is_that_of_scipys_bootstrap_over_queries():
    scores = _draw_scores(queries=60)
    by_query = agree_by_query(scores, top=5)

    row = _compare(scores, num_scored=60, resamples=4000)[0]

    for values, low, high in (
        (by_query["rank_correlation"], "rank_low", "rank_high"),
        (by_query["overlap"], "overlap_low", "overlap_high"),
        (by_query["harmful_overlap"], "harmful_low", "harmful_high"),
    ):
        sample = values[:, 0].numpy()
        expected = stats.bootstrap((sample,), _mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
        tolerance = 0.1 * sample.std() / 60**0.5 + 1 / 300  # an overlap moves in steps of 1 / (top * queries)
        assert (row[low], row[high]) == pytest.approx(tuple(expected), abs=tolerance)


def _mean(values, axis):
    return values.mean(axis=axis)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "top", "message"),
    [
        ({}, 0, r"below the number of training examples \(40\), got 0\."),
        ({}, 40, r"below the number of training examples \(40\), got 40\."),
        ({"second": None, "third": None}, 5, r"at least 2 methods, got 1: \['first'\]"),
        ({"second": torch.ones(7, 39)}, 5, r"one shape .*\(7, 40\).*\(7, 39\)"),
        ({"second": torch.full((7, 40), torch.nan)}, 5, "finite scores; not so: second"),
    ],
)
def test_scores_that_cannot_be_compared_are_an_error(change, top, message):
    scores = {name: values for name, values in {**_draw_scores(), **change}.items() if values is not None}

    with pytest.raises(ValueError, match=message):
        agree_by_query(scores, top=top)
