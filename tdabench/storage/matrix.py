"""A matrix of which only some rows are in memory at a time, such as scores that stay on disk. Imports no torch."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that are read, or made, each time they are asked for; ``narrow`` and ``split`` are those of a tensor.

    Attributes:
        read: Gives the rows from a first one to before a last one.
        shape: Rows and columns.
        start: Where the rows begin in what ``read`` counts.
    """

    read: "Callable[[int, int], Tensor]"
    shape: tuple[int, int]
    start: int = 0

    def narrow(self, dim: int, start: int, length: int) -> "Rows":
        """Return some of the rows, unread."""
        if dim != 0 or not 0 <= start <= start + length <= self.shape[0]:
            raise ValueError(f"There are {self.shape[0]} rows, and {length} from {start} (axis {dim}) are not of them.")
        return dataclasses.replace(self, shape=(length, self.shape[1]), start=self.start + start)

    def split(self, size: int) -> "Iterator[Tensor]":
        """Return all rows, so many at a time."""
        end = self.start + self.shape[0]
        return (self.read(first, min(first + size, end)) for first in range(self.start, end, size))
