"""The command ``tdabench <stage>``: parse, call one function, and tell an error plainly."""

import logging
import os
import sys
from collections.abc import Sequence

from tdabench.forkserver import run_in_fork
from tdabench.parser import make_parser
from tdabench.storage.files import put_aside
from tdabench.storage.seals import DamagedResult


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage, of this process's arguments by the fork server that the workflow started; return the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
        status = run_in_fork(arguments)
        if status is not None:
            return status
    return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run a stage in this process; return the exit status."""
    # Plug-ins are found in the folder that the command is run from, as with python -m.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    parsed = make_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    from tdabench.stages import load_stage

    stage = load_stage(parsed.stage)
    try:
        stage(parsed)
    except DamagedResult as error:
        if parsed.traceback:
            raise
        sys.stderr.write(f"tdabench {parsed.stage}: {_put_aside(error)}\n")
        return 1
    except (ValueError, TypeError, OSError, ImportError) as error:
        if parsed.traceback:
            raise
        sys.stderr.write(f"tdabench {parsed.stage}: {error}\n")
        return 1
    return 0


def _put_aside(error: DamagedResult) -> str:
    """Put a damaged file of the workflow aside, and say so; a file that was named by hand stays where it is."""
    if error.path.parts[:1] != ("results",):
        return str(error)
    aside = put_aside(error.path)
    return f"{error.path} is damaged ({error.reason}). It was put aside as {aside.name}: run the workflow again."
