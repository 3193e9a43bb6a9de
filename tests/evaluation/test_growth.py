import dataclasses
import itertools

import numpy as np
import pytest
import torch
from simulated_traces import draw_bank, draw_traces

from tdabench.attributors.estimates.estimators import loss_covariance
from tdabench.evaluation.bootstrap import draw_resamples, resampled_means
from tdabench.evaluation.intervals import resample_lds
from tdabench.evaluation.lds import GroundTruth, linear_datamodeling_score, predicted_and_measured
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.lds.extrapolation import extrapolate
from tdabench.questions.lds.growth import choose_draws, estimates_at_once, measure_growth
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=100)


@pytest.mark.parametrize("draws", [100, 401, 2000])
def test_points_of_the_curve_go_from_few_draws_to_all_in_equal_ratios(draws):
    found = choose_draws(draws)

    assert (found[0], found[-1], len(found)) == (4, draws, 10)
    ratios = [second / first for first, second in itertools.pairwise(found[3:])]
    assert max(ratios) / min(ratios) < 1.2


@pytest.mark.parametrize(("draws", "expected"), [(2, [2]), (4, [4]), (5, [4, 5]), (8, [4, 5, 6, 7, 8])])
def test_few_draws_have_no_point_twice(draws, expected):
    assert choose_draws(draws) == expected


def test_a_point_is_the_lds_of_the_first_draws_of_every_chain():
    bank = draw_bank(make_generator(0, "bank"))
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=3, draws=40, memory=0.5)

    points = measure_growth(query, train, loss_covariance, bank.truth, SETTINGS, generator=make_generator(0, "b"))

    assert [point["draws"] for point in points] == choose_draws(40)
    for point in points:
        chains = [
            np.cov(one[: point["draws"]].T.numpy(), other[: point["draws"]].T.numpy())[
                : query.shape[2], query.shape[2] :
            ]
            for one, other in zip(query, train, strict=True)
        ]
        scores = torch.from_numpy(np.mean(chains, axis=0))
        expected = linear_datamodeling_score(scores, bank.truth.masks, bank.truth.losses).mean().item()
        assert point["mean"] == pytest.approx(expected, abs=1e-9)
        assert point["low"] < expected < point["high"]


def test_every_point_has_the_interval_of_the_table_on_the_same_resamples():
    bank = draw_bank(make_generator(0, "bank"))
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=2, draws=12, memory=0.0)

    points = measure_growth(query, train, loss_covariance, bank.truth, SETTINGS, generator=make_generator(0, "b"))

    for point in (points[0], points[-1]):
        scores = loss_covariance(query[:, : point["draws"]], train[:, : point["draws"]])
        predicted, measured = predicted_and_measured(scores, bank.truth.masks, bank.truth.losses)
        drawn = draw_resamples(*measured.shape, resamples=100, generator=make_generator(0, "b"))
        expected = resample_lds(predicted[None], measured, drawn).spread(0).interval(0.95)
        assert point["low"] == pytest.approx(expected.low, abs=1e-6)
        assert point["high"] == pytest.approx(expected.high, abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 7])
@pytest.mark.parametrize("chains", [1, 3])
def test_growth_and_limit_within_little_memory_are_those_without_a_limit(chains, at_once):
    bank = draw_bank(make_generator(0, "bank"))
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=chains, draws=16, memory=0.0)
    query[..., 2] = 1.0
    made = []

    def estimate(some, others):
        made.append(some.shape[2])
        return loss_covariance(some, others)

    limited = dataclasses.replace(SETTINGS, memory_gib=_limit(query, train, bank.truth, at_once))
    found = [
        function(query, train, estimate, bank.truth, limited, generator=make_generator(0, "b"))
        for function in (measure_growth, extrapolate)
    ]

    assert max(made) == at_once
    expected = [
        function(query, train, loss_covariance, bank.truth, SETTINGS, generator=make_generator(0, "b"))
        for function in (measure_growth, extrapolate)
    ]
    for one, other in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        assert _numbers(one) == pytest.approx(_numbers(other), rel=1e-9, nan_ok=True)


def _limit(query: torch.Tensor, train: torch.Tensor, truth: GroundTruth, at_once: int) -> float:
    """Find the least limit in GiB, to 2 KiB, within which scores of so many queries are made at once."""
    low, high = 0.0, 1.0
    for _ in range(19):
        middle = (low + high) / 2
        try:
            enough = estimates_at_once(query, train, truth, dataclasses.replace(SETTINGS, memory_gib=middle)) >= at_once
        except ValueError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


def _numbers(result: object) -> list[float]:
    flat = dict(result) if isinstance(result, dict) else dataclasses.asdict(result)
    flat |= flat.pop("interval", {})
    return [value for value in flat.values() if not isinstance(value, str)]


def test_factors_of_queries_multiply_their_correlations_in_every_resample():
    generator = make_generator(0, "sides")
    sides = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    drawn = draw_resamples(12, 5, resamples=20, generator=generator)
    factors = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)

    found = resampled_means(sides, [(0, 1)], drawn, factors=factors)

    singles = [resampled_means(sides[..., [place]], [(0, 1)], drawn_of(drawn, place)) for place in range(5)]
    correlations = torch.stack([single.subsets[:, 0] for single in singles], dim=1)
    counts = drawn.queries.double()
    both = (counts * factors * correlations).sum(dim=1) / counts.sum(dim=1)
    torch.testing.assert_close(found.both[:, 0], both, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.subsets[:, 0], (factors * correlations).mean(dim=1), atol=1e-5, rtol=0)


def drawn_of(drawn, place):
    return type(drawn)(subsets=drawn.subsets, queries=drawn.queries[:, [place]])
