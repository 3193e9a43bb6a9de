import math

import pytest
import torch

from tdabench.questions.diagnostics import coefficients
from tdabench.questions.diagnostics.coefficients import learning_coefficients, singular_fluctuations
from tdabench.seeds import make_generator


def test_both_coefficients_of_a_regular_model_are_half_its_number_of_parameters():
    # A posterior N(w*, 1 / n) of d parameters with losses |w - x_i|^2 / 2 at the data's mean w* and beta = 1:
    # n (E[l_i] - l_i(w*)) = d / 2 for every i, and n Var(l_i) / 2 = |x_i - w*|^2 / 2 + d / 4n, in the mean d / 2.
    num_train, parameters, draws = 2000, 3, 4000
    generator = make_generator(0, "regular")
    data = torch.randn(num_train, parameters, generator=generator, dtype=torch.float64)
    data = (data - data.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(data.T.cov())).T
    positions = torch.randn(2, draws // 2, parameters, generator=generator, dtype=torch.float64) / math.sqrt(num_train)
    losses = (positions[:, :, None] - data).square().sum(dim=3) / 2

    learning = learning_coefficients(losses, data.square().sum(dim=1) / 2, float(num_train))
    fluctuation = singular_fluctuations(losses, float(num_train))

    # Of n |w - w*|^2 / 2 the standard error is sqrt(d / 2 / draws), and relative to d / 2 that is sqrt(2 / d / draws);
    # that of a variance of draws the same.
    error = math.sqrt(2 / parameters / draws)
    assert learning.mean().item() == pytest.approx(parameters / 2, rel=4 * error)
    assert fluctuation.mean().item() == pytest.approx(parameters / 2, rel=4 * error)
    # Each example by itself: its fluctuation is its distance from the data's mean.
    expected = data.square().sum(dim=1) / 2
    assert torch.corrcoef(torch.stack([fluctuation, expected]))[0, 1] > 0.99


def test_an_example_that_the_draws_fit_better_than_the_checkpoint_has_a_negative_coefficient():
    losses = torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])

    found = learning_coefficients(losses, torch.tensor([2.0, 3.0]), 10.0)

    assert found.tolist() == [-5.0, 10.0]


def test_a_fluctuation_is_about_each_chains_own_mean():
    losses = torch.tensor([[[1.0], [3.0]], [[101.0], [105.0]]])

    # Variances 2 and 8, mean 5.
    assert singular_fluctuations(losses, 4.0).tolist() == [10.0]


def test_many_examples_are_done_in_parts_with_the_same_result(monkeypatch):
    losses = torch.randn(2, 9, 20, generator=make_generator(0, "losses"))
    checkpoint = losses[0, 0]
    whole = learning_coefficients(losses, checkpoint, 3.0), singular_fluctuations(losses, 3.0)
    monkeypatch.setattr(coefficients, "CHUNK", 7)

    parts = learning_coefficients(losses, checkpoint, 3.0), singular_fluctuations(losses, 3.0)

    assert all(torch.equal(first, second) for first, second in zip(whole, parts, strict=True))
