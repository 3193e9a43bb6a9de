"""The section ``tokens`` of an experiment file: whose scores of tokens are shown. Imports no torch."""

import dataclasses
from typing import TYPE_CHECKING

from tdabench.experiment.sections import require_at_least

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """Scores of tokens, for a few queries and the training examples that matter most to them.

    Attributes:
        queries: The first so many scored queries.
        top: Most helpful, and as many most harmful, training examples of each.
        methods: Keys of the methods that are asked; ``null`` means all.
    """

    queries: int = 8
    top: int = 10
    methods: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_at_least("tokens", self, queries=1, top=1)
        if self.methods is not None and (not self.methods or len(set(self.methods)) < len(self.methods)):
            raise ValueError(f"tokens.methods must be different methods, or null for all, got {list(self.methods)}.")


def check_tokens(tokens: TokenSettings, experiment: "Experiment") -> None:
    """Check the section against the others.

    Raises:
        ValueError: If it asks for more queries or training examples than there are, or for a method that isn't there.
    """
    if tokens.queries > experiment.data.queries:
        raise ValueError(
            f"tokens.queries must be at most data.queries ({experiment.data.queries}), got {tokens.queries}."
        )
    smallest = min(experiment.data.train_sizes)
    if 2 * tokens.top > smallest:
        raise ValueError(
            f"tokens.top must be at most half the smallest of data.train_sizes ({smallest}), so that none is "
            f"both most helpful and most harmful, got {tokens.top}."
        )
    _ = experiment.token_methods
