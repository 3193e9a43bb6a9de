"""The stage that finds planted wrong labels."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.bank.retrain import measure_queries
from tdabench.experiment.read import Experiment
from tdabench.questions.detection.scores import DETECTORS, detection_values, evaluate_detection
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell, cells_of, root_of
from tdabench.storage.records import load_record, load_tensors, make_record
from tdabench.training.losses import image_loss_and_margin


def detect(experiment: Experiment) -> None:
    """Rank the training examples by every method's suspicion, and the model's own loss; make the table and figure."""
    from tdabench.questions.detection.report import write_detection

    if not experiment.data.mislabelled:
        raise ValueError(f"{experiment.name} plants no wrong labels: give it a data.mislabelled above 0.")
    rows, inputs, root = [], [], root_of(experiment)
    for cell in cells_of(experiment, root):
        inputs += [cell.dataset, cell.split, cell.checkpoint(0), *map(cell.scores, experiment.methods)]
        rows += _detect_cell(experiment, cell)
    settings = {"data": experiment.data, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=list(dict.fromkeys(inputs)), seed=experiment.seed)
    sys.stdout.write(write_detection(experiment, root, rows, record))


def _detect_cell(experiment: Experiment, cell: Cell) -> list[dict[str, Any]]:
    """Return the rows of every method and detector, and of the model's loss, for one repeat and size."""
    place = {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size}
    bench = Bench(experiment, cell, Machine(device="cpu"))
    planted = torch.zeros(cell.train_size, dtype=torch.bool)
    planted[bench.planted] = True
    rows = []
    for method, detector, values, status in _suspicions(bench):
        row = {**place, "method": method, "detector": detector, "mislabelled": int(planted.sum()), "status": status}
        if values is not None:
            # Equal for every detector: the intervals are paired.
            generator = make_generator(experiment.seed, "bootstrap", "detection", cell.repeat, cell.train_size)
            row |= evaluate_detection(values, planted, experiment.evaluation, generator=generator)
        rows.append(row)
    return rows


def _suspicions(bench: Bench) -> Iterator[tuple[str, str, Float[Tensor, " train"] | None, str]]:
    """Yield every method, detector, its suspicion of each training example (None if it could not run), and status."""
    for method in bench.experiment.methods:
        path = bench.cell.scores(method)
        status, tensors = load_record(path)["status"], load_tensors(path)
        values = detection_values(**tensors, num_scored=len(bench.split["query"])) if tensors else {}
        for detector in DETECTORS:
            yield method, detector, values.get(detector), status
    model = bench.load_model(bench.cell.checkpoint(0))
    yield "loss", "loss", measure_queries(model, bench.train, image_loss_and_margin)[0], "ok"
