"""Speed of the LDS, against a loop of scipy's spearmanr."""

import time

import torch
from _ratio import verdict
from scipy.stats import spearmanr

from tdabench.evaluation.lds import linear_datamodeling_score

SUBSETS, QUERIES, TRAIN = 100, 2000, 10_000


def main() -> None:
    """Evaluate 100 subsets x 2,000 queries x 10,000 examples; the loop is given the summed scores for nothing."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(QUERIES, TRAIN, generator=generator)
    masks = torch.rand(SUBSETS, TRAIN, generator=generator) < 0.5
    losses = torch.randn(SUBSETS, QUERIES, generator=generator)
    linear_datamodeling_score(scores[:10], masks, losses[:, :10])

    start = time.perf_counter()
    ours = linear_datamodeling_score(scores, masks, losses)
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    loop = []
    for query in range(QUERIES):
        predicted = (masks.double() @ scores[query].double()).numpy()
        loop.append(spearmanr(predicted, -losses[:, query].numpy()).statistic)
    loop_seconds = time.perf_counter() - start

    torch.testing.assert_close(ours, torch.tensor(loop, dtype=torch.float64), atol=1e-12, rtol=0)
    verdict(f"loop of spearmanr ({loop_seconds:.2f} s) / ours ({seconds:.3f} s)", loop_seconds / seconds, at_least=20)


if __name__ == "__main__":
    main()
