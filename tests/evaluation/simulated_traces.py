"""Traces and banks of which the limit of the LDS is known: losses are linear in modes that move as AR(1) chains.

The covariance of two losses over the modes' stationary law is known, and with it the scores of ever more draws. A
query's effects on the bank are these scores and as much again that no score knows; retraining adds noise.
"""

import dataclasses

import torch
from torch import Tensor

from tdabench.evaluation.lds import GroundTruth, predicted_and_measured, rank_correlation
from tdabench.seeds import make_generator

TRAIN, MODES, SUBSETS, QUERIES = 120, 16, 50, 30
OWN = 2.0  # noise that a loss has for itself at every draw
SIZES = torch.linspace(1.5, 0.5, MODES, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Bank:
    loadings: Tensor  # (query, mode)
    truth: GroundTruth

    @property
    def limit(self) -> float:
        """The mean LDS of ever more draws, on this bank."""
        return rank_correlation(*predicted_and_measured(exact_scores(self), self.truth.masks, self.truth.losses)).mean()


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def train_loadings() -> Tensor:
    return normal(TRAIN, MODES, generator=make_generator(0, "train"))


def exact_scores(bank: Bank) -> Tensor:
    return (bank.loadings * SIZES**2) @ train_loadings().T


def draw_bank(generator: torch.Generator, *, queries: int = QUERIES, subsets: int = SUBSETS) -> Bank:
    """Draw a bank; queries differ in how much their losses move, and so in how noisy their scores are."""
    spread = (0.5 * normal(queries, 1, generator=generator)).exp()
    loadings = spread * normal(queries, MODES, generator=generator)
    scores = (loadings * SIZES**2) @ train_loadings().T
    scores = scores / scores.std(dim=1, keepdim=True)
    effects = scores + normal(queries, TRAIN, generator=generator)
    masks = torch.rand(subsets, TRAIN, generator=generator).argsort(dim=1) < TRAIN // 2
    sums = masks.double() @ effects.T
    losses = -(sums + 0.8 * sums.std(dim=0) * normal(*sums.shape, generator=generator))
    return Bank(loadings, GroundTruth(masks=masks, losses=losses, diverged=0, dropped=0))


def draw_traces(
    bank: Bank, generator: torch.Generator, *, chains: int, draws: int, memory: float
) -> tuple[Tensor, Tensor]:
    """Draw losses of the queries and of the training examples, (chain, draw, example)."""
    state = normal(chains, MODES, generator=generator)
    states = []
    for _ in range(draws):
        state = memory * state + (1 - memory**2) ** 0.5 * normal(chains, MODES, generator=generator)
        states.append(state * SIZES)
    moved = torch.stack(states, dim=1)
    query, train = (moved @ loadings.T for loadings in (bank.loadings, train_loadings()))
    return tuple(losses + OWN * normal(*losses.shape, generator=generator) for losses in (query, train))
