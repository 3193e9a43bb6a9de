"""The interface of every method: a problem goes in, scores come out."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Examples = dict[str, Tensor]
LossFn = Callable[[nn.Module, Examples], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What a method may see.

    Attributes:
        models: Trained checkpoints in eval mode; ``models[0]`` is the one attributed, ensembles use all.
        loss: ``(model, examples) -> (example,)``: each example's loss in nats, without label smoothing.
        train: The attribution set: ``image`` (channels last, normalised) and ``label``.
        query: The queries, in the same form.
        reference: The data that defines the loss landscape (curvature factors, SGLD's minibatches).
        workspace: Folder for scratch files, empty at the start; its growth counts as the method's disk use.
        token_loss: ``(model, examples) -> (example, position)``, for language models only.
    """

    models: tuple[nn.Module, ...]
    loss: LossFn
    train: Examples
    query: Examples
    reference: Examples
    workspace: Path
    token_loss: LossFn | None = None


@runtime_checkable
class Attributor(Protocol):
    """A method: a frozen dataclass of its settings, with one method."""

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Score every training example for every query.

        Positive means helpful: more weight on the training example is predicted to lower the query's loss.

        Args:
            generator: The only source of randomness; the same seed gives the same scores.

        Raises:
            Unsupported: If the method can't run on this problem; the table then shows the reason.
        """
        ...


@runtime_checkable
class ChainAttributor(Attributor, Protocol):
    """A method whose chains are independent: the workflow makes a job of each, and so can resume and run them abreast.

    ``attribute`` is ``score_chains`` of all its chains. The workflow asks for ``chains`` jobs where the experiment file
    has that key; without it the method is one job.

    Attributes:
        chains: How many. A chain doesn't depend on it: with more of them, those that are there stay.
    """

    chains: int

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample one chain.

        Args:
            chain: Which one, from 0.
            generator: The same for every chain: derive the chain's own stream from it
                (``tdabench.attributors.chains.chain_generator``).

        Returns:
            What ``score_chains`` needs of it, as tensors by name.
        """
        ...

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Score every training example for every query, from all chains in their order."""
        ...


class Unsupported(Exception):
    """Raised by a method that can't run on a problem; the message says why, for the table."""


def num_examples(examples: Examples) -> int:
    """Give the length of the first axis.

    Raises:
        ValueError: If the tensors' lengths differ.
    """
    lengths = {name: len(values) for name, values in examples.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Examples must have one length, got {lengths}.")
    return next(iter(lengths.values()))


def take(examples: Examples, chosen: Tensor | slice) -> Examples:
    """Choose examples by index or slice."""
    return {name: values[chosen] for name, values in examples.items()}


def batches(examples: Examples, size: int) -> Iterator[Examples]:
    """Split examples into consecutive batches of at most ``size``."""
    for start in range(0, num_examples(examples), size):
        yield take(examples, slice(start, start + size))


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model, in eval mode, so that a library may change it."""
    return copy.deepcopy(model).eval()
