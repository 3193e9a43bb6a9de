"""Memory and time of the stage that judges all scores, at the size of a large benchmark, against the limit it knows."""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from _ratio import verdict

from tdabench.storage.cell import Cell
from tdabench.storage.records import create_mapped_tensor, make_record, save_tensors, save_text

# A stage as its command runs it, which says in the end how much of it was ever resident, in KiB.
RUN = """
import sys
from pathlib import Path
from tdabench import cli
status = cli.main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
sys.stdout.write(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(status)
"""
SECONDS = 300


def main() -> None:
    """Write scores, which the methods share, and a bank, and judge them."""
    parser = argparse.ArgumentParser()
    sizes = {"--train": 50_000, "--queries": 10_000, "--subsets": 100, "--shards": 100, "--methods": 3}
    for name, value in sizes.items():
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), arguments)
        peak, wall, seconds = _judge(Path(folder), arguments.train)
    sys.stdout.write(f"  judge: {peak:.2f} GiB, {wall:.0f} s\n")
    verdict("judge: peak resident memory / limit", peak / arguments.memory_gib, at_most=1.0)
    verdict("judge: CPU seconds", seconds, at_most=SECONDS)


def _write(folder: Path, arguments: argparse.Namespace) -> None:
    cell, generator = Cell(folder / "results" / "large", 0, arguments.train), torch.Generator().manual_seed(0)
    methods = [f"method_{place}" for place in range(arguments.methods)]
    settings = _describe(methods, arguments)
    save_text(folder / "experiments" / "large.yaml", yaml.safe_dump(settings))
    record = {**make_record({}), "status": "ok"}
    # One query in a hundred is for tuning: all of them are read.
    scored = arguments.queries - arguments.queries // 100
    save_tensors(cell.split, {"query": torch.arange(scored)}, record)
    scores = create_mapped_tensor(folder / "mapped", (arguments.queries, arguments.train))
    for rows in scores.split(100):
        rows.normal_(generator=generator)
    paths = list(map(cell.scores, methods))
    save_tensors(paths[0], {"scores": scores}, record)
    for path in paths[1:]:
        os.link(paths[0], path)
    record |= {"bank": settings["bank"], "seed": 0, "stream": ["bank", 0, arguments.train]}
    for shard, path in enumerate(cell.bank(arguments.shards)):
        subsets = range(shard, arguments.subsets, arguments.shards)
        masks = torch.rand(len(subsets), arguments.train, generator=generator).argsort(dim=1) < arguments.train // 2
        loss = torch.randn(len(subsets), 2, arguments.queries, generator=generator)
        save_tensors(path, {"masks": masks, "loss": loss, "margin": -loss}, record)


def _describe(methods: list[str], arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "seed": 0,
        "data": {
            "source": "tdabench.data.digits:Digits",
            "train_sizes": [arguments.train],
            "queries": arguments.queries - arguments.queries // 100,
            "tuning_queries": arguments.queries // 100,
        },
        "model": {"builder": "tdabench.models.small_cnn:SmallCNN", "width": 4},
        "training": {"optimizer": "adamw", "epochs": 1, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.0},
        "bank": {"subsets": arguments.subsets, "fraction": 0.5, "retrains": 2, "shards": arguments.shards},
        "methods": {method: {"attributor": "tdabench.attributors.baselines:Random"} for method in methods},
        "evaluation": {"memory_gib": arguments.memory_gib},
    }


def _judge(folder: Path, size: int) -> tuple[float, float, float]:
    """Run the stage; return its peak of resident memory in GiB, its seconds, and its CPU seconds."""
    command = [sys.executable, "-c", RUN, "judge", "large", "--repeat", "0", "--train-size", str(size)]
    start, before = time.perf_counter(), _cpu_seconds_of_children()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return int(done.stdout) / 2**20, time.perf_counter() - start, _cpu_seconds_of_children() - before


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
