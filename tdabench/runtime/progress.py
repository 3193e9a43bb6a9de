"""Progress bars: live in a terminal, a line every ten seconds in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class _LineWriter:
    """Turn the carriage returns of a bar into lines, so that a log file can be read."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n\x1b[A ")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Iterate with a bar that shows the time left; for outermost loops only."""
    if sys.stderr.isatty():
        return iter(tqdm(items, desc=description, total=total))
    return iter(
        tqdm(items, desc=description, total=total, file=_LineWriter(), ascii=True, mininterval=10, maxinterval=20)
    )
