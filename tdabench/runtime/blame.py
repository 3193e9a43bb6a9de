"""Whose an error is: the place in a plug-in's or a user's own code, for one sentence. Imports no torch."""

import copy
import dataclasses
import re
import sysconfig
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
LONGEST = 400  # characters of a message: torch lists every backend that lacks an operator
# What torch says of an operator without a rule where it raises no NotImplementedError.
NO_RULE = re.compile(
    r"^vmap: |batching rule not implemented|derivative for .* is not implemented|forward AD|forward mode AD"
    r"|must override the setup_context|does not have vmap support|double backward",
    re.IGNORECASE,
)
NO_COPY = re.compile(r"copy|copies|copied|pickle", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Blame:
    """Where an error arose.

    Attributes:
        plug_in: ``module:Class`` that tdabench or a library called.
        place: ``file:line`` of the innermost line that is the plug-in's own.
    """

    plug_in: str
    place: str


def find_blame(error: BaseException, packages: Collection[str] = ()) -> Blame | None:
    """Return where in others' code an error arose; None if only tdabench and libraries were at work.

    Args:
        packages: Installed packages that are a plug-in's, and no library's.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_own_file(error.filename):
        return Blame(Path(error.filename).stem, _place(error.filename, error.lineno or 0))
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_own(frame, packages)]
    if not frames:
        return getattr(error, "blame", None)  # of another process, where the frames are lost
    outer, (inner, line) = frames[0][0], frames[-1]
    owner = outer.f_code.co_qualname.partition(".")[0]
    module = outer.f_globals.get("__name__", "?")
    return Blame(module if owner == "<module>" else f"{module}:{owner}", _place(inner.f_code.co_filename, line))


def plug_ins(modules: Iterable[str]) -> set[str]:
    """Return the packages of modules that are not tdabench's own."""
    return {module.partition(".")[0] for module in modules} - {PACKAGE.name}


def innermost_place(error: BaseException, packages: Collection[str] = ()) -> str:
    """Return the innermost ``file:line`` of others' code, else of tdabench's."""
    if (blame := find_blame(error, packages)) is not None:
        return blame.place
    *_, (name, line) = (
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if PACKAGE in Path(frame.f_code.co_filename).resolve().parents
    )
    return _place(name, line)


def one_line(error: BaseException) -> str:
    """Return an error's kind and the beginning of its message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ...'}".removesuffix(": ")


def lacks_rule(error: BaseException) -> bool:
    """Say whether an operator has no rule for what was asked of it, or a model can't be copied: no bug, but a limit."""
    if isinstance(error, NotImplementedError):
        return True
    in_copy = any(frame.f_code.co_filename == copy.__file__ for frame, _ in traceback.walk_tb(error.__traceback__))
    if in_copy and (isinstance(error, TypeError) or NO_COPY.search(str(error))):
        return True
    return isinstance(error, RuntimeError) and NO_RULE.search(str(error)) is not None


def _is_own(frame: FrameType, packages: Collection[str]) -> bool:
    top = frame.f_globals.get("__name__", "").partition(".")[0]
    return top in packages or _is_own_file(frame.f_code.co_filename)


def _is_own_file(name: str) -> bool:
    if name.startswith("<"):
        return False
    parents = Path(name).resolve().parents
    return not (
        PACKAGE in parents
        or LIBRARIES.intersection(parents)
        or any(parent.name in ("site-packages", "dist-packages") for parent in parents)
    )


def _place(name: str, line: int) -> str:
    path = Path(name).resolve()
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"
