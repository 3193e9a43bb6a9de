import math

import pytest
import torch

from tdabench.questions.diagnostics import diagnose as diagnostics
from tdabench.questions.diagnostics.diagnose import diagnose_traces, summarise
from tdabench.seeds import make_generator


def _losses(chains: int = 2, draws: int = 400, examples: int = 40, name: str = "train") -> torch.Tensor:
    return 1 + 0.1 * torch.randn(chains, draws, examples, generator=make_generator(0, name))


def _both(**shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _losses(**shape), _losses(**{**shape, "examples": 10}, name="query")


def test_chains_that_have_settled_have_no_warning():
    result = diagnose_traces(*_both())

    assert (result["chains"], result["draws"], result["diverged_chains"], result["markov"]) == (2, 400, 0, True)
    assert result["warning"] == ""
    assert result["rhat"]["median"] == pytest.approx(1, abs=0.01)
    assert result["rhat"]["share_above"] == 0
    assert result["effective_draws"]["low"] <= result["effective_draws"]["median"]
    assert result["effective_draws"]["median"] == pytest.approx(800, rel=0.15)
    assert result["effective_draws"]["by_chain"] == pytest.approx([400, 400], rel=0.15)
    assert result["drift"]["of_mean_loss"] == max(map(abs, result["drift"]["by_chain"]))
    assert result["constant_losses"] == 0


def test_spread_and_fluctuation_are_those_of_the_losses_within_chains():
    train, query = _both(draws=7)
    train[1] += 5

    result = diagnose_traces(train, query, inverse_temperature=30.0)

    variances = train.double().numpy().var(axis=1, ddof=1).mean(axis=0)
    assert result["fluctuation"]["mean"] == pytest.approx(30 * variances.mean())
    assert result["fluctuation"]["high"] == pytest.approx(30 * variances.max())
    assert result["fluctuation"]["inverse_temperature"] == 30
    assert result["loss_standard_deviation"]["low"] == pytest.approx(math.sqrt(variances.min()))


def test_the_error_of_a_covariance_is_that_of_independent_normal_draws():
    train, query = _both(draws=2000)
    query += 0.5 * (train[..., :10] - 1)

    found = diagnose_traces(train, query)["covariance"]

    # sd_1 sd_2 sqrt((1 + r^2) / N), and r is 0 for most of the pairs.
    assert found["pairs"] == 400
    assert found["error"] == pytest.approx(0.1 * 0.1 * math.sqrt(1.25) / math.sqrt(4000), rel=0.05)
    assert found["size"] < found["error"]


def test_a_covariance_that_is_there_has_its_size_about_each_chains_own_mean():
    train, query = _both(draws=2000)
    common = 0.2 * torch.randn(2, 2000, 1, generator=make_generator(0, "common"))
    common[1] += 5

    found = diagnose_traces(train + common, query + common)["covariance"]

    assert found["size"] == pytest.approx(0.04, rel=4 * math.sqrt(2 / 4000))


@pytest.mark.parametrize("value", [1e7, -1e7, math.nan, math.inf])
@pytest.mark.parametrize("where", ["train", "query"])
def test_a_chain_that_diverged_is_counted_and_left_out(value, where):
    train, query = _both(chains=3)
    expected = diagnose_traces(train[:2], query[:2])
    {"train": train, "query": query}[where][2, 17, 3] = value

    result = diagnose_traces(train, query)

    assert result["warning"] == "1 of 3 chains diverged and are left out."
    assert (result["chains"], result["diverged_chains"]) == (3, 1)
    for name in ("rhat", "effective_draws", "drift", "covariance", "loss_standard_deviation"):
        assert result[name] == expected[name]


def test_chains_apart_are_warned_of():
    train, query = _both()
    train[1] += 1

    warning = diagnose_traces(train, query)["warning"]

    assert "R-hat is above 1.05 for 100% of the losses: the chains have not settled." in warning
    assert "effective draws (median), fewer than 50." in warning


def test_few_losses_with_a_high_rhat_are_no_warning():
    train, query = _both()
    train[1, :, :2] += 1  # 2 of 40: not more than 5 %

    result = diagnose_traces(train, query)

    assert result["rhat"]["share_above"] == 0.05
    assert result["rhat"]["high"] > 1.5
    assert result["warning"] == ""


def test_a_drift_that_all_losses_share_is_warned_of():
    train, query = _both()
    trend = torch.linspace(0, 0.03, 400)[:, None]  # each loss hides it in its own noise of 0.1

    result = diagnose_traces(train + trend, query)

    assert result["drift"]["median"] < 4 < result["drift"]["of_mean_loss"]
    assert result["warning"].startswith("The mean loss drifts within a chain, by ")


def test_draws_that_are_no_chain_have_no_rhat_effective_draws_or_drift():
    train, query = _both()

    result = diagnose_traces(train + torch.linspace(0, 1, 400)[:, None], query, markov=False)

    assert result["markov"] is False
    assert (result["rhat"], result["effective_draws"], result["drift"], result["warning"]) == (None, None, None, "")
    assert result["loss_standard_deviation"]["median"] > 0.1


def test_the_error_of_draws_that_are_no_chain_is_how_their_chains_differ():
    train, query = _both(chains=8)

    found = diagnose_traces(train, query, markov=False)["covariance"]

    # Independent draws know their own error: 0.01 / sqrt(N). Eight chains give it with a median 6 % too low.
    assert found["error"] == pytest.approx(0.01 / math.sqrt(8 * 400), rel=0.15)
    assert diagnose_traces(train[:1], query[:1], markov=False)["covariance"] is None


def test_too_few_draws_have_a_spread_and_a_warning():
    result = diagnose_traces(*_both(draws=3))

    assert result["warning"] == "3 draws a chain are too few to say whether it has settled."
    assert result["loss_standard_deviation"]["median"] > 0
    assert result["rhat"] is result["covariance"] is None
    assert diagnose_traces(*_both(draws=1))["loss_standard_deviation"] is None


@pytest.mark.parametrize("draws", [4, 5, 19, 20])
def test_short_chains_have_finite_numbers_and_a_drift_from_twenty_draws(draws):
    result = diagnose_traces(*_both(draws=draws))

    assert math.isfinite(result["rhat"]["median"])
    assert 0 < result["effective_draws"]["median"] <= 2 * draws * max(1, math.log10(2 * draws))
    assert (result["drift"] is None) == (draws < 20)


def test_losses_that_never_move_are_counted_and_left_out():
    train, query = _both()
    expected = diagnose_traces(train[..., 5:], query)
    train[..., :5] = 0.25

    result = diagnose_traces(train, query)

    assert result["constant_losses"] == 5
    assert result["rhat"] == expected["rhat"]


def test_a_model_that_never_moves_has_no_diagnostics():
    train, query = _both()

    result = diagnose_traces(torch.zeros_like(train), torch.zeros_like(query))

    assert (result["rhat"], result["effective_draws"], result["drift"]) == (None, None, None)
    assert result["constant_losses"] == 40
    assert result["covariance"] == {"pairs": 400, "size": 0.0, "error": 0.0}


def test_many_losses_are_done_in_parts_with_the_same_result(monkeypatch):
    whole = diagnose_traces(*_both(), inverse_temperature=2.0)
    monkeypatch.setattr(diagnostics, "CHUNK", 7)

    assert diagnose_traces(*_both(), inverse_temperature=2.0) == whole


def test_a_summary_leaves_nan_out_and_keeps_infinity():
    found = summarise(torch.tensor([math.nan, *range(101), math.inf]))

    assert found == {"median": 50.0, "low": 1.0, "high": 100.0}
    assert summarise(torch.tensor([math.inf]))["high"] == math.inf
    assert summarise(torch.tensor([math.nan])) is None
