"""The faster setting that we recommend, against BIF as an experiment has it: CPU time and LDS, on a run with a bank.

``python tests/benchmarks/faster.py experiments/lds_digits.yaml results/lds_digits/0/500`` runs both sides in turn on
the checkpoint of that folder; with ``--kept`` the scores and CPU seconds of ``bif`` are those that the folder holds.
``--all`` also runs settings that are no better, for the record.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _ratio import compare, verdict
from torch import Tensor

from tdabench.attributors.base import Attributor, Problem
from tdabench.attributors.bif import BIF
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.bank.shards import load_shards
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import load_experiment
from tdabench.questions.lds.judge import judge_cell
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_record, load_tensors
from tdabench.training.losses import image_loss

FASTER, LOSS_OF_LDS = 2.0, 0.02


def recommend(default: BIF) -> LaplaceBIF:
    """Return the recommended setting: draws of a Laplace approximation, half as many, with the same estimate."""
    return LaplaceBIF(draws=default.chains * default.draws // 2, estimate=default.estimate)


def other_settings(default: BIF) -> dict[str, BIF]:
    """Return ways to make SGLD itself cheaper."""
    return {
        "half the draws at twice the spacing": dataclasses.replace(
            default, draws=default.draws // 2, steps_between_draws=2 * default.steps_between_draws
        ),
        "minibatches of 32": dataclasses.replace(default, batch_size=32),
        "half the draws, minibatches of 32": dataclasses.replace(default, draws=default.draws // 2, batch_size=32),
    }


def load_bench(experiment: Path, folder: Path) -> Bench:
    """Load the data and split of a folder of results."""
    cell = Cell(folder.parents[1], int(folder.parent.name), int(folder.name))
    return Bench(load_experiment(experiment), cell, Machine(device="cpu"))


def attribute(bench: Bench, method: Attributor) -> Tensor:
    """Score with a method on the folder's first checkpoint."""
    with tempfile.TemporaryDirectory() as workspace:
        problem = Problem(
            models=(bench.load_model(bench.cell.checkpoint(0)),),
            loss=image_loss,
            train=bench.train,
            query=bench.query,
            reference=bench.reference,
            workspace=Path(workspace),
        )
        return method.attribute(problem, generator=make_generator(bench.experiment.seed, "faster"))


def difference_of_lds(bench: Bench, default: Tensor, fast: Tensor) -> dict[str, Any]:
    """Compare two sets of scores on the folder's bank, paired."""
    bank = load_shards(sorted((bench.cell.folder / "bank").glob("*.safetensors")))
    return judge_cell(
        {"fast": fast.float(), "default": default.float()},
        bank.masks,
        bank.loss,
        bench.experiment.evaluation,
        num_scored=len(bench.split["query"]),
        seed=bench.experiment.seed,
        place=(bench.cell.repeat, bench.size),
    )["comparison"]


def report(bench: Bench, default: Tensor, fast: Tensor) -> float:
    """Print both LDS and their difference; return its lower end."""
    result = difference_of_lds(bench, default, fast)
    methods, pair = result["methods"], result["pairs"][0]
    sys.stdout.write(
        f"  LDS: fast {methods['fast']['lds']:.3f}, default {methods['default']['lds']:.3f}; difference "
        f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]\n"
    )
    return pair["low"]


def run_in_turn(bench: Bench, default: Attributor, fast: Attributor) -> tuple[float, Tensor, Tensor]:
    """Return how many times faster the second is, and the scores of both."""
    scores: dict[str, Tensor] = {}

    def run(name: str, method: Attributor) -> None:
        scores[name] = attribute(bench, method)

    ratio = compare(
        lambda: run("fast", fast), lambda: run("default", default),
        repeats=2, warm_up=False, clock=time.process_time,
    )  # fmt: skip
    return 1 / ratio, scores["default"], scores["fast"]


def run_against_kept(bench: Bench, fast: Attributor) -> tuple[float, Tensor, Tensor]:
    """Return how many times faster a method is than the folder's ``bif`` was, and the scores of both."""
    start = time.process_time()
    scores = attribute(bench, fast)
    seconds = time.process_time() - start
    path = bench.cell.scores("bif")
    kept = sum(part["cpu_seconds"] for part in load_record(path)["cost"].values())
    sys.stdout.write(f"  CPU seconds: bif {kept:.1f} (of its record), fast {seconds:.1f}\n")
    return kept / seconds, load_tensors(path)["scores"], scores


def main() -> None:
    """Compare the recommended setting with the experiment's, and say whether it is as good."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("folder", type=Path, help="results/NAME/REPEAT/TRAIN_SIZE, with its bank and checkpoint")
    parser.add_argument("--kept", action="store_true", help="take BIF's scores and CPU seconds from the folder")
    parser.add_argument("--all", action="store_true", help="also run settings that aren't recommended")
    arguments = parser.parse_args()
    bench = load_bench(arguments.experiment, arguments.folder.resolve())
    default = instantiate(bench.experiment.methods["bif"], "methods.bif")

    def measure(name: str, fast: Attributor) -> tuple[float, float]:
        found = run_against_kept(bench, fast) if arguments.kept else run_in_turn(bench, default, fast)
        sys.stdout.write(f"{name}: {found[0]:.2f} times faster\n")
        return found[0], report(bench, *found[1:])

    for name, fast in other_settings(default).items() if arguments.all else ():
        measure(name, fast)
    recommended = recommend(default)
    faster, low = measure(f"recommended: {recommended}", recommended)
    verdict("lower end of the difference of LDS, fast - default", low, at_least=-LOSS_OF_LDS)
    verdict("times faster", faster, at_least=FASTER)


if __name__ == "__main__":
    main()
