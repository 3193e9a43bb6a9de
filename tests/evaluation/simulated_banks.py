"""Banks of which the truth is known: each query's loss is minus the sum of its examples' effects, and noise.

Effects have a part that queries share; retraining's noise is of known size, part of it shared by all queries, and
differs between queries. Methods know the effects up to errors of a known size, which differs between repeats. So the
population's mean LDS, over new subsets, models and queries, is known.
"""

import dataclasses
import math

import torch
from torch import Tensor

from tdabench.evaluation.bootstrap import Resamples, draw_resamples
from tdabench.evaluation.intervals import ResampledLDS, resample_lds
from tdabench.evaluation.lds import predicted_and_measured
from tdabench.seeds import make_generator

SUBSETS, QUERIES, TRAIN, RETRAINS, RESAMPLES = 40, 30, 60, 2, 200
# Size of each method's errors; two are equal, one is better, one knows nothing.
ERRORS = {"one": 1.0, "other": 1.0, "better": 0.6}
NAMES = (*ERRORS, "null")
SHARED_NOISE, OWN_NOISE = 2.5, 1.5


@dataclasses.dataclass(frozen=True)
class Bank:
    scores: dict[str, Tensor]
    masks: Tensor
    losses: Tensor
    noise: Tensor  # (query,) standard deviation of a retrain
    effects: Tensor  # (query, train)

    def predict(self) -> tuple[Tensor, Tensor]:
        """Return every method's sums, and the negative losses."""
        losses = self.losses.mean(dim=1)
        sides = [predicted_and_measured(values, self.masks, losses) for values in self.scores.values()]
        return torch.stack([one for one, _ in sides]), sides[0][1]

    def resample(self, generator: torch.Generator) -> tuple[ResampledLDS, Resamples]:
        predicted, measured = self.predict()
        resamples = draw_resamples(SUBSETS, QUERIES, resamples=RESAMPLES, generator=generator)
        return resample_lds(predicted, measured, resamples), resamples


def draw_bank(size: float, generator: torch.Generator, errors: dict[str, float] = ERRORS) -> Bank:
    effects, noise, scores = draw_queries(QUERIES, size, generator, errors)
    masks = torch.rand(SUBSETS, TRAIN, generator=generator).argsort(dim=1) < TRAIN // 2
    losses = -(masks.double() @ effects.T)[:, None] + noise * draw_luck(generator)
    return Bank(scores=scores, masks=masks, losses=losses, noise=noise, effects=effects)


def draw_luck(generator: torch.Generator) -> Tensor:
    luck = SHARED_NOISE * normal(SUBSETS, RETRAINS, 1, generator=generator)
    return luck + OWN_NOISE * normal(SUBSETS, RETRAINS, QUERIES, generator=generator)


def draw_queries(
    count: int, size: float, generator: torch.Generator, errors: dict[str, float] = ERRORS
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Draw effects (query, train), the noise's size and scores: from the same population each time."""
    common = normal(3, TRAIN, generator=make_generator(0, "population"))
    common = common - common.mean(dim=1, keepdim=True)
    unrelated = common[2] - common[0] * (common[2] @ common[0]) / (common[0] @ common[0])
    effects = 0.7 * common[0] + normal(count, TRAIN, generator=generator)
    noise = (0.3 * normal(count, generator=generator)).exp()
    scores = {
        name: effects + size * error * (0.7 * common[1] + normal(count, TRAIN, generator=generator))
        for name, error in errors.items()
    }
    scores["null"] = 0.7 * unrelated + normal(count, TRAIN, generator=generator)
    return effects, noise, scores


def population_lds(scores: Tensor, effects: Tensor, noise: Tensor) -> float:
    """Return the mean over queries of Spearman's correlation for sums over very many subsets, which are Gaussian."""
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (scores, effects))
    drawn = TRAIN / (TRAIN - 1) / 4  # variance of membership in a half, and its covariance between examples
    variance = noise.square() * (SHARED_NOISE**2 + OWN_NOISE**2) / RETRAINS
    product = drawn * (first * second).sum(dim=1)
    both = drawn * first.square().sum(dim=1) * (drawn * second.square().sum(dim=1) + variance)
    return (6 / math.pi * torch.asin(product / both.sqrt() / 2)).mean().item()


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
