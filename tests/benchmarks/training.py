"""Throughput of training, against a bare loop of forward, backward and optimizer steps."""

import torch
from _ratio import compare, verdict
from torch.nn import functional

from tdabench.experiment.sections import Recipe
from tdabench.models.resnet9 import ResNet9
from tdabench.training.recipe import train

# bfloat16 pays only where the processor has it: without AVX512-BF16 or AMX, PyTorch emulates it ten times slower.
PRECISION = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
RECIPE = Recipe(
    optimizer="sgd", epochs=2, batch_size=128, learning_rate=10.0, weight_decay=0.0153, momentum=0.85,
    bias_scaler=64.0, precision=PRECISION,
)  # fmt: skip


def main() -> None:
    """Train ResNet-9 at widths 32/128/128 on 1,024 images."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1024, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    examples = {"image": images, "label": torch.randint(10, (1024,), generator=generator)}
    model = ResNet9(widths=(32, 128, 128)).build(images, generator=generator)

    def ours() -> None:
        train(model, examples, RECIPE, generator=generator)

    def bare() -> None:
        model.train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.85, nesterov=True)
        for _ in range(RECIPE.epochs):
            for start in range(0, 1024, 128):
                with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bfloat16"):
                    logits = model(images[start : start + 128])
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(logits.float(), examples["label"][start : start + 128]).backward()
                optimizer.step()

    verdict(f"training throughput, ours / bare ({PRECISION})", 1 / compare(ours, bare, repeats=4), at_least=0.9)


if __name__ == "__main__":
    main()
