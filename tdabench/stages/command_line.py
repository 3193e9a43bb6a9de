"""The command line: arguments from a stage's signature, one call, and errors told plainly."""

import argparse
import dataclasses
import importlib
import importlib.metadata
import inspect
import logging
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.planning.settings import hash_settings
from tdabench.runtime.blame import find_blame, one_line, plug_ins
from tdabench.runtime.machine import Machine
from tdabench.stages import STAGES
from tdabench.storage.cell import Cell, find_cell
from tdabench.storage.files import put_aside
from tdabench.storage.seals import DamagedResult

DESCRIPTION = (
    "Benchmark of training-data attribution, judged by retraining. The workflow calls these stages; type `snakemake "
    "lds_digits` to run them all."
)


def run(arguments: Sequence[str]) -> int:
    """Run a stage in this process; return the exit status."""
    # Plug-ins are found in the folder that the command is run from, as with python -m.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name, rest = _find_stage(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    stage = load_stage(name)
    parsed, values = make_parser(name, stage).parse_args(rest), {}
    try:
        values = _values(name, stage, parsed)
        stage(**values)
    except Exception as error:
        told = None if parsed.traceback else _tell(error, values)
        if told is None:
            raise
        sys.stderr.write(f"tdabench {name}: {told}\n")
        return 1
    return 0


def _tell(error: Exception, values: dict[str, Any]) -> str | None:
    """Tell an error in a line; one of others' code with its plug-in and place. None for a bug of our own."""
    if isinstance(error, DamagedResult):
        return _put_aside(error)
    meant = isinstance(error, (ValueError, OSError, ImportError))  # raised for a person to read
    blame = find_blame(error, plug_ins(_modules(values)))
    if blame is None:
        return str(error) if meant or isinstance(error, TypeError) else None
    where = f"({blame.plug_in}, {blame.place}; --traceback shows all of it)"
    return f"{str(error) if meant else one_line(error)} {where}"


def _modules(values: dict[str, Any]) -> list[str]:
    """Return the modules of the plug-ins that a command may run."""
    paths, experiment = [str(values.get("path", ""))], values.get("experiment")
    if isinstance(experiment, Experiment):
        components = [*experiment.methods.values(), experiment.model, experiment.data.component]
        paths += [component.path for component in components]
    return [path.partition(":")[0] for path in paths if path]


def _find_stage(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the stage that is asked for, of one word or two, and the other arguments; else say what there is."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in STAGES:
            return name, list(arguments[words:])
    parser = argparse.ArgumentParser(
        prog="tdabench", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('tdabench')}")
    parser.epilog = "stages:\n" + "\n".join(f"  {name:12} {stage.summary}" for name, stage in STAGES.items())
    parser.add_argument("stage", metavar="STAGE", choices=list(STAGES), help="one of those below; each has a --help")
    parser.parse_args(arguments[:1] or ["--help"])
    raise AssertionError("argparse has ended the process")


def load_stage(name: str) -> Callable[..., None]:
    """Import a stage's function; its module is imported then: a job pays for its own imports."""
    module, function = STAGES[name].path.split(":")
    return getattr(importlib.import_module(f"tdabench.{module}"), function)


def make_parser(name: str, stage: Callable[..., None]) -> argparse.ArgumentParser:
    """Describe a stage's arguments: an option for each parameter of its function, explained in its docstring."""
    summary = STAGES[name].summary
    parser = argparse.ArgumentParser(prog=f"tdabench {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    explained = _explanations(stage)
    hints = typing.get_type_hints(stage)
    for parameter in inspect.signature(stage).parameters.values():
        kind = hints[parameter.name]
        if kind is Experiment:
            parser.add_argument("experiment", help="the experiment's YAML file, or its name")
        elif kind is Cell:
            parser.add_argument("--repeat", type=int, required=True, help="which repetition, from 0")
            parser.add_argument("--train-size", type=int, required=True, help="size of the attribution set")
        elif kind is Machine:
            for field in dataclasses.fields(Machine):
                text = f"{field.metadata['help']} (default: {field.default})"
                parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=text)
        else:
            _add_argument(parser, parameter, kind, explained.get(parameter.name, ""), STAGES[name].positional)
    if Experiment in hints.values():
        parser.add_argument("--planned", metavar="HASH", help="refuse to run if the settings are no longer these")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def _add_argument(
    parser: argparse.ArgumentParser, parameter: inspect.Parameter, kind: Any, text: str, positional: Sequence[str]
) -> None:
    """Add a parameter: a switch if it is a truth value, else an option, or an argument without a name."""
    required, details = parameter.default is parameter.empty, {"help": text}
    if kind is bool:
        parser.add_argument(_option(parameter.name), dest=parameter.name, action="store_true", help=text)
        return
    if typing.get_origin(kind) is types.UnionType:  # X | None
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) in (list, Sequence):
        details |= {"nargs": "+", "action": "extend"}
        (kind,) = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        details["choices"], kind = typing.get_args(kind), str
    if parameter.name in positional:
        details |= {} if required else {"nargs": "?"}
        parser.add_argument(parameter.name, type=kind, **details)
    else:
        parser.add_argument(_option(parameter.name), dest=parameter.name, type=kind, required=required, **details)


