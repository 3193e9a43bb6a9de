"""The stage that runs the swept method at one point of the grid."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tdabench.cost import measure_cost
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment
from tdabench.experiment.sweeps import component_at
from tdabench.seeds import make_generator
from tdabench.stages.attribution import lend_problem
from tdabench.stages.bench import Bench
from tdabench.storage.records import load_record, load_tensors, save_tensors

if TYPE_CHECKING:
    from tdabench.attributors.base import Problem
    from tdabench.attributors.running.run import Attribution

logger = logging.getLogger(__name__)


def sweep(arguments: argparse.Namespace) -> None:
    """Score the tuning queries at one point of the sweep; the scored queries are not even handed to the method.

    A point where every chain diverges, or that the method does not support, is a result: its status says so. Every
    point has the same random stream, so that points differ by their settings and not by luck as well, which makes
    their paired differences sharper. The stream is not that of ``attribute``: the settings that are chosen here are
    judged there on other draws than those that they were lucky with here.
    """
    bench = Bench(arguments)
    component = component_at(bench.experiment, arguments.point)
    attributor = instantiate(component, f"sweep point {arguments.point}")
    stream = ("sweep", arguments.repeat, arguments.train_size)
    with lend_problem(bench, arguments, bench.tuning, folder=f"sweep-{arguments.point}") as problem:
        with measure_cost(bench.device, workspace=problem.workspace) as cost:
            attribution, status = _try(attributor, problem, bench, stream)
        traces, diagnosis = _summarise(problem.workspace / "traces.safetensors")
    if attribution is None:
        logger.warning("%s: %s", arguments.point, status)
    else:
        cost = attribution.cost
    tensors = traces if attribution is None else {"scores": attribution.scores, **traces}
    details = {"stream": stream, "point": arguments.point, "method": component, "attributor": attributor}
    record = bench.record(arguments, cost, status=status, diagnosis=diagnosis, **details)
    save_tensors(arguments.output, tensors, record)


def check_points(experiment: Experiment) -> None:
    """Check the settings of every point of a sweep, if the experiment has one.

    Raises:
        ValueError: If a key of the grid is no setting of the method, a value is refused, or a key is the name of a
            column of the table.
    """
    from tdabench.questions.sweep.report import SWEEP_COLUMNS

    if experiment.sweep is None:
        return
    taken = [key for key in experiment.sweep.grid if key in SWEEP_COLUMNS]
    if taken:
        raise ValueError(f"sweep.grid can't have the key {taken[0]}: the table of the sweep has a column of that name.")
    for point in experiment.sweep.points:
        try:
            instantiate(component_at(experiment, point), "sweep.grid")
        except ValueError as error:
            raise ValueError(f"The point {point} of the sweep can't be: {error}") from error


def _try(
    attributor: Any, problem: "Problem", bench: Bench, stream: tuple[str | int, ...]
) -> tuple["Attribution | None", str]:
    """Run the method; return no attribution where it says that there is none, and the status."""
    from tdabench.attributors.base import Diverged, Unsupported
    from tdabench.attributors.running.run import run_attributor

    try:
        attribution = run_attributor(attributor, problem, generator=make_generator(bench.experiment.seed, *stream))
    except Unsupported as reason:
        return None, f"unsupported: {reason}"
    except Diverged as reason:
        return None, f"diverged: {reason}"
    return attribution, "; ".join(["ok", *(f"warning: {message}" for message in attribution.warnings)])


def _summarise(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Reduce the traces that a method kept to means over examples, and diagnose them; nothing if it kept none."""
    from tdabench.questions.diagnostics.diagnose import diagnose_traces

    if not path.is_file():
        return {}, None
    traces = load_tensors(path)
    train, query = traces["train"], traces["query"]
    kept = {name: traces[name] for name in ("step_loss", "distance", "cpu_seconds") if name in traces}
    kept |= {"loss": train.mean(dim=2), "tuning_loss": query.mean(dim=2)}
    for name, short in (("train_checkpoint", "checkpoint_loss"), ("query_checkpoint", "tuning_checkpoint_loss")):
        if name in traces:
            kept[short] = traces[name].mean()
    return kept, diagnose_traces(train, query, markov=load_record(path).get("markov", True))
