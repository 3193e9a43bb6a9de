import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tdabench.evaluation.bootstrap import draw_resamples
from tdabench.evaluation.intervals import Interval, make_spread, over_repeats, resample_lds
from tdabench.evaluation.lds import rank_correlation
from tdabench.seeds import make_generator


@pytest.mark.parametrize(
    ("subset", "query", "single"),
    [(1.0, 0.3, 0.5), (0.0, 0.0, 4.0), (0.2, 1.0, 2.0)],
    ids=["subsets", "cells", "queries"],
)
def test_a_spread_counts_the_variance_of_single_cells_once(subset, query, single):
    # A mean over a table with effects of rows, columns and cells, whose variance is known; resampled like an LDS.
    generator = make_generator(0, "spread")
    rows, columns = 30, 40
    truth = (subset**2 / rows + query**2 / columns + single**2 / (rows * columns)) ** 0.5
    errors, raw = [], []
    for _ in range(60):
        table = subset * _normal(rows, 1, generator) + query * _normal(1, columns, generator)
        table = table + single * _normal(rows, columns, generator)
        drawn = draw_resamples(rows, columns, resamples=300, generator=generator)
        weights = drawn.subsets.double() / rows
        both = ((weights @ table) * drawn.queries).sum(dim=1) / columns
        spread = make_spread(table.mean(dim=0), both, (weights @ table).mean(dim=1), num_subsets=rows)
        errors.append(spread.standard_error**2)
        raw.append(both.var().item())

    # Variances: each is known to some 25%, their mean over 60 tables to 4%. With effects of cells alone a part would
    # often come out below zero; it is cut there, which makes the error larger by a tenth.
    assert -0.05 < np.mean(errors) ** 0.5 / truth - 1 < 0.13
    if single == 4.0:
        assert np.mean(raw) ** 0.5 > 1.6 * truth  # the root of 3


def test_the_deviations_of_a_spread_have_its_standard_error_and_no_mean():
    draws = torch.randn(500, 2, generator=make_generator(0, "draws"), dtype=torch.float64) + 3

    spread = make_spread(torch.arange(5.0).double(), draws[:, 0], draws[:, 1] / 10, num_subsets=20)

    assert spread.mean == 2
    assert spread.deviations.mean().item() == pytest.approx(0, abs=1e-12)
    assert spread.deviations.std().item() == pytest.approx(spread.standard_error, rel=1e-9)
    assert spread.freedom == 4


@pytest.mark.parametrize("deviation", [0.5, 0.2, 1e-3])
@pytest.mark.parametrize(("queries", "subsets"), [(40, 400), (400, 13)])
def test_interval_and_p_value_are_students_with_the_fewer_degrees_of_freedom_and_no_floor(deviation, queries, subsets):
    spread = make_spread(torch.ones(queries).double(), *_draws(deviation), num_subsets=subsets)

    student, interval = stats.t(min(queries, subsets) - 1), spread.interval(0.95)
    error = _draws(deviation)[0].std().item() * (subsets / (subsets - 1)) ** 0.5
    assert spread.standard_error == pytest.approx(error, rel=1e-9)
    assert spread.p_value == pytest.approx(2 * student.sf(1 / error), rel=1e-9)
    assert spread.p_value > 0
    # 20,000 draws know their own 2.5 % quantiles to 1 %.
    assert interval.high - 1 == pytest.approx(student.ppf(0.975) * error, rel=0.04)
    assert 1 - interval.low == pytest.approx(student.ppf(0.975) * error, rel=0.04)


def test_a_mean_without_a_spread_is_zero_or_not_and_one_without_a_number_has_no_p_value():
    flat = torch.zeros(50, dtype=torch.float64)
    parts = [torch.full((5,), value, dtype=torch.float64) for value in (0.0, 0.1, torch.nan)]

    found = [make_spread(per_query, flat, flat, num_subsets=20).p_value for per_query in parts]

    assert found[:2] == [1, 0]
    assert math.isnan(found[2])


def test_interval_holds_the_mean_and_widens_with_the_confidence():
    bank = _draw_bank(make_generator(0, "bank"))

    narrow, wide = (_interval(*bank, confidence=confidence) for confidence in (0.5, 0.95))

    assert narrow.mean == wide.mean == rank_correlation(*bank).mean().item()
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_a_difference_is_paired():
    predicted, measured = _draw_bank(make_generator(0, "bank"))
    noise = torch.randn(predicted.shape, generator=make_generator(0, "noise"), dtype=torch.float64)
    sides = torch.stack([predicted, predicted.exp(), predicted + 0.1 * noise])
    drawn = draw_resamples(*measured.shape, resamples=200, generator=make_generator(0, "bootstrap"))

    lds = resample_lds(sides, measured, drawn)

    assert lds.spread(0, 1).standard_error == 0  # the same ranks
    # Two methods that are nearly the same differ by much less than two that know nothing of each other.
    difference = lds.spread(0, 2)
    assert difference.standard_error < 0.5 * lds.spread(0).standard_error
    assert difference.mean == pytest.approx(lds.spread(0).mean - lds.spread(2).mean, abs=1e-12)


def test_queries_with_constant_scores_are_left_out_of_mean_and_resamples():
    predicted, measured = _draw_bank(make_generator(0, "bank"))
    with_constant = torch.cat([predicted, torch.zeros(len(predicted), 1, dtype=torch.float64)], dim=1)

    interval = _interval(with_constant, torch.cat([measured, measured[:, :1]], dim=1))

    assert interval.mean == pytest.approx(rank_correlation(predicted, measured).mean().item(), abs=1e-12)
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.standard_error)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_over_repeats_is_that_of_student(confidence):
    means = [0.31, 0.35, 0.28, 0.40, 0.33]

    interval = over_repeats(means, confidence)

    error = stats.sem(means)
    low, high = stats.t.interval(confidence, len(means) - 1, loc=np.mean(means), scale=error)
    expected = [np.mean(means), low, high, error]
    assert [interval.mean, interval.low, interval.high, interval.standard_error] == pytest.approx(expected, abs=1e-12)


def test_an_interval_over_repeats_stays_where_its_means_can_be():
    uncut = over_repeats([0.6, 0.9], 0.95)
    interval = over_repeats([0.6, 0.9], 0.95, least=-1.0, most=1.0)

    assert uncut.low < -1
    assert uncut.high > 1
    assert interval == Interval(mean=uncut.mean, low=-1.0, high=1.0, standard_error=uncut.standard_error)
    assert math.isnan(over_repeats([0.3], 0.95, least=-1.0, most=1.0).low)


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


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def _draws(deviation: float) -> tuple[Tensor, Tensor]:
    """Draw a bootstrap whose variance is all of the subsets'."""
    draws = deviation * torch.randn(20_000, generator=make_generator(0, "draws"), dtype=torch.float64)
    return draws, draws


def _interval(predicted: Tensor, measured: Tensor, *, resamples: int = 200, confidence: float = 0.95) -> Interval:
    drawn = draw_resamples(*measured.shape, resamples=resamples, generator=make_generator(0, "bootstrap"))
    return resample_lds(predicted[None], measured, drawn).spread(0).interval(confidence)
