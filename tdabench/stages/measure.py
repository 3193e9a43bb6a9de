"""The stage that measures, at small sizes, what the jobs of an experiment cost."""

import contextlib
import copy
import ctypes
import dataclasses
import gc
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tdabench.attributors.base import Calibrated, ChainAttributor, Problem
from tdabench.attributors.running.run import batches_of, run_attributor, run_calibration, run_chain, score_chains
from tdabench.cost import Cost, measure_cost
from tdabench.data.base import Data
from tdabench.examples import Examples, batch_size_of
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment
from tdabench.planning.costs import COSTS_FILE, MEASURED_EPOCHS, QUERY, TRAIN, Costs, Size, fit_costs, sizes_to_measure
from tdabench.runtime.devices import choose_device
from tdabench.runtime.machine import Machine
from tdabench.runtime.progress import progress
from tdabench.seeds import make_generator
from tdabench.stages.bench import ModelFactory, load_data
from tdabench.stages.measured import Finished, MethodCosts
from tdabench.storage.cell import root_of
from tdabench.storage.files import remove_file
from tdabench.storage.records import make_record, save_json
from tdabench.training.losses import losses_of

logger = logging.getLogger(__name__)
Measured = tuple[Size, dict[str, float]]


def measure(experiment: Experiment, machine: Machine, data: Path = Path("data")) -> None:
    """Measure training and every method on few examples, and fit what they cost at other sizes.

    Args:
        data: folder of the data, where there is no dataset yet (default: $TDABENCH_DATA, else data/).
    """
    torch.set_num_threads(machine.threads)
    root = root_of(experiment)
    dataset, output = root / "dataset.safetensors", root / COSTS_FILE
    inputs = [dataset] if dataset.is_file() else []
    loaded = load_data(dataset) if inputs else instantiate(experiment.data.component, "data.options").load(data)
    rig = _Rig(experiment, loaded, ModelFactory(experiment, root), choose_device(machine.device), machine.threads)
    settings = {"model": experiment.model, "training": experiment.training, "methods": experiment.methods}
    where = {"threads": machine.threads, "device": str(rig.device)}
    finished = Finished(output.with_name("finished.json"), experiment, **where)
    with measure_cost(rig.device) as cost:
        costs = measure_costs(rig, finished)
    for kind, problem in costs.problems.items():
        logger.warning("%s was not measured: %s", kind, problem)
    record = make_record(settings, inputs=inputs, cost=cost, seed=experiment.seed, threads=machine.threads)
    save_json(output, dataclasses.asdict(costs), record)
    remove_file(finished.path)


@dataclasses.dataclass(frozen=True)
class _Rig:
    """What everything is measured on."""

    experiment: Experiment
    data: Data
    factory: ModelFactory
    device: torch.device
    threads: int

    def examples(self, part: str, count: int) -> Examples:
        """Return examples from the start of a part; over again, where it has too few."""
        there = self.data.sizes[part]
        return self.data.examples(part, torch.arange(count) % there, self.device)

    def generator(self, *stream: str | int) -> torch.Generator:
        return make_generator(self.experiment.seed, "measure", *stream)

    @property
    def base(self) -> int:
        """The smaller number of training examples."""
        return min(TRAIN, *self.experiment.data.train_sizes)

    def quantities(self, cost: Cost, disk_bytes: int | None = None) -> dict[str, float]:
        """Return what one measurement says: of the CPU its own seconds, whatever else the machine does."""
        parts = cost.phases.values()
        on_cpu = self.device.type == "cpu"
        return {
            "seconds": sum(part.cpu_seconds / self.threads if on_cpu else part.seconds for part in parts),
            "disk_bytes": sum(part.disk_bytes for part in parts) if disk_bytes is None else disk_bytes,
            **{f"host_bytes:{name}": part.peak_host_bytes for name, part in cost.phases.items()},
            **{f"device_bytes:{name}": part.peak_device_bytes for name, part in cost.phases.items()},
        }


