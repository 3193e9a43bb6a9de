"""Speed of the two-way bootstrap of eight methods, in all and against one correlation after the other."""

import sys
import time

import torch
from _ratio import compare, verdict

from tdabench.evaluation.bootstrap import draw_resamples, resampled_means
from tdabench.evaluation.lds import rank_correlation

SUBSETS, QUERIES, METHODS, RESAMPLES = 100, 1000, 8, 10_000
FEW = 4


def main() -> None:
    """Resample 100 subsets x 1,000 queries x 8 methods 10,000 times."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(1 + METHODS, SUBSETS, QUERIES, generator=generator)
    pairs = [(0, method) for method in range(1, 1 + METHODS)]
    few = draw_resamples(SUBSETS, QUERIES, resamples=FEW, generator=generator)
    results = {}

    def ours() -> None:
        results["ours"] = resampled_means(sides, pairs, few).both

    def loop() -> None:
        rows = []
        for subsets, queries in zip(few.subsets.long(), few.queries.long(), strict=True):
            chosen = torch.arange(SUBSETS).repeat_interleave(subsets)
            measured = sides[0][chosen]
            found = torch.stack([rank_correlation(sides[second][chosen], measured) for _, second in pairs])
            rows.append((found * queries).sum(dim=1) / queries.sum())
        results["loop"] = torch.stack(rows)

    ratio = compare(ours, loop, repeats=2)
    torch.testing.assert_close(results["ours"], results["loop"], atol=1e-6, rtol=0)
    sys.stdout.write(f"loop of rank correlations / ours, {FEW} resamples: {1 / ratio:.1f}\n")

    start = time.perf_counter()
    drawn = draw_resamples(SUBSETS, QUERIES, resamples=RESAMPLES, generator=generator)
    resampled_means(sides, pairs, drawn)
    verdict(f"seconds for {RESAMPLES:,} resamples", time.perf_counter() - start, at_most=60)


if __name__ == "__main__":
    main()
