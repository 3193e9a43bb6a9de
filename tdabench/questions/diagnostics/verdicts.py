"""What is wrong with draws, in plain words, from the numbers of their diagnosis."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

# Half a chain has to have a variance.
FEWEST_DRAWS = 4
# What gives a warning: split R-hat, of more than this share of the losses; effective draws; Monte Carlo errors.
HIGH_RHAT, SHARE_OF_HIGH, FEW_EFFECTIVE, HIGH_DRIFT = 1.05, 0.05, 50, 4.0
# The mean loss times n beta: in one direction that is explored it has a mean of 1/2 and a standard deviation of 0.7.
NEGLIGIBLE = 0.1
# Of the distance from the checkpoint: nearer to 1/2, that of noise alone, than to 0, that of a chain which settled.
FREE_GROWTH = 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong with the draws.

    Attributes:
        short: A few words without numbers, the same in every repeat: for a table's column of status.
        sentence: The whole, with its number.
    """

    short: str
    sentence: str


def find_faults(result: Mapping[str, Any]) -> list[Fault]:
    """List what is wrong with the draws, the gravest first; nothing if all is well.

    Args:
        result: What ``tdabench.questions.diagnostics.diagnose.diagnose_traces`` found.
    """
    return [*_divergence(result), *(list(_stillness(result)) or list(_unrest(result))), *_descent(result)]


def _divergence(result: Mapping[str, Any]) -> Iterator[Fault]:
    chains, lost = result["chains"], result["diverged_chains"]
    if lost:
        yield Fault(
            short="all chains diverged" if lost == chains else "a chain diverged",
            sentence=f"{lost} of {chains} chains diverged{' and are left out' if lost < chains else ''}.",
        )


def _stillness(result: Mapping[str, Any]) -> Iterator[Fault]:
    """Find a step size that does nothing: the draws have gone nowhere, and are still on their way.

    A chain that has settled where the loss is all but flat has an equally small loss, but effective draws, and a
    distance that no longer grows.
    """
    distance, descent, effective = result["distance"] or {}, result["descent"] or {}, result["effective_draws"]
    short = "step size does nothing"
    if result["constant_losses"] and result["constant_losses"] == result["examples"]:
        yield Fault(short=short, sentence="No loss ever moves: the step size is too small to do anything.")
        return
    numbers = descent.get("explored"), distance.get("growth"), effective
    if any(number is None for number in numbers):
        return
    explored, growth, few = descent["explored"], distance["growth"], effective["median"] < FEW_EFFECTIVE
    if few and growth > FREE_GROWTH and explored < NEGLIGIBLE:
        yield Fault(
            short=short,
            sentence=(
                f"The step size does nothing: the losses have moved by {explored:.2g} effective parameters' worth, and "
                f"the distance from the checkpoint grows like that of noise alone (exponent {growth:.2f}): raise it, "
                "or take many more steps."
            ),
        )


def _unrest(result: Mapping[str, Any]) -> Iterator[Fault]:
    """Find chains that have not settled, or have too few draws to tell."""
    rhat, drift, draws = result["rhat"], result["drift"], result["draws"]
    if result["markov"] and result["diverged_chains"] < result["chains"] and draws < FEWEST_DRAWS:
        yield Fault(short="too few draws", sentence=f"{draws} draws a chain are too few to say whether it has settled.")
    if rhat and rhat["share_above"] > SHARE_OF_HIGH:
        share = f"{rhat['share_above']:.0%}"
        yield Fault(
            short="chains not settled",
            sentence=f"R-hat is above {HIGH_RHAT} for {share} of the losses: the chains have not settled.",
        )
    if rhat and result["effective_draws"]["median"] < FEW_EFFECTIVE:
        effective = result["effective_draws"]["median"]
        yield Fault(
            short="few effective draws",
            sentence=f"A loss has {effective:.0f} effective draws (median), fewer than {FEW_EFFECTIVE}.",
        )
    if drift and drift["of_mean_loss"] is not None and drift["of_mean_loss"] > HIGH_DRIFT:
        size = f"{drift['of_mean_loss']:.1f}"
        yield Fault(
            short="loss drifts",
            sentence=f"The mean loss drifts within a chain, by {size} Monte Carlo errors: lengthen the burn-in.",
        )


def _descent(result: Mapping[str, Any]) -> Iterator[Fault]:
    """Find a checkpoint that is far from a minimum: its mean training loss is above that of the draws."""
    descent, coefficient = result["descent"], result["learning_coefficient"]
    if not descent or not descent["error"] or descent["difference"] > -HIGH_DRIFT * descent["error"]:
        return
    if coefficient and coefficient["mean"] > -NEGLIGIBLE:
        return
    errors = f"{-descent['difference'] / descent['error']:.0f}"
    yield Fault(
        short="checkpoint far from a minimum",
        sentence=(
            f"The draws have a lower mean training loss than the checkpoint, by {-descent['difference']:.3g} nats "
            f"({errors} Monte Carlo errors): the checkpoint is far from a minimum. Train it longer, or localize more."
        ),
    )
