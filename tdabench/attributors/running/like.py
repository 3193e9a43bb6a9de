"""What is done with every method's scores alike: divided by self-influence, and averaged over checkpoints."""

import dataclasses
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Attributor, Problem, SelfInfluential, Unsupported, num_examples, take
from tdabench.attributors.estimates.blocks import parts
from tdabench.attributors.running.run import Attribution, check_scores, measure_scores
from tdabench.cost import Cost

NORMALIZE = "normalize"  # the phase that the self-influence costs
# Scores that are made at a time, of which only the diagonal is wanted: 256 MiB of them.
SCORES = 2**26
TOLERANCE = 0.02  # of the largest self-influence: a method may compute in bfloat16


def knows_self_influence(attributor: Attributor) -> bool:
    """Say whether a method has a way of its own to its self-influence."""
    return isinstance(attributor, SelfInfluential) and callable(attributor.self_influence)  # else a setting's name


def measure_self_influence(
    attributor: Attributor, problem: Problem, *, generator: torch.Generator, at_a_time: int = SCORES
) -> Attribution:
    """Return a method's score of each training example for itself; all that it costs is one phase, ``normalize``.

    A method without a way of its own is asked for the scores of the training examples as queries, a block of them after
    the other. Each block gets the generator as it is here: that of the scores makes them scores of the same draws.

    Args:
        problem: That of the scores, whose workspace is as the method left it.
        at_a_time: Most scores of a block.

    Raises:
        Unsupported: If the method says so.
        ValueError: If what it returns has the wrong shape or is not finite, or it changed a model.
    """

    def measure(counted: Problem) -> Tensor:
        if knows_self_influence(attributor):
            return attributor.self_influence(counted, generator=generator)
        return _ask_for_diagonal(attributor, counted, generator, at_a_time)

    def check(found: Tensor) -> None:
        row = found[None] if isinstance(found, Tensor) and found.ndim == 1 else found
        check_scores(row, num_queries=1, num_train=num_examples(problem.train))

    found = measure_scores(attributor, measure, problem, check)
    cost = Cost(found.cost.device)
    cost.add_phases(found.cost, name=NORMALIZE)
    return dataclasses.replace(found, cost=cost)


def _ask_for_diagonal(
    attributor: Attributor, problem: Problem, generator: torch.Generator, at_a_time: int
) -> Float[Tensor, " train"]:
    count, diagonals, state = num_examples(problem.train), [], generator.get_state()
    for rows in parts(count, max(1, at_a_time // count)):
        block = take(problem.train, rows)
        generator.set_state(state)
        with tempfile.TemporaryDirectory(dir=problem.workspace) as folder:
            part = dataclasses.replace(problem, query=block, workspace=Path(folder))
            scores = attributor.attribute(part, generator=generator)
            check_scores(scores, num_queries=num_examples(block), num_train=count)
            diagonals.append(scores.diagonal(offset=rows.start).clone())
    return torch.cat(diagonals)


def check_self_influence(
    attributor: Attributor, problem: Problem, scores: Float[Tensor, "train train"], *, generator: torch.Generator
) -> None:
    """Check that a method's own way to its self-influence, if it has one, gives the diagonal of its scores.

    Args:
        problem: That of the scores, whose queries are the training examples.

    Raises:
        ValueError: If it gives something else.
    """
    if not knows_self_influence(attributor):
        return
    expected = scores.diagonal()
    difference = (measure_self_influence(attributor, problem, generator=generator).scores - expected).abs().max()
    if difference > TOLERANCE * expected.abs().max():
        raise ValueError(
            f"self_influence() of {type(attributor).__name__} differs from its scores of the training examples for "
            f"themselves (largest difference {difference:.3g}): it has to be their diagonal."
        )


def divide_by_self_influence(
    scores: Float[Tensor, "query train"], self_influence: Float[Tensor, " train"]
) -> Float[Tensor, "query train"]:
    r"""Divide each column by the root of its example's self-influence (Barshan et al., 2020, arXiv:2003.11630).

    .. math:: \tau_{ji} / \sqrt{\tau_{ii}}

    A column of zeros stays one.

    Raises:
        Unsupported: If the self-influence of an example with other scores is not positive.
    """
    idle = (scores == 0).all(dim=0)
    wrong = int((~(self_influence > 0) & ~idle).sum())
    if wrong:
        raise Unsupported(
            f"the self-influence of {wrong} of {len(self_influence)} training examples is not positive, so that their "
            "scores can't be divided by its root (normalize: self)"
        )
    return scores / self_influence.where(~idle, 1.0).sqrt()


class MeanScores:
    """The mean of tensors over checkpoints, one after the other; of a single one, that as it is."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Add those of a checkpoint."""
        if self._count == 0:
            self._sums = dict(tensors)
        else:  # float64, so that the mean of equal ones is the same
            self._sums = {name: values.double() + tensors[name] for name, values in self._sums.items()}
        self._count += 1

    def mean(self) -> dict[str, Tensor]:
        """Return the means, as float32 where there are several."""
        if self._count == 1:
            return self._sums
        return {name: (values / self._count).float() for name, values in self._sums.items()}
