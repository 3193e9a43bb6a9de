"""Time of BIF's sampling, against the bare forward and backward passes that it needs."""

import tempfile
import time
from pathlib import Path

import torch
from _ratio import compare, verdict

from tdabench.attributors.base import Problem, batches
from tdabench.attributors.bif import BIF
from tdabench.models.resnet9 import ResNet9
from tdabench.training.losses import image_loss

METHOD = BIF(
    step_size=1e-6, inverse_temperature=100, localization=1e4, chains=1, draws=20, steps_between_draws=2, batch_size=128
)


def main() -> None:
    """Sample around a ResNet-9 at widths 32/128/128: 40 steps of 128; 500 losses at the checkpoint and at 20 draws."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(500, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    examples = {"image": images, "label": torch.randint(10, (500,), generator=generator)}
    train, query = (
        {name: values[part] for name, values in examples.items()} for part in (slice(400), slice(400, None))
    )
    model = ResNet9(widths=(32, 128, 128)).build(images, generator=generator).eval()
    batch = {name: values[:128].clone() for name, values in examples.items()}

    @torch.no_grad()
    def measure() -> None:
        for part in batches(examples, METHOD.loss_batch_size):
            image_loss(model, part)

    def bare() -> None:
        measure()  # at the checkpoint
        for _ in range(METHOD.draws):
            for _ in range(METHOD.steps_between_draws):
                model.zero_grad()
                image_loss(model, batch).mean().backward()
            measure()

    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(
            models=(model,), loss=image_loss, train=train, query=query, reference=examples, workspace=Path(folder)
        )

        def ours() -> None:
            METHOD.attribute(problem, generator=generator)

        verdict("BIF / bare passes", compare(ours, bare, repeats=4, clock=time.process_time), at_most=1.1)


if __name__ == "__main__":
    main()
