"""The stage that measures what a method costs at a size of the model."""

import argparse
import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from tdabench.examples import Examples, inputs_of, num_examples, take
from tdabench.experiment.components import Component, instantiate
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.experiment.scaling import ScalingSettings, model_at
from tdabench.runtime.limits import OutOfMemory, run_limited
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench, build_random, require_room_for
from tdabench.storage.files import check_place
from tdabench.storage.provenance import name_device
from tdabench.storage.records import load_tensors, make_record, save_json

logger = logging.getLogger(__name__)

# Queries with which a method's libraries and the device's kernels are warmed up, outside of what is measured.
WARM_UP = 2


def scale(arguments: argparse.Namespace) -> None:
    """Measure a method at a size of the model, each run in a process of its own; out of time or memory is a result.

    After a run that was out of something, the others are not tried: they would be too.
    """
    experiment = load_experiment(arguments.experiment)
    scaling, component = require_scaling(experiment), experiment.methods.get(arguments.method)
    if component is None:
        known = ", ".join(experiment.methods)
        raise ValueError(f"There is no method {arguments.method} in {arguments.experiment}; there are {known}.")
    model = model_at(experiment, arguments.size)
    check_place(arguments.output)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for queries, repeat in scaling.runs_at(arguments.size, experiment.data.queries):
        place = {"queries": queries, "repeat": repeat}
        if runs and not runs[-1]["status"].startswith("ok"):
            status = f"not run: {runs[-1]['status'].removeprefix('not run: ')}"
            runs.append({**place, "status": status})
            continue
        runs.append({**place, **_run_apart(arguments, scaling, queries, repeat)})
        logger.info("%s at %s, %d queries: %s", arguments.method, arguments.size, queries, runs[-1]["status"])
    settings = {"data": experiment.data, "model": model, "method": component, "scaling": scaling}
    inputs = [arguments.dataset, arguments.split]
    devices = [run["device"] for run in runs if "device" in run]
    details = {"seed": experiment.seed, "stream": _stream(arguments.method), "device": devices[0] if devices else None}
    record = make_record(settings, inputs=inputs, threads=arguments.threads, **details)
    save_json(arguments.output, {"size": arguments.size, "method": arguments.method, "runs": runs}, record)


def require_scaling(experiment: Experiment) -> ScalingSettings:
    """Return the section.

    Raises:
        ValueError: If the experiment has none.
    """
    if experiment.scaling is None:
        raise ValueError(f"{experiment.name} asks for no cost against size: give it the key scaling.")
    return experiment.scaling


def _run_apart(arguments: argparse.Namespace, scaling: ScalingSettings, queries: int, repeat: int) -> dict[str, Any]:
    memory = None if scaling.memory_gib is None else round(scaling.memory_gib * 2**30)
    # Beside the result and not where the system keeps scratch: factors may take many GiB.
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=".workspace-") as folder:
        outcome = run_limited(
            measure_run,
            *(arguments, queries, repeat, Path(folder).resolve()),
            seconds=60.0 * scaling.minutes,
            memory_bytes=memory,
        )
    return {"status": outcome.status} if outcome.value is None else outcome.value


def measure_run(arguments: argparse.Namespace, queries: int, repeat: int, workspace: Path) -> dict[str, Any]:
    """Run a method once and return what it cost; called in a process of its own.

    Raises:
        OutOfMemory: If the device has too little.
    """
    from tdabench.attributors.base import Diverged, OutOfDisk, Problem, Unsupported
    from tdabench.attributors.running.run import run_attributor
    from tdabench.training.losses import losses_of

    experiment = load_experiment(arguments.experiment)
    bench = Bench(argparse.Namespace(**vars(arguments), train_size=experiment.data.train_sizes[0]))
    attributor = instantiate(experiment.methods[arguments.method], f"methods.{arguments.method}")
    base = psutil.Process().memory_info().rss
    losses = losses_of(bench.train)
    with _device_memory_told():
        problem = Problem(
            models=(_make_model(bench, arguments),),
            loss=losses.loss,
            token_loss=losses.token_loss,
            train=bench.train,
            query=_repeat_queries(bench, queries),
            reference=bench.reference,
            workspace=workspace,
        )
        losses.loss(problem.models[0], take(bench.query, slice(0, WARM_UP))).sum().backward()
        problem.models[0].zero_grad(set_to_none=True)
        try:
            generator = make_generator(experiment.seed, *_stream(arguments.method), repeat)
            attribution = run_attributor(attributor, problem, generator=generator)
        except Unsupported as reason:
            return {"status": f"unsupported: {reason}"}
        except Diverged as reason:
            return {"status": f"diverged: {reason}"}
        except OutOfDisk as reason:
            return {"status": f"out of disk: {reason}"}
    phases = {name: dataclasses.asdict(part) for name, part in attribution.cost.phases.items()}
    return {
        "status": "; ".join(["ok", *(f"warning: {message}" for message in attribution.warnings)]),
        "device": name_device(bench.device),
        "base_host_bytes": base,
        "phases": phases,
        **_describe_draws(workspace / "traces.safetensors", phases),
    }


def count_parameters(experiment: Experiment, model: Component, method: str, examples: Examples) -> tuple[int, int]:
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
    total = sum(parameter.numel() for parameter in built.parameters())
    if not isinstance(attributor, Restricted):
        return total, total
    three = {"train": examples, "query": examples, "reference": examples}
    problem = Problem(models=(built.eval(),), loss=losses_of(examples).loss, workspace=Path(), **three)
    return total, attributor.count_tracked(problem)


def _make_model(bench: Bench, arguments: argparse.Namespace) -> torch.nn.Module:
    builder = instantiate(model_at(bench.experiment, arguments.size), "model")
    if bench.experiment.pretraining == "published":
        model = builder.fetch(arguments.data)
    else:
        generator = make_generator(bench.experiment.seed, "scale", "model")
        model = build_random(builder, bench.reference, generator=generator)
    require_room_for(model, bench.data)
    return model.to(bench.device).eval()


def _repeat_queries(bench: Bench, count: int) -> Examples:
    """Return so many queries, from the first on; beyond the last, the same ones again."""
    places = torch.arange(count, device=bench.device) % num_examples(bench.query)
    return take(bench.query, places)


@contextlib.contextmanager
def _device_memory_told() -> Iterator[None]:
    """Tell a device's or an allocator's lack of memory from other errors."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error).split(". ")[0]) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
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
