"""Memory of an estimate in blocks, from the losses to the file of scores, against the limit that it is told."""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from _ratio import verdict

from tdabench.attributors.estimates.blocks import GIB, estimate_losses
from tdabench.attributors.running.run import check_scores
from tdabench.storage.records import save_tensors


def main() -> None:
    """Estimate scores, check them and keep them, as a method and its stage do; watch the memory meanwhile."""
    parser = argparse.ArgumentParser()
    for name, value in {"--train": 50_000, "--query": 10_000, "--draws": 200, "--chains": 1}.items():
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--memory-gib", type=float, default=1.0)
    parser.add_argument("--estimate", default="covariance")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = arguments.chains, arguments.draws
    query, train = (
        torch.randn(*shape, count, generator=generator).unbind() for count in (arguments.query, arguments.train)
    )
    torch.ones(64, 64, dtype=torch.float64) @ torch.ones(64, 64, dtype=torch.float64)  # the library's own buffers
    with tempfile.TemporaryDirectory() as folder, _Watch() as watch:
        start = time.perf_counter()
        scores = estimate_losses(
            query, train, estimate=arguments.estimate, memory_gib=arguments.memory_gib, workspace=Path(folder)
        )
        estimated = time.perf_counter() - start
        check_scores(scores, num_queries=arguments.query, num_train=arguments.train)
        save_tensors(Path(folder) / "scores.safetensors", {"scores": scores.detach().float().cpu()}, {})
        written = time.perf_counter() - start - estimated
    sys.stdout.write(
        f"  {scores.nbytes / GIB:.2f} GiB of scores: {estimated:.1f} s; checked and kept: {written:.1f} s\n"
    )
    verdict("anonymous memory / limit", watch.growth / (arguments.memory_gib * GIB), at_most=1.0)


class _Watch:
    """Watch the process's anonymous memory: what is mapped from files is the system's to drop."""

    def __enter__(self) -> "_Watch":
        self.start, self.highest, self.is_over = _anonymous_bytes(), 0, threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()

    @property
    def growth(self) -> int:
        return self.highest - self.start

    def _look(self) -> None:
        while not self.is_over.wait(0.002):
            self.highest = max(self.highest, _anonymous_bytes())


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
