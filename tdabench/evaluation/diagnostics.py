"""Say how well a method drew, from its losses at every draw."""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.evaluation.chains import (
    drift_scores,
    effective_draws,
    effective_draws_by_chain,
    mean_error,
    split_rhat,
)

# Nats, and NaN too: the limit at which a chain is left out of scores.
DIVERGED = 1e6
# Half a chain has to have a variance, and for its error more than a few draws.
FEWEST_DRAWS, FEWEST_FOR_DRIFT = 4, 20
# What gives a warning.
HIGH_RHAT, SHARE_OF_HIGH, FEW_EFFECTIVE, HIGH_DRIFT = 1.05, 0.05, 50, 4.0
# Pairs of a query and a training example that stand for all scores.
PAIRS = 500
# Series at a time: bounds the memory.
CHUNK = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A number a loss, over the losses that have it: its median, and its worst percent.

    Attributes:
        low: The 1 % quantile.
        high: The 99 % quantile.
    """

    median: float
    low: float
    high: float


def diagnose_traces(
    train: Float[Tensor, "chain draw train"],
    query: Float[Tensor, "chain draw query"],
    *,
    markov: bool = True,
    inverse_temperature: float | None = None,
) -> dict[str, Any]:
    r"""Diagnose losses over draws; what can't be said is None.

    ``fluctuation`` is :math:`n\beta \mathrm{Var}(\ell_i)`, of which half, in the mean over examples, estimates
    Watanabe's singular fluctuation. Its partner, the local learning coefficient
    :math:`n\beta (E[\ell_i] - \ell_i(w^*))`, needs the losses at the checkpoint, which traces don't have.

    Args:
        markov: Whether a draw depends on the one before it. If not, nothing is said of R-hat, effective draws and
            drift: draws that are independent, or laid out on purpose, have none.
        inverse_temperature: :math:`n\beta` of the draws.
    """
    chains, draws = train.shape[:2]
    converged = ((train.abs() < DIVERGED).all(dim=(1, 2))) & ((query.abs() < DIVERGED).all(dim=(1, 2)))
    kept = (train[converged], query[converged])
    result: dict[str, Any] = {
        "chains": chains,
        "draws": draws,
        "diverged_chains": int((~converged).sum()),
        "markov": markov,
        **dict.fromkeys(("rhat", "effective_draws", "drift", "covariance", "loss_standard_deviation", "fluctuation")),
    }
    if converged.any() and draws > 1:
        result |= _spread(kept[0], inverse_temperature)
        if not markov or draws >= FEWEST_DRAWS:
            result["covariance"] = _covariance_error(*kept, markov=markov)
        if markov and draws >= FEWEST_DRAWS:
            result |= _mixing(kept[0])
    return {**result, "warning": _warn(result)}


def summarise(values: Float[Tensor, "..."]) -> Summary | None:
    """Summarise what is not NaN; None if nothing is left."""
    known = values[~values.isnan()].double()
    if not len(known):
        return None
    # Not interpolated: a value may be infinite.
    levels = torch.tensor([0.5, 0.01, 0.99], dtype=torch.float64)
    median, low, high = known.quantile(levels, interpolation="nearest").tolist()
    return Summary(median=median, low=low, high=high)


def _spread(losses: Float[Tensor, "chain draw example"], inverse_temperature: float | None) -> dict[str, Any]:
    variances = torch.cat([part.double().var(dim=1).mean(dim=0) for part in losses.split(CHUNK, dim=2)])
    moves = losses.amax(dim=(0, 1)) > losses.amin(dim=(0, 1))
    fluctuation = None
    if inverse_temperature is not None:
        scaled = inverse_temperature * variances
        fluctuation = {"inverse_temperature": inverse_temperature, "mean": scaled.mean().item(), **_entries(scaled)}
    return {
        "constant_losses": int((~moves).sum()),
        "loss_standard_deviation": _entries(variances.sqrt()),
        "fluctuation": fluctuation,
    }


def _mixing(losses: Float[Tensor, "chain draw example"]) -> dict[str, Any]:
    draws = losses.shape[1]
    rhat, effective, by_chain, drift = [], [], [], []
    for part in losses.split(CHUNK, dim=2):
        values = part.double()
        rhat.append(split_rhat(values))
        effective.append(effective_draws(values))
        by_chain.append(effective_draws_by_chain(values))
        if draws >= FEWEST_FOR_DRIFT:
            drift.append(drift_scores(values))
    found: dict[str, Any] = {"rhat": _entries(torch.cat(rhat)), "effective_draws": _entries(torch.cat(effective))}
    if found["rhat"] is None or found["effective_draws"] is None:  # no loss ever moves
        return {}
    known = torch.cat(rhat)[~torch.cat(rhat).isnan()]
    found["rhat"]["share_above"] = (known > HIGH_RHAT).double().mean().item()
    medians = [summarise(chain) for chain in torch.cat(by_chain, dim=1)]
    found["effective_draws"]["by_chain"] = [entry and entry.median for entry in medians]
    if drift:
        # One test a chain, so that its error rate is known: the losses of a chain move together.
        of_mean = drift_scores(losses.mean(dim=2, keepdim=True, dtype=torch.float64))[:, 0]
        largest = summarise(of_mean.abs())
        each = _entries(torch.cat(drift, dim=1).abs())
        found["drift"] = each and {**each, "by_chain": of_mean.tolist(), "of_mean_loss": largest and largest.high}
    return found


def _covariance_error(
    train: Float[Tensor, "chain draw train"], query: Float[Tensor, "chain draw query"], *, markov: bool
) -> dict[str, Any] | None:
    """Give the median size of a covariance score and of its Monte Carlo standard error, over pairs that stand for all.

    The error is that of the mean of the centred losses' products: by their autocorrelations, or, of draws that are no
    Markov chain, by how the chains differ.
    """
    chains, draws = train.shape[:2]
    count = min(PAIRS, train.shape[2] * query.shape[2])
    place = torch.arange(count)
    first = _centre(query[..., place % query.shape[2]])
    second = _centre(train[..., place * train.shape[2] // count])
    products = first * second * draws / (draws - 1)
    if markov:
        error = mean_error(products)
    elif chains > 1:
        error = products.mean(dim=1).std(dim=0) / math.sqrt(chains)
    else:
        return None
    return {
        "pairs": count,
        "size": products.mean(dim=(0, 1)).abs().median().item(),
        "error": error.median().item(),
    }


def _centre(losses: Float[Tensor, "chain draw pair"]) -> Float[Tensor, "chain draw pair"]:
    losses = losses.double()
    return losses - losses.mean(dim=1, keepdim=True)


def _entries(values: Float[Tensor, "..."]) -> dict[str, Any] | None:
    summary = summarise(values)
    return summary and dataclasses.asdict(summary)


def _warn(result: dict[str, Any]) -> str:
    """Say in plain sentences what is wrong with the draws; nothing if all is well."""
    chains, lost, rhat, drift = (result[name] for name in ("chains", "diverged_chains", "rhat", "drift"))
    sentences = []
    if lost:
        sentences.append(f"{lost} of {chains} chains diverged{' and are left out' if lost < chains else ''}.")
    if result["markov"] and lost < chains and result["draws"] < FEWEST_DRAWS:
        sentences.append(f"{result['draws']} draws a chain are too few to say whether it has settled.")
    if rhat and rhat["share_above"] > SHARE_OF_HIGH:
        share = f"{rhat['share_above']:.0%}"
        sentences.append(f"R-hat is above {HIGH_RHAT} for {share} of the losses: the chains have not settled.")
    if rhat and result["effective_draws"]["median"] < FEW_EFFECTIVE:
        effective = result["effective_draws"]["median"]
        sentences.append(f"A loss has {effective:.0f} effective draws (median), fewer than {FEW_EFFECTIVE}.")
    if drift and drift["of_mean_loss"] is not None and drift["of_mean_loss"] > HIGH_DRIFT:
        size = f"{drift['of_mean_loss']:.1f}"
        sentences.append(f"The mean loss drifts within a chain, by {size} Monte Carlo errors: lengthen the burn-in.")
    return " ".join(sentences)
