"""Say how well a method drew, from its losses at every draw."""

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
# What a diagnosis has beside its counts; None is what can't be said.
UNKNOWN = ("rhat", "effective_draws", "drift", "covariance", "loss_standard_deviation", "fluctuation",
           "constant_losses", "learning_coefficient", "distance", "descent")  # fmt: skip


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

    Args:
        markov: Whether a draw depends on the one before it. If not, it has no R-hat, effective draws or drift.
        inverse_temperature: :math:`n\beta` of the draws.
        train_checkpoint: Losses at the checkpoint, from which each draw has the Euclidean ``distance``.
        draw_step: After how many steps each draw was.
    """
    converged = find_converged(train, query)
    result: dict[str, Any] = {
        "chains": train.shape[0],
        "draws": train.shape[1],
        "examples": train.shape[2],
        "diverged_chains": int((~converged).sum()),
        "markov": markov,
        **dict.fromkeys(UNKNOWN),
    }
    if converged.any() and train.shape[1] > 1:
        steps = None if draw_step is None else draw_step[converged]
        losses, enough = train[converged], not markov or train.shape[1] >= FEWEST_DRAWS
        result |= _spread(losses, inverse_temperature)
        if enough:
            result["covariance"] = _covariance_error(losses, query[converged], markov=markov)
        if enough and markov:
            result |= _mixing(losses)
        if distance is not None:
            result["distance"] = describe_distance(distance[converged], steps)
        if enough and train_checkpoint is not None:
            result |= _around(losses, train_checkpoint, markov, inverse_temperature)
    return result | _describe_faults(result)


def _describe_faults(result: dict[str, Any]) -> dict[str, str]:
    """Say what is wrong in sentences, and in a few words without numbers."""
    faults = find_faults(result)
    return {
        "warning": " ".join(fault.sentence for fault in faults),
        "short_warning": ", ".join(fault.short for fault in faults),
    }


def find_converged(
    train: Float[Tensor, "chain draw train"], query: Float[Tensor, "chain draw query"]
) -> Bool[Tensor, " chain"]:
    """Say which chains did not diverge."""
    return ((train.abs() < DIVERGED).all(dim=(1, 2))) & ((query.abs() < DIVERGED).all(dim=(1, 2)))


def summarise(values: Float[Tensor, "..."]) -> dict[str, Any] | None:
    """Return the median of what is not NaN, and its worst percents, ``low`` and ``high``; None if nothing is left."""
    known = values[~values.isnan()].double()
    if not len(known):
        return None
    # Not interpolated: a value may be infinite.
    levels = torch.tensor([0.5, 0.01, 0.99], dtype=torch.float64)
    found = known.quantile(levels, interpolation="nearest").tolist()
    return dict(zip(("median", "low", "high"), found, strict=True))


def _spread(losses: Float[Tensor, "chain draw example"], inverse_temperature: float | None) -> dict[str, Any]:
    variances = torch.cat([part.double().var(dim=1).mean(dim=0) for part in losses.split(CHUNK, dim=2)])
    moves = losses.amax(dim=(0, 1)) > losses.amin(dim=(0, 1))
    fluctuation = None
    if inverse_temperature is not None:
        scaled = 2 * singular_fluctuations(losses, inverse_temperature)
        fluctuation = {"inverse_temperature": inverse_temperature, "mean": scaled.mean().item(), **summarise(scaled)}
    return {
        "constant_losses": int((~moves).sum()),
        "loss_standard_deviation": summarise(variances.sqrt()),
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
        **summarise(found),
    }
    return {"descent": descent, "learning_coefficient": coefficient}


def _mixing(losses: Float[Tensor, "chain draw example"]) -> dict[str, Any]:
    parts = losses.split(CHUNK, dim=2)
    rhat = torch.cat([split_rhat(part.double()) for part in parts])
    effective = torch.cat([effective_draws(part.double()) for part in parts])
    by_chain = torch.cat([effective_draws_by_chain(part.double()) for part in parts], dim=1)
    found: dict[str, Any] = {"rhat": summarise(rhat), "effective_draws": summarise(effective)}
    if found["rhat"] is None or found["effective_draws"] is None:  # no loss ever moves
        return {}
    found["rhat"]["share_above"] = (rhat[~rhat.isnan()] > HIGH_RHAT).double().mean().item()
    medians = [summarise(chain) for chain in by_chain]
    found["effective_draws"]["by_chain"] = [entry and entry["median"] for entry in medians]
    if losses.shape[1] >= FEWEST_FOR_DRIFT:
        # One test a chain, so that its error rate is known: the losses of a chain move together.
        of_mean = drift_scores(losses.mean(dim=2, keepdim=True, dtype=torch.float64))[:, 0]
        largest = summarise(of_mean.abs())
        each = summarise(torch.cat([drift_scores(part.double()) for part in parts], dim=1).abs())
        told = {"by_chain": of_mean.tolist(), "of_mean_loss": largest and largest["high"]}
        found["drift"] = each and {**each, **told}
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
