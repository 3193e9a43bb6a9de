"""The command ``tdabench``: by the fork server, which has imported what takes long, or in this process."""

import sys
from collections.abc import Sequence

from tdabench.runtime.forked import run_in_fork


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by the fork server if the workflow started one; return the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
        status = run_in_fork(arguments)
        if status is not None:
            return status
    return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run a command in this process; return the exit status."""
    from tdabench.stages import command_line  # not above: a command whose job is a fork needs none of it

    return command_line.run(arguments)
