"""Where the LDS ends, on simulated traces of which the end is known.

``pytest tests/evaluation/test_extrapolation.py -m nightly -s`` shows coverage and errors.
"""

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from simulated_traces import QUERIES, TRAIN, Bank, draw_bank, draw_traces, normal

from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.lds.extrapolation import extrapolate, jackknife_error, reliability_of
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=200)


def _extrapolate(query, train, bank: Bank, estimate=loss_covariance):
    generator = make_generator(0, "bootstrap")
    return extrapolate(query, train, estimate, bank.truth, SETTINGS, generator=generator)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return draw_bank(make_generator(0, "bank"))


# Reliability


def _parts(count: int, noise: float, mean: float = 0.0) -> torch.Tensor:
    generator = make_generator(0, "parts")
    signal = normal(QUERIES, 2000, generator=generator) + mean
    return signal + noise * normal(count, QUERIES, 2000, generator=generator)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_reliability_is_the_share_of_variance_that_parts_have_in_common(count, noise):
    found = reliability_of(_parts(count, noise), equal_sizes=True)

    expected = 1 / (1 + noise**2 / count)
    assert found.mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("equal_sizes", [True, False])
def test_reliability_is_the_correlation_of_subsets_sums_without_their_sampling(equal_sizes):
    generator = make_generator(0, "masks")
    parts = _parts(2, 1.0, mean=0.7)[:, :3, :60]
    order = torch.rand(50_000, 60, generator=generator)
    masks = (order.argsort(dim=1) < 30 if equal_sizes else order < 0.5).double()

    found = reliability_of(parts, equal_sizes=equal_sizes)

    for place in range(3):
        sums = parts[:, place] @ masks.T
        covariance = torch.cov(sums)
        single = covariance[0, 1] / covariance.diagonal().mean()
        assert found[place].item() == pytest.approx((2 * single / (1 + single)).item(), abs=0.015)


def test_equal_parts_are_wholly_reliable_opposite_ones_less_than_not_at_all_and_constant_ones_unknown():
    part = _parts(1, 1.0)

    assert reliability_of(torch.cat([part, part]), equal_sizes=True).tolist() == pytest.approx([1.0] * QUERIES)
    assert (reliability_of(torch.cat([part, -0.5 * part]), equal_sizes=True) < 0).all()
    assert reliability_of(torch.ones(2, 3, 4), equal_sizes=True).isnan().all()


def test_the_jackknife_gives_the_standard_error_of_a_mean():
    values = normal(10, generator=make_generator(0, "values"))
    left = [(values.sum() - value).item() / 9 for value in values]

    assert jackknife_error(left) == pytest.approx((values.std() / math.sqrt(10)).item())


# The limit


@pytest.mark.parametrize("estimate", [loss_covariance, loss_correlation])
def test_very_many_draws_are_at_their_limit_and_know_it(bank, estimate):
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=2, draws=3000, memory=0.0)

    limit = _extrapolate(query, train, bank, estimate)

    lds = linear_datamodeling_score(estimate(query, train), bank.truth.masks, bank.truth.losses).mean().item()
    assert limit.reliability > 0.98
    assert limit.interval.mean == pytest.approx(lds, abs=0.01)
    assert limit.interval.mean == pytest.approx(bank.limit.item(), abs=0.02)
    assert limit.half_draws < 60
    assert limit.monte_carlo_error < 0.005


@pytest.mark.parametrize(("chains", "draws", "memory"), [(1, 100, 0.0), (2, 50, 0.0), (4, 40, 0.6)])
def test_the_limit_of_few_draws_lies_nearer_to_the_truth_than_their_lds(bank, chains, draws, memory):
    query, train = draw_traces(bank, make_generator(1, "traces"), chains=chains, draws=draws, memory=memory)

    limit = _extrapolate(query, train, bank)

    scores = loss_covariance(query, train)
    lds = linear_datamodeling_score(scores, bank.truth.masks, bank.truth.losses).mean().item()
    assert abs(limit.interval.mean - bank.limit.item()) < abs(lds - bank.limit.item())
    assert limit.interval.mean == pytest.approx(bank.limit.item(), abs=3 * limit.limit_error)
    assert limit.half_draws == pytest.approx(draws * (1 / limit.reliability - 1))
    assert limit.note == ""


