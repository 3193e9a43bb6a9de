"""Time of the EK-FAC adapter, against kronfluence called directly with the same settings."""

import logging
import shutil
import tempfile
from pathlib import Path

import torch
from _ratio import compare, verdict
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch.nn import functional
from torch.utils.data import TensorDataset

from tdabench.attributors.base import Problem, copy_model
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.models.resnet9 import ResNet9
from tdabench.training.losses import image_loss

METHOD = Kronfluence(strategy="ekfac", fit_batch_size=100, train_batch_size=100, query_batch_size=100)


class DirectTask(Task):
    """What kronfluence's own example does for image classification."""

    def compute_train_loss(self, batch, model, sample=False):
        """Sum the cross-entropy, with sampled labels for the Fisher."""
        images, labels = batch
        logits = model(images)
        if sample:
            labels = torch.multinomial(logits.detach().softmax(-1), num_samples=1).flatten()
        return functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch, model):
        """Sum the cross-entropy."""
        return self.compute_train_loss(batch, model)


def main() -> None:
    """Score 100 queries on 300 training images with a ResNet-9 at widths 32/128/128."""
    torch.set_num_threads(2)
    logging.disable(logging.INFO)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(400, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    examples = {"image": images, "label": torch.randint(10, (400,), generator=generator)}
    train, query = (
        {name: values[part] for name, values in examples.items()} for part in (slice(300), slice(300, None))
    )
    model = ResNet9(widths=(32, 128, 128)).build(images, generator=generator).eval()
    folder = Path(tempfile.mkdtemp())

    def ours() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        problem = Problem(models=(model,), loss=image_loss, train=train, query=query, reference=train, workspace=folder)
        METHOD.attribute(problem, generator=generator)

    def direct() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        task = DirectTask()
        task.get_influence_tracked_modules = lambda: [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module.weight.requires_grad
        ]
        prepared = prepare_model(copy_model(model), task)
        analyzer = Analyzer("direct", prepared, task, cpu=True, output_dir=str(folder))
        train_set, query_set = (TensorDataset(part["image"], part["label"]) for part in (train, query))
        analyzer.fit_all_factors(
            "factors", dataset=train_set, per_device_batch_size=100, factor_args=FactorArguments(strategy="ekfac")
        )
        analyzer.compute_pairwise_scores(
            "scores",
            factors_name="factors",
            query_dataset=query_set,
            train_dataset=train_set,
            per_device_query_batch_size=100,
            per_device_train_batch_size=100,
            score_args=ScoreArguments(damping_factor=None),
        )
        analyzer.load_pairwise_scores("scores")

    try:
        verdict("EK-FAC adapter / kronfluence", compare(ours, direct, repeats=3), at_most=1.05)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
