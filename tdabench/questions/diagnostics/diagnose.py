"""Say how well a method drew, from its losses at every draw."""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdabench.questions.diagnostics.coefficients import learning_coefficients, singular_fluctuations
from tdabench.questions.diagnostics.mixing import (
    drift_scores,
    effective_draws,
    effective_draws_by_chain,
    mean_error,
    split_rhat,
)
from tdabench.questions.diagnostics.neighbourhood import describe_descent, describe_distance
from tdabench.questions.diagnostics.verdicts import FEWEST_DRAWS, HIGH_RHAT, find_faults

# Nats, and NaN too: the limit at which a chain is left out of scores.
DIVERGED = 1e6
# The error of half a chain's mean needs more than a few draws.
FEWEST_FOR_DRIFT = 20
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
    train_checkpoint: Float[Tensor, " train"] | None = None,
    distance: Float[Tensor, "chain draw"] | None = None,
    draw_step: Int[Tensor, "chain draw"] | None = None,
) -> dict[str, Any]:
    r"""Diagnose losses over draws; what can't be said is None.

    ``warning`` says in sentences what is wrong, ``short_warning`` in a few words without numbers.

    Args:
        markov: Whether a draw depends on the one before it. If not, nothing is said of R-hat, effective draws and
            drift: draws that are independent, or laid out on purpose, have none.
        inverse_temperature: :math:`n\beta` of the draws.
        train_checkpoint: Losses at the checkpoint; older traces have none.
        distance: Euclidean, of each draw from the checkpoint.
        draw_step: After how many steps each draw was.
    """
    chains, draws = train.shape[:2]
    converged = find_converged(train, query)
    kept = (train[converged], query[converged])
    names = ("rhat", "effective_draws", "drift", "covariance", "loss_standard_deviation", "fluctuation")
    result: dict[str, Any] = {
        "chains": chains,
        "draws": draws,
        "examples": train.shape[2],
        "diverged_chains": int((~converged).sum()),
        "markov": markov,
        **dict.fromkeys((*names, "constant_losses", "learning_coefficient", "distance", "descent")),
    }
    if converged.any() and draws > 1:
        result |= _spread(kept[0], inverse_temperature)
        if not markov or draws >= FEWEST_DRAWS:
            result["covariance"] = _covariance_error(*kept, markov=markov)
        if markov and draws >= FEWEST_DRAWS:
            result |= _mixing(kept[0])
        if distance is not None:
            steps = None if draw_step is None else draw_step[converged]
            result["distance"] = describe_distance(distance[converged], steps)
        if train_checkpoint is not None and (not markov or draws >= FEWEST_DRAWS):
            result |= _around(kept[0], train_checkpoint, markov, inverse_temperature)
    faults = find_faults(result)
    texts = {name: [getattr(fault, name) for fault in faults] for name in ("sentence", "short")}
    return {**result, "warning": " ".join(texts["sentence"]), "short_warning": ", ".join(texts["short"])}


def find_converged(
    train: Float[Tensor, "chain draw train"], query: Float[Tensor, "chain draw query"]
) -> Bool[Tensor, " chain"]:
    """Say which chains did not diverge."""
    return ((train.abs() < DIVERGED).all(dim=(1, 2))) & ((query.abs() < DIVERGED).all(dim=(1, 2)))


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
        scaled = 2 * singular_fluctuations(losses, inverse_temperature)
        fluctuation = {"inverse_temperature": inverse_temperature, "mean": scaled.mean().item(), **_entries(scaled)}
    return {
        "constant_losses": int((~moves).sum()),
        "loss_standard_deviation": _entries(variances.sqrt()),
        "fluctuation": fluctuation,
    }


def _around(
    losses: Float[Tensor, "chain draw example"],
    checkpoint: Float[Tensor, " example"],
    markov: bool,
    inverse_temperature: float | None,
) -> dict[str, Any]:
    descent = describe_descent(losses, checkpoint, markov=markov, inverse_temperature=inverse_temperature)
    if inverse_temperature is None:
        return {"descent": descent}
    found = learning_coefficients(losses, checkpoint, inverse_temperature)
    coefficient = {
        "inverse_temperature": inverse_temperature,
        "mean": found.mean().item(),
        "error": inverse_temperature * descent["error"],
        **_entries(found),
    }
    return {"descent": descent, "learning_coefficient": coefficient}


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
    """Return the median size of a covariance score and its Monte Carlo standard error, over representative pairs.

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
