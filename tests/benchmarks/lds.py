"""Speed of the LDS, against a loop of scipy's spearmanr."""

import torch
from _ratio import compare, verdict
from scipy.stats import spearmanr

from tdabench.evaluation.lds import linear_datamodeling_score

SUBSETS, QUERIES, TRAIN = 100, 2000, 10_000


def main() -> None:
    """Evaluate 100 subsets x 2,000 queries x 10,000 examples."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(QUERIES, TRAIN, generator=generator)
    masks = torch.rand(SUBSETS, TRAIN, generator=generator) < 0.5
    losses = torch.randn(SUBSETS, QUERIES, generator=generator)
    results = {}

    def ours() -> None:
        results["ours"] = linear_datamodeling_score(scores, masks, losses)

    def loop() -> None:
        per_query = []
        for query in range(QUERIES):
            predicted = (masks.double() @ scores[query].double()).numpy()
            per_query.append(spearmanr(predicted, -losses[:, query].numpy()).statistic)
        results["loop"] = torch.tensor(per_query, dtype=torch.float64)

    ratio = compare(ours, loop, repeats=3)
    torch.testing.assert_close(results["ours"], results["loop"], atol=1e-12, rtol=0)
    verdict("loop of spearmanr / ours", 1 / ratio, at_least=20)


if __name__ == "__main__":
    main()