def _option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def _explanations(stage: Callable[..., None]) -> dict[str, str]:
    """Return what the docstring says of each argument."""
    _, _, section = (inspect.getdoc(stage) or "").partition("Args:\n")
    section = section.partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).rstrip(".").replace("%", "%%") for name, text in found}


def _values(name: str, stage: Callable[..., None], parsed: argparse.Namespace) -> dict[str, Any]:
    """Make the stage's arguments of what was parsed."""
    given, values = vars(parsed), {}
    for parameter, kind in typing.get_type_hints(stage).items():
        if kind is Experiment:
            values[parameter] = find_experiment(given["experiment"])
        elif kind is Machine:
            values[parameter] = Machine(**{field.name: given[field.name] for field in dataclasses.fields(Machine)})
        elif given.get(parameter) is not None:  # else the function has a default
            values[parameter] = given[parameter]
        elif parameter == "data" and "TDABENCH_DATA" in os.environ:  # where a machine has its data is its own affair
            values[parameter] = Path(os.environ["TDABENCH_DATA"]).expanduser()
    experiment = values.get("experiment")
    if isinstance(experiment, Experiment):  # `bank import` has a path of that name
        if Cell in typing.get_type_hints(stage).values():
            values["cell"] = find_cell(experiment, parsed.repeat, parsed.train_size)
        if parsed.planned is not None:
            _require_planned(experiment, name, parsed)
    return values


def find_experiment(named: str) -> Experiment:
    """Load an experiment by its file, or by its name in ``experiments/``."""
    path = Path(named)
    return load_experiment(path if path.suffix in (".yaml", ".yml") else Path("experiments") / f"{named}.yaml")


def _require_planned(experiment: Experiment, stage: str, parsed: argparse.Namespace) -> None:
    """Refuse settings that are not those that the workflow planned with: the file was edited since.

    Raises:
        ValueError: If they differ.
    """
    wildcards = {name: getattr(parsed, name, None) for name in ("method", "point", "size", "train_size")}
    if parsed.planned != hash_settings(experiment, stage, **wildcards):
        raise ValueError(
            f"The settings of {experiment.name} were edited after this run was planned, so that its results would be "
            "of two recipes: run the workflow again. What is finished and not concerned by the edit is kept."
        )


def _put_aside(error: DamagedResult) -> str:
    """Put a damaged file of the workflow aside, and say so; a file that was named by hand stays where it is."""
    if error.path.parts[:1] != ("results",):
        return str(error)
    aside = put_aside(error.path)
    return f"{error.path} is damaged ({error.reason}). It was put aside as {aside.name}: run the workflow again."
