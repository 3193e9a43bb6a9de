"""The stages of cost against model size: measure a method at a size; fit, and predict what was not run."""

import contextlib
import dataclasses
import itertools
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor

from tdabench.examples import Examples, inputs_of, num_examples, take
from tdabench.experiment.components import Component, instantiate
from tdabench.experiment.derived import model_at
from tdabench.experiment.grids import ScalingSettings
from tdabench.experiment.read import Experiment
from tdabench.questions.scaling.costs import break_evens, fit_costs, predict_costs
from tdabench.runtime.limits import OutOfMemory, run_limited
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench, build_random, load_data, require_room_for
from tdabench.stages.trial import find_method, outcome_of
from tdabench.storage.cell import Cell
from tdabench.storage.files import check_place
from tdabench.storage.outcome import Outcome
from tdabench.storage.provenance import name_device
from tdabench.storage.records import load_json, load_tensors, make_record, save_json

logger = logging.getLogger(__name__)

# Queries with which a method's libraries and the device's kernels are warmed up, outside of what is measured.
WARM_UP = 2


def scale(experiment: Experiment, method: str, size: str, machine: Machine, data: Path = Path("data")) -> None:
    """Measure a method at a size of the model, each run in a process of its own; out of time or memory is a result.

    After a run that was out of something, the others are not tried: they would be too.

    Args:
        method: its key in the experiment file.
        size: of the model, one of scaling.sizes.
        data: folder of the data (default: $TDABENCH_DATA, else data/).
    """
    scaling, component = require_scaling(experiment), find_method(experiment, method)
    model, root = model_at(experiment, size), Path("results") / experiment.name
    cell, output = Cell(root, 0, experiment.data.train_sizes[0]), root / "scale" / f"{method}-{size}.json"
    check_place(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(experiment=experiment, cell=cell, method=method, size=size, machine=machine, data=data)
    runs: list[dict[str, Any]] = []
    for queries, repeat in scaling.runs_at(size, experiment.data.queries):
        place = {"queries": queries, "repeat": repeat}
        before = Outcome.of(runs[-1]) if runs else Outcome()
        if not before.is_ok:
            runs.append({**place, "status": f"not run: {str(before).removeprefix('not run: ')}"})
            continue
        runs.append({**place, **_run_apart(job, scaling, queries, repeat, output.parent)})
        logger.info("%s at %s, %d queries: %s", method, size, queries, runs[-1]["status"])
    settings = {"data": experiment.data, "model": model, "method": component, "scaling": scaling}
    devices = [run["device"] for run in runs if "device" in run]
    details = {"seed": experiment.seed, "stream": _stream(method), "device": devices[0] if devices else None}
    record = make_record(settings, inputs=[cell.dataset, cell.split], threads=machine.threads, **details)
    save_json(output, {"size": size, "method": method, "runs": runs}, record)


def project(experiment: Experiment) -> None:
    """Fit cost against size, predict the sizes that were not run, and find the break-even queries."""
    from tdabench.questions.scaling.report import make_scaling_table, write_scaling

    torch.set_num_threads(1)
    root = Path("results") / experiment.name
    scaling, dataset = require_scaling(experiment), root / "dataset.safetensors"
    examples = load_data(dataset).examples("train", torch.arange(2))
    rows, unseen, files = [], [], []
    for method, size in itertools.product(experiment.methods, (*scaling.names, *map(str, scaling.predict))):
        place = {"method": method, "size": size}
        place |= count_parameters(experiment, model_at(experiment, size), method, examples)
        if size in scaling.names:
            files.append(root / "scale" / f"{method}-{size}.json")
            rows += _rows({"experiment": experiment.name, **place}, files[-1])
        else:
            unseen.append(place)
    table = make_scaling_table(rows)
    settings = {"queries": experiment.data.queries, "draws": scaling.draws}
    settings["confidence"] = experiment.evaluation.confidence
    tables = {
        "scaling": table,
        "scaling_fits": fit_costs(table, **settings),
        "scaling_predictions": predict_costs(table, pd.DataFrame(unseen), **settings),
        "break_even": break_evens(table, draws=scaling.draws),
    }
    record = make_record({"scaling": scaling, "data": experiment.data}, inputs=[dataset, *files])
    sys.stdout.write(write_scaling(experiment, root, tables, record))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What is measured; it travels to the process that is limited."""

    experiment: Experiment
    cell: Cell
    method: str
    size: str
    machine: Machine
    data: Path


def require_scaling(experiment: Experiment) -> ScalingSettings:
    """Return the section.

    Raises:
        ValueError: If the experiment has none.
    """
    if experiment.scaling is None:
        raise ValueError(f"{experiment.name} asks for no cost against size: give it the key scaling.")
    return experiment.scaling


def _run_apart(job: _Job, scaling: ScalingSettings, queries: int, repeat: int, beside: Path) -> dict[str, Any]:
    memory = None if scaling.memory_gib is None else round(scaling.memory_gib * 2**30)
    # Beside the result and not where the system keeps scratch: factors may take many GiB.
    with tempfile.TemporaryDirectory(dir=beside, prefix=".workspace-") as folder:
        ended = run_limited(
            measure_run,
            *(job, queries, repeat, Path(folder).resolve()),
            seconds=60.0 * scaling.minutes,
            memory_bytes=memory,
        )
    return {"status": ended.status} if ended.value is None else ended.value


def measure_run(job: _Job, queries: int, repeat: int, workspace: Path) -> dict[str, Any]:
    """Run a method once and return what it cost; called in a process of its own.

    Raises:
        OutOfMemory: If the device has too little.
    """
    from tdabench.attributors.base import Diverged, OutOfDisk
    from tdabench.attributors.running.run import run_attributor

    bench = Bench(job.experiment, job.cell, job.machine)
    attributor = instantiate(job.experiment.methods[job.method], f"methods.{job.method}")
    base = psutil.Process().memory_info().rss
    kinds = {Diverged: "diverged", OutOfDisk: "out of disk"}
    with _device_memory_told():
        problem = _make_problem(bench, job, queries, workspace)
        problem.loss(problem.models[0], take(bench.query, slice(0, WARM_UP))).sum().backward()
        problem.models[0].zero_grad(set_to_none=True)
        try:
            generator = make_generator(job.experiment.seed, *_stream(job.method), repeat)
            attribution = run_attributor(attributor, problem, generator=generator)
        except tuple(kinds) as reason:
            return {"status": str(Outcome(kinds[type(reason)], str(reason)))}
        except Exception as error:
            return {"status": str(outcome_of(error, attributor))}
    phases = {name: dataclasses.asdict(part) for name, part in attribution.cost.phases.items()}
    return {
        "status": str(Outcome.ok(attribution.warnings)),
        "device": name_device(bench.device),
        "base_host_bytes": base,
        "phases": phases,
        **_describe_draws(workspace / "traces.safetensors", phases),
    }


def _make_problem(bench: Bench, job: _Job, queries: int, workspace: Path) -> Any:
    """Make the problem with so many queries, from the first on; beyond the last, the same ones again."""
    from tdabench.attributors.base import Problem
    from tdabench.training.losses import losses_of

    losses = losses_of(bench.train)
    return Problem(
        models=(_make_model(bench, job),),
        loss=losses.loss,
        token_loss=losses.token_loss,
        train=bench.train,
        query=take(bench.query, torch.arange(queries, device=bench.device) % num_examples(bench.query)),
        reference=bench.reference,
        workspace=workspace,
    )


def count_parameters(experiment: Experiment, model: Component, method: str, examples: Examples) -> dict[str, int]:
    """Count a model's parameters, and those that a method looks at, without memory for their values where that can be.

    Args:
        examples: A few: a builder may look at their shapes.
    """
    from tdabench.attributors.base import Problem, Restricted
    from tdabench.training.losses import losses_of

    builder, attributor = instantiate(model, "model"), instantiate(experiment.methods[method], f"methods.{method}")
    try:
        with torch.device("meta"):
            built = builder.build(inputs_of(examples), generator=torch.Generator())
    except (RuntimeError, NotImplementedError):  # a builder that computes with its weights
        built = builder.build(inputs_of(examples), generator=torch.Generator())
    total = tracked = sum(parameter.numel() for parameter in built.parameters())
    if isinstance(attributor, Restricted):
        three = {"train": examples, "query": examples, "reference": examples}
        problem = Problem(models=(built.eval(),), loss=losses_of(examples).loss, workspace=Path(), **three)
        tracked = attributor.count_tracked(problem)
    return {"parameters": total, "tracked_parameters": tracked}


def _rows(place: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Return a row a run and phase; one row for a run that there is no cost of."""
    for run in load_json(path)["runs"]:
        run = {**run, **place}
        for name, part in run.pop("phases", {"score": {}}).items():
            yield {**run, "phase": name, **part}


def _make_model(bench: Bench, job: _Job) -> torch.nn.Module:
    builder = instantiate(model_at(bench.experiment, job.size), "model")
    if bench.experiment.pretraining == "published":
        model = builder.fetch(job.data)
    else:
        generator = make_generator(bench.experiment.seed, "scale", "model")
        model = build_random(builder, bench.reference, generator=generator)
    require_room_for(model, bench.data)
    return model.to(bench.device).eval()


@contextlib.contextmanager
def _device_memory_told() -> Iterator[None]:
    """Tell a device's or an allocator's lack of memory from other errors."""
    try:
        yield
    except RuntimeError as error:  # so is torch's own OutOfMemoryError
        said = ("can't allocate memory", "not enough memory")
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said):
            raise OutOfMemory(str(error).split(". ")[0]) from error
        raise


def _describe_draws(path: Path, phases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Say what a further draw would take, from the traces that a method that samples kept.

    The traces have CPU seconds; how many seconds of the clock one is, is taken from the whole run.
    """
    if not path.is_file():
        return {}
    traces: dict[str, Tensor] = load_tensors(path)
    if "cpu_seconds" not in traces or traces["cpu_seconds"].shape[1] < 2:
        return {}
    seconds, cpu_seconds = (sum(part[name] for part in phases.values()) for name in ("seconds", "cpu_seconds"))
    chains, draws = traces["cpu_seconds"].shape
    between = traces["cpu_seconds"].diff(dim=1).nanmean().item()
    return {"draws": chains * draws, "draw_seconds": between * seconds / cpu_seconds, "draw_cpu_seconds": between}


def _stream(method: str) -> tuple[str, str]:
    return "scale", method
