"""The stage that finds planted wrong labels."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.records import load_record, load_tensors, make_record


def detect(arguments: argparse.Namespace) -> None:
    """Rank the training examples by every method's suspicion, and the model's own loss; make the table and figure."""
    from tdabench.questions.detection.report import write_detection

    experiment = load_experiment(arguments.experiment)
    if not experiment.data.mislabelled:
        raise ValueError(f"{arguments.experiment} plants no wrong labels: give it a data.mislabelled above 0.")
    rows, inputs = [], []
    for repeat in range(experiment.repeats):
        for size in experiment.data.train_sizes:
            files = _CellFiles(experiment, arguments.output, repeat, size)
            inputs += [files.dataset, files.split, files.checkpoint, *files.scores.values()]
            place = {"experiment": experiment.name, "repeat": repeat, "train_size": size}
            rows += _detect_cell(experiment, arguments, place, files)
    settings = {"data": experiment.data, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=dict.fromkeys(inputs), seed=experiment.seed)
    sys.stdout.write(write_detection(experiment, arguments.output, rows, record))


def _detect_cell(
    experiment: Experiment, arguments: argparse.Namespace, place: dict[str, Any], files: "_CellFiles"
) -> list[dict[str, Any]]:
    """Return the rows of every method and detector, and of the model's loss, for one repeat and size."""
    from tdabench.questions.detection.scores import evaluate_detection

    size = place["train_size"]
    bench = Bench(
        argparse.Namespace(
            experiment=arguments.experiment,
            dataset=files.dataset,
            split=files.split,
            train_size=size,
            device="cpu",
            threads=1,
        )
    )
    planted = torch.zeros(size, dtype=torch.bool)
    planted[bench.planted] = True
    rows = []
    for method, detector, values, status in _suspicions(bench, files):
        row = {**place, "method": method, "detector": detector, "mislabelled": int(planted.sum()), "status": status}
        if values is not None:
            # Equal for every detector: the intervals are paired.
            generator = make_generator(experiment.seed, "bootstrap", "detection", place["repeat"], size)
            row |= evaluate_detection(values, planted, experiment.evaluation, generator=generator)
        rows.append(row)
    return rows


def _suspicions(bench: Bench, files: "_CellFiles") -> Iterator[tuple[str, str, Float[Tensor, " train"] | None, str]]:
    """Return every method, detector, its suspicion of each training example (None if it could not run), and status."""
    from tdabench.bank.retrain import measure_queries
    from tdabench.questions.detection.scores import DETECTORS, detection_values
    from tdabench.training.losses import image_loss_and_margin

    for method, path in files.scores.items():
        status, tensors = load_record(path)["status"], load_tensors(path)
        values = detection_values(**tensors, num_scored=len(bench.split["query"])) if tensors else {}
        for detector in DETECTORS:
            yield method, detector, values.get(detector), status
    model = bench.load_model(files.checkpoint)
    yield "loss", "loss", measure_queries(model, bench.train, image_loss_and_margin)[0], "ok"


class _CellFiles:
    """The files that one repeat and size is judged from."""

    def __init__(self, experiment: Experiment, folder: Path, repeat: int, size: int) -> None:
        cell = folder / str(repeat) / str(size)
        self.dataset = folder / "dataset.safetensors"
        self.split = folder / str(repeat) / "split.safetensors"
        self.checkpoint = cell / "checkpoints" / "0.safetensors"
        self.scores = {method: cell / "scores" / f"{method}.safetensors" for method in experiment.methods}
