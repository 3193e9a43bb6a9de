"""Loss passes in bfloat16: their time against float32, and what they do to the scores, at the same draws of a chain.

``python tests/benchmarks/half_precision.py experiments/lds_cifar10.yaml results/lds_cifar10/0/250``. No bar: bfloat16
pays only where the processor has it. The scores' rank correlation says whether it may be used at all.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

import torch
from faster import difference_of_lds, load_bench
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor, nn

from tdabench.attributors.base import Examples, batches
from tdabench.attributors.bif import BIF
from tdabench.attributors.estimates.estimators import loss_correlation
from tdabench.attributors.sampling.sgld import sample_chain
from tdabench.experiment.components import instantiate
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.training.losses import image_loss

PRECISIONS = {
    "float32": contextlib.nullcontext,
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
}


@torch.no_grad()
def measure(model: nn.Module, examples: Examples, precision: str) -> tuple[Float[Tensor, " example"], float]:
    """Return the losses and the CPU seconds that they took."""
    start = time.process_time()
    with PRECISIONS[precision]():
        losses = torch.cat([image_loss(model, part) for part in batches(examples, 500)])
    return losses.float(), time.process_time() - start


def sample(bench: Bench, method: BIF, draws: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the losses (draw, example) in each precision, and the least CPU seconds of a draw."""
    examples = {name: torch.cat([values, bench.query[name]]) for name, values in bench.train.items()}
    chain = sample_chain(
        bench.load_model(bench.cell.checkpoint(0)),
        image_loss,
        bench.reference,
        steps=method.burn_in + draws * method.steps_between_draws,
        step_size=method.step_size,
        inverse_temperature=method.inverse_temperature,
        localization=method.localization,
        batch_size=method.batch_size,
        generator=make_generator(bench.experiment.seed, "half precision"),
    )
    losses: dict[str, list[Tensor]] = {name: [] for name in PRECISIONS}
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for step, at in enumerate(chain, start=1 - method.burn_in):
        if step > 0 and step % method.steps_between_draws == 0:
            for name in PRECISIONS:
                values, taken = measure(at.model, examples, name)
                losses[name].append(values)
                seconds[name].append(taken)
    return {name: torch.stack(values) for name, values in losses.items()}, {
        name: min(values) for name, values in seconds.items()
    }


def main() -> None:
    """Sample one chain, measure every draw in both precisions, and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("folder", type=Path, help="results/NAME/REPEAT/TRAIN_SIZE, with its bank and checkpoint")
    parser.add_argument("--draws", type=int, default=50)
    arguments = parser.parse_args()
    bench = load_bench(arguments.experiment, arguments.folder.resolve())
    method = instantiate(bench.experiment.methods["bif"], "methods.bif")
    losses, seconds = sample(bench, method, arguments.draws)
    scores = {
        name: loss_correlation(values[None, :, bench.size :], values[None, :, : bench.size])
        for name, values in losses.items()
    }
    pairs = zip(scores["float32"].numpy(), scores["bfloat16"].numpy(), strict=True)
    ranks = torch.tensor([spearmanr(*pair).statistic for pair in pairs])
    result = difference_of_lds(bench, scores["float32"], scores["bfloat16"])
    sys.stdout.write(
        f"time of a loss pass, bfloat16 / float32: {seconds['bfloat16'] / seconds['float32']:.2f} (processor has it: "
        f"{torch.cpu._is_avx512_bf16_supported()})\n"
        f"rank correlation of the scores with float32's: mean {ranks.mean():.4f}, lowest {ranks.min():.4f}\n"
        f"LDS, bfloat16 - float32: {result['pairs'][0]['difference']:+.4f} "
        f"[{result['pairs'][0]['low']:+.4f}, {result['pairs'][0]['high']:+.4f}]\n"
    )


if __name__ == "__main__":
    main()
