"""What the numbers of others' banks measure: losses, or margins. What is in doubt is asked, never guessed."""

import dataclasses
import re

import torch
from torch import Tensor

ROUNDING = 1e-3  # of losses in half precision, which may so come out below 0
SAYS_LOSS, SAYS_OTHER = (
    re.compile("loss|nll|entropy", re.IGNORECASE),
    re.compile("margin|logit|prob|acc", re.IGNORECASE),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Which array was measured, and what it is.

    Attributes:
        losses: Name of the losses; None for "losses", or "margins" where that alone is there.
        margins: Name of margins instead: the higher, the better is a query predicted.
        negative: Whether losses may be below 0.
        retrains: Length of the second of three axes.
    """

    losses: str | None = None
    margins: str | None = None
    negative: bool = False
    retrains: int | None = None

    def __post_init__(self) -> None:
        if self.losses is not None and self.margins is not None:
            raise ValueError("Say --losses or --margins, not both: a bank has one measure.")
        if self.margins is not None and self.negative:
            raise ValueError("--negative is for losses: margins may have any sign.")

    def choose(self, names: list[str]) -> tuple[str, str, str]:
        """Return the array's name, its option, and its measure as the record says it.

        Raises:
            ValueError: If the name says something else than the option.
        """
        if self.margins is not None or (self.losses is None and "margins" in names and "losses" not in names):
            name = self.margins or "margins"
            if SAYS_LOSS.search(name):
                raise ValueError(f"By its name, {name!r} has losses: say --losses {name}, or rename it.")
            return name, "--margins", "minus margin"
        name = self.losses or "losses"
        if SAYS_OTHER.search(name):
            raise ValueError(
                f"By its name, {name!r} has no losses. If high values are good, as a margin's, say --margins {name}; "
                "make losses of logits and probabilities first, or rename it."
            )
        return name, "--losses", "loss"

    def as_losses(self, values: Tensor, measure: str) -> Tensor:
        """Make losses (subset, retrain, query) of what was measured; one model a subset may leave out the retrain.

        Raises:
            ValueError: If the values have other axes, or may be something else.
        """
        if values.dtype == torch.bool:
            raise ValueError("Losses must be numbers, got true and false: are masks and losses swapped?")
        if values.ndim not in (2, 3):
            raise ValueError(
                f"Losses must be (subset, query) or (subset, retrain, query), got the shape {tuple(values.shape)}."
            )
        values = values if values.is_floating_point() else values.double()
        if measure == "loss" and not self.negative:
            _refuse_negative(values)
        if values.ndim == 2:
            return (-values if measure == "minus margin" else values)[:, None]
        self._check_retrains(values, is_loss=measure == "loss" and not self.negative)
        return -values if measure == "minus margin" else values

    def _check_retrains(self, values: Tensor, *, is_loss: bool) -> None:
        """Check that the second axis is the retrain: logits (model, query, class) have as many axes."""
        shape, told = tuple(values.shape), self.retrains
        if told is not None and told != shape[1]:
            raise ValueError(f"The shape (subset, retrain, query) = {shape} has {shape[1]} retrains, not {told}.")
        sums = values.double().sum(dim=2)
        if told is None and (not is_loss or (values.numel() and (values >= 0).all() and (sums - 1).abs().max() < 0.01)):
            raise ValueError(
                f"Is the shape {shape} (subset, retrain, query)? Then say --retrains {shape[1]}. If the last axis is "
                "the class, make each query's loss or margin of it first."
            )


def _refuse_negative(values: Tensor) -> None:
    below = values[values.isfinite() & (values < -ROUNDING)]
    if len(below):
        raise ValueError(
            f"Losses have negative values ({below[0].item():.4g}), which a cross-entropy never has. If they are "
            "margins, where high is good, say --margins with the array's name; if they are losses of another kind, "
            "--negative; if they are logits, make losses of them first."
        )