def measure_costs(rig: _Rig, finished: Finished) -> Costs:
    """Measure every kind of job; a method that fails at these sizes is left out, and it is said why."""
    start_seconds = time.process_time()  # imports and data: every job has them
    example_bytes = sum(tensor[0].nbytes for tensor in rig.examples("train", 1).values())
    _measure_training(rig, (rig.base // 2,))  # the first pass of a process is slower
    model, training = _measure_training(rig, (rig.base // 2, 2 * rig.base))
    batches = {
        "train": {"train": _measured_epochs(rig) * rig.experiment.training.batch_size},
        "loss": {"query": batch_size_of(rig.examples("test", 1))},
    }
    coefficients = {
        "train": fit_costs(training, batches["train"]),
        "loss": fit_costs(list(_measure_losses(rig, model)), batches["loss"]),
    }
    if rig.experiment.bank is not None:
        coefficients["evaluate"] = fit_costs(list(_measure_evaluation(rig)))
    problems = {}
    for method, component in progress(list(rig.experiment.methods.items()), "measure"):
        found = finished.get(method, component)
        if found is None:
            attributor = instantiate(component, f"methods.{method}")
            try:
                found = _measure_method(rig, model, method, attributor)
            except Exception as error:  # of anyone's: its own job says so
                problems[method] = f"{type(error).__name__}: {error}"
                continue
            finished.keep(method, component, found)
        coefficients |= {f"{rule}:{method}": of_rule for rule, of_rule in found.costs.items()}
        if found.batches is not None:
            batches |= {f"{rule}:{method}": found.batches for rule in found.costs}
    return Costs(start_seconds, str(rig.device), coefficients, problems, batches, example_bytes)


def _measured_epochs(rig: _Rig) -> int:
    return min(rig.experiment.training.epochs, MEASURED_EPOCHS)


def _measure_training(rig: _Rig, counts: Sequence[int]) -> tuple[nn.Module, list[Measured]]:
    """Train on small sets, for two epochs and without warm-up, by the recipe; return the last model too."""
    from tdabench.training.recipe import train

    recipe = rig.experiment.training
    recipe = dataclasses.replace(recipe, epochs=_measured_epochs(rig), warmup_steps=0)
    warmup = rig.examples("train", 0)
    measured = []
    for count in counts:
        examples = rig.examples("train", count)
        _return_memory()
        with measure_cost(rig.device) as cost:
            generator = rig.generator("train", count)
            model = rig.factory.start(examples, generator=generator).to(rig.device)
            train(model, examples, recipe, generator=generator, warmup=warmup, description=None)
        disk = sum(value.nbytes for value in model.state_dict().values())
        measured.append((Size(train=recipe.epochs * count), rig.quantities(cost, disk)))
    return model.eval(), measured


def _measure_losses(rig: _Rig, model: nn.Module) -> Iterator[Measured]:
    from tdabench.bank.retrain import measure_queries

    for count in (rig.base // 2, 2 * rig.base):
        query = rig.examples("test", count)
        _return_memory()
        with measure_cost(rig.device) as cost:
            measure_queries(model, query, losses_of(query).loss_and_margin)
        yield Size(query=count), rig.quantities(cost)


def _measure_evaluation(rig: _Rig) -> Iterator[Measured]:
    """Evaluate random scores against random losses: their values cost nothing."""
    from tdabench.evaluation.evaluate import evaluate_scores

    bank = rig.experiment.bank
    for num_train, num_query in ((TRAIN, QUERY), (8 * TRAIN, QUERY), (TRAIN, 4 * QUERY), (8 * TRAIN, 4 * QUERY)):
        generator = rig.generator("evaluate", num_train, num_query)
        scores = torch.randn(num_query, num_train, generator=generator)
        masks = torch.rand(bank.subsets, num_train, generator=generator) < bank.fraction
        losses = torch.rand(bank.subsets, bank.retrains, num_query, generator=generator)
        _return_memory()
        with measure_cost("cpu") as cost:
            evaluate_scores(scores, masks, losses, rig.experiment.evaluation, num_scored=num_query, generator=generator)
        yield Size(train=num_train, query=num_query), rig.quantities(cost)


def _measure_method(rig: _Rig, model: nn.Module, method: str, attributor: Any) -> MethodCosts:
    """Measure the jobs of a method, by rule."""
    found: dict[str, list[Measured]] = {}
    sizes = list(sizes_to_measure(rig.base, getattr(attributor, "draws", 0)))
    if rig.experiment.has_calibration(method) and isinstance(attributor, Calibrated):
        from tdabench.attributors.calibration.auto import apply_proposal

        with _lend_problem(rig, model, sizes[0]) as problem:
            report, cost = run_calibration(attributor, problem, generator=rig.generator(method, "calibrate"))
        found["calibrate"] = [(sizes[0], rig.quantities(cost))]
        attributor = apply_proposal(attributor, report["proposed"])
    for size in sizes:
        with _lend_problem(rig, model, size) as problem:
            batches = batches_of(attributor, problem)
            for rule, cost in _run(rig, method, attributor, problem, size):
                found.setdefault(rule, []).append((size, rig.quantities(cost)))
    return MethodCosts({rule: fit_costs(measured, batches) for rule, measured in found.items()}, batches)


def _run(rig: _Rig, method: str, attributor: Any, problem: Problem, size: Size) -> Iterator[tuple[str, Cost]]:
    """Run a method as its jobs do, with fewer draws."""
    if size.draws:
        attributor = dataclasses.replace(attributor, draws=size.draws)
    generator = rig.generator(method)
    if not (rig.experiment.num_chains(method) and isinstance(attributor, ChainAttributor)):
        yield "attribute", run_attributor(attributor, problem, generator=generator).cost
        return
    tensors, cost = run_chain(attributor, problem, 0, generator=generator)
    yield "sample", cost
    yield "attribute", score_chains(attributor, problem, [tensors] * attributor.chains).cost


@contextlib.contextmanager
def _lend_problem(rig: _Rig, model: nn.Module, size: Size) -> Iterator[Problem]:
    """Make a problem of a size; all its checkpoints are one model, which costs as much as several."""
    _return_memory()
    train = rig.examples("train", size.train)
    losses = losses_of(train)
    with tempfile.TemporaryDirectory() as folder:
        yield Problem(
            models=tuple(copy.deepcopy(model) for _ in range(rig.experiment.checkpoints)),
            loss=losses.loss,
            token_loss=losses.token_loss,
            train=train,
            query=rig.examples("test", size.query),
            reference=rig.examples("train", size.reference),
            workspace=Path(folder),
        )


def _return_memory() -> None:
    """Return the system what is free: else it counts as the next method's, whose job will be a process of its own."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