def test_a_limit_follows_its_formula(bank):
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=2, draws=50, memory=0.0)

    limit = _extrapolate(query, train, bank)

    one, other = (loss_covariance(query[[chain]], train[[chain]]) for chain in range(2))
    lds = linear_datamodeling_score((one + other) / 2, bank.truth.masks, bank.truth.losses).numpy()
    products = [np.cov(first.numpy(), second.numpy()) for first, second in zip(one, other, strict=True)]
    single = np.array([product[0, 1] / (product[0, 0] + product[1, 1]) * 2 for product in products])
    reliability = np.clip(2 * single / (1 + single), 0, 1)
    expected = (lds * np.sqrt(reliability)).sum() / reliability.sum()
    assert limit.interval.mean == pytest.approx(expected, abs=1e-9)


# When nothing can be said


def test_few_draws_chains_of_noise_and_losses_that_never_move_have_no_limit_and_say_so(bank):
    generator = make_generator(0, "noise")
    noise = normal(2, 100, QUERIES, generator=generator), normal(2, 100, TRAIN, generator=generator)
    constant = torch.ones(2, 20, QUERIES), torch.ones(2, 20, TRAIN)

    few, noisy, still = (_extrapolate(*traces, bank) for traces in ([part[:, :7] for part in noise], noise, constant))

    assert few.note == "7 draws a chain are too few to extrapolate: 8 are needed."
    assert noisy.note.startswith("The chains' scores agree no more than noise does")
    assert still.note == "Every query has constant scores or losses."
    assert all(math.isnan(limit.interval.mean) and math.isnan(limit.half_draws) for limit in (few, noisy, still))
    assert noisy.monte_carlo_error > 0


def test_a_query_without_an_lds_is_left_out(bank):
    query, train = draw_traces(bank, make_generator(0, "traces"), chains=2, draws=50, memory=0.0)
    losses = bank.truth.losses[:, 1:]
    fewer = dataclasses.replace(bank, truth=dataclasses.replace(bank.truth, losses=losses))
    without = _extrapolate(query[..., 1:], train, fewer)

    query[..., 0] = 1.0
    limit = _extrapolate(query, train, bank)

    assert limit.interval.mean == pytest.approx(without.interval.mean)
    assert limit.interval.standard_error == pytest.approx(without.interval.standard_error, rel=0.1)
    assert limit.reliability == pytest.approx(without.reliability)


# How often, and by how much


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("chains", "draws", "memory"), [(2, 100, 0.7), (2, 30, 0.3), (1, 200, 0.6)])
def test_the_interval_holds_the_limit_as_often_as_it_says(chains, draws, memory):
    many = draw_bank(make_generator(0, "population"), queries=3000, subsets=500)
    hits, errors, banks = 0, [], 50
    for place in range(banks):
        generator = make_generator(0, "coverage", place)
        bank = draw_bank(generator)
        query, train = draw_traces(bank, generator, chains=chains, draws=draws, memory=memory)
        limit = _extrapolate(query, train, bank)
        hits += limit.interval.low <= many.limit.item() <= limit.interval.high
        errors.append(limit.interval.mean - bank.limit.item())

    sys.stderr.write(f"{chains} of {draws}, memory {memory}: {hits / banks:.3f}, error {np.std(errors):.4f}\n")
    # 95 % of 50 have a standard error of 3.1 %; the jackknife errs to the safe side.
    assert hits / banks >= 0.95 - 1.75 * 0.031


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize(("chains", "draws", "memory"), [(2, 100, 0.7), (1, 200, 0.5)])
def test_the_monte_carlo_error_is_what_other_traces_of_the_same_bank_differ_by(bank, chains, draws, memory):
    found = []
    for place in range(100):
        generator = make_generator(0, "spread", place)
        query, train = draw_traces(bank, generator, chains=chains, draws=draws, memory=memory)
        limit = _extrapolate(query, train, bank)
        lds = linear_datamodeling_score(loss_covariance(query, train), bank.truth.masks, bank.truth.losses)
        found.append((lds.mean().item(), limit.interval.mean, limit.monte_carlo_error, limit.limit_error))

    lds, limits, errors, limit_errors = np.array(found).T
    shares = [np.sqrt(np.mean(said**2)) / seen.std() for said, seen in ((errors, lds), (limit_errors, limits))]
    sys.stderr.write(
        f"{chains} chains of {draws}, memory {memory}: said / seen {shares[0]:.2f}, limit {shares[1]:.2f}\n"
    )
    # A standard deviation of 100 has an error of 7 %.
    assert all(0.85 < share < 1.5 for share in shares)
