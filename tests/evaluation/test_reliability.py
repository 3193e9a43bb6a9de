import math

import pytest
import torch
from torch import Tensor

from tdabench.evaluation.bootstrap import Resamples, draw_resamples
from tdabench.evaluation.intervals import make_spread
from tdabench.evaluation.lds import rank_correlation
from tdabench.evaluation.reliability import (
    lds_ceiling,
    measure_reliability,
    query_independent_oracle,
    retrain_agreement,
)
from tdabench.seeds import make_generator

SUBSETS, QUERIES = 100, 200


@pytest.mark.parametrize(("signal", "noise"), [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)])
def test_agreement_is_the_share_of_the_signal_in_the_variance(signal, noise):
    _, losses = _draw_losses(signal, noise, retrains=3)

    agreement = retrain_agreement(losses)

    correlation = signal**2 / (signal**2 + noise**2)
    # Spearman's correlation of Gaussians; a query's has a standard error below 1 / sqrt(99), and the three pairs
    # of a query, which share their signal, count as one.
    assert agreement == pytest.approx(_spearman(correlation), abs=4 / (99 * QUERIES) ** 0.5)


@pytest.mark.parametrize("retrains", [2, 4])
@pytest.mark.parametrize(("signal", "noise"), [(1.0, 1.0), (1.0, 0.5)])
def test_ceiling_is_the_lds_that_the_expected_loss_itself_reaches(signal, noise, retrains):
    expected, losses = _draw_losses(signal, noise, retrains=retrains)

    ceiling = lds_ceiling(retrain_agreement(losses), retrains)

    reached = rank_correlation(expected, losses.mean(dim=1)).mean().item()
    # Spearman-Brown holds for Pearson's correlation r, and Spearman's 6/pi asin(r/2) is within 0.019 of it, so that
    # ceiling and reached LDS differ by at most 0.019 each; the rest is the standard error of both.
    assert ceiling == pytest.approx(reached, abs=2 * 0.019 + 4 / (99 * QUERIES) ** 0.5)
    assert ceiling > retrain_agreement(losses)


def test_the_ceiling_follows_the_formula_of_spearman_and_brown_and_there_is_none_without_agreement():
    ceilings = [lds_ceiling(0.48, retrains) for retrains in (1, 2, 4)]

    assert ceilings == pytest.approx([0.48**0.5, (0.96 / 1.48) ** 0.5, (1.92 / 2.44) ** 0.5], abs=1e-12)
    assert all(math.isnan(lds_ceiling(agreement, 2)) for agreement in (math.nan, 0.0, -0.1))


def test_agreement_leaves_out_subsets_with_a_diverged_model():
    _, losses = _draw_losses(1.0, 1.0, retrains=2)
    broken = losses.clone()
    broken[3, 1] = torch.nan
    broken[7, 0, 0] = torch.inf

    agreement = retrain_agreement(broken)

    kept = [subset for subset in range(SUBSETS) if subset not in (3, 7)]
    assert agreement == pytest.approx(retrain_agreement(losses[kept]), abs=1e-12)


def _draw_losses(signal: float, noise: float, retrains: int) -> tuple[Tensor, Tensor]:
    """Draw expected losses (subset, query) and those of retrained models (subset, retrain, query)."""
    generator = make_generator(0, "reliability")
    expected = signal * torch.randn(SUBSETS, QUERIES, generator=generator)
    luck = noise * torch.randn(SUBSETS, retrains, QUERIES, generator=generator)
    return expected, expected[:, None] + luck


def _spearman(correlation: float) -> float:
    return 6 / math.pi * math.asin(correlation / 2)


def test_the_interval_of_the_agreement_is_around_it_and_that_of_the_ceiling_follows():
    _, losses = _draw_losses(1.0, 1.0, retrains=3)
    described = _measure(losses).describe(0.95)

    assert described["agreement"] == pytest.approx(retrain_agreement(losses), abs=1e-9)
    assert described["agreement_low"] < described["agreement"] < described["agreement_high"]
    for end in ("", "_low", "_high"):
        assert described[f"ceiling{end}"] == pytest.approx(lds_ceiling(described[f"agreement{end}"], 3))


def test_an_agreement_that_may_be_zero_gives_a_ceiling_that_may_be_zero_and_an_unbounded_share():
    generator = make_generator(0, "nothing")
    losses = torch.randn(20, 2, 5, generator=generator)
    reliability = _measure(losses)

    described = reliability.describe(0.95)
    lds = make_spread(
        torch.full((5,), 0.3).double(), *(0.01 * torch.randn(2, 300, generator=generator).double()), num_subsets=20
    )
    share = reliability.share(lds, 0.95)

    assert described["agreement_low"] < 0
    assert described["ceiling_low"] == 0
    assert share["share_high"] == math.inf


def test_reliability_leaves_out_subsets_with_a_diverged_model_of_the_resamples_too():
    _, losses = _draw_losses(1.0, 1.0, retrains=2)
    broken = losses.clone()
    broken[3, 1] = torch.nan
    resamples = draw_resamples(SUBSETS, QUERIES, resamples=50, generator=make_generator(0))
    kept = [subset for subset in range(SUBSETS) if subset != 3]

    found = measure_reliability(broken, resamples).describe(0.95)

    fewer = Resamples(subsets=resamples.subsets[:, kept], queries=resamples.queries)
    assert found == measure_reliability(losses[kept], fewer).describe(0.95)


def test_a_single_retrain_has_no_reliability():
    _, losses = _draw_losses(1.0, 1.0, retrains=1)
    reliability = _measure(losses)

    assert math.isnan(retrain_agreement(losses))
    assert reliability.agreement is None
    assert reliability.per_query.isnan().all()
    assert set(reliability.describe(0.95).values()) == {None}


def _measure(losses: Tensor):
    resamples = draw_resamples(*losses.shape[::2], resamples=300, generator=make_generator(0, "resamples"))
    return measure_reliability(losses, resamples)


def test_the_query_independent_oracle_reaches_the_share_that_queries_have_in_common():
    generator = make_generator(0, "oracle")
    common, own = torch.randn(SUBSETS, 1, generator=generator), torch.randn(SUBSETS, QUERIES, generator=generator)
    resamples = draw_resamples(SUBSETS, QUERIES, resamples=100, generator=generator)

    oracle = query_independent_oracle(0.6 * common + 0.8 * own, resamples)

    # Its prediction is the common part itself, up to 1 / QUERIES of the rest: a Gaussian correlation of 0.6.
    assert oracle.mean == pytest.approx(_spearman(0.6), abs=4 * oracle.interval(0.95).standard_error)
    assert query_independent_oracle(own, resamples).mean == pytest.approx(0, abs=4 / SUBSETS**0.5)
