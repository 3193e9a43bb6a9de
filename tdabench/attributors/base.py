"""The interface of every method: a problem goes in, scores come out."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.examples import Examples as Examples  # authors of a method find them here
from tdabench.examples import batches as batches
from tdabench.examples import device_of as device_of
from tdabench.examples import num_examples as num_examples
from tdabench.examples import take as take
from tdabench.seeds import fork_generator

LossFn = Callable[[nn.Module, Examples], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What a method may see.

    Attributes:
        models: Trained checkpoints in eval mode; ``models[0]`` is the one attributed, ensembles use all. Of images they
            give logits, ``model(image)``; of language what transformers gives, ``model(input_ids=...).logits``.
        loss: ``(model, examples) -> (example,)``: each example's loss in nats, without label smoothing.
        train: The attribution set: ``image`` (channels last, normalised) and ``label``; or of language ``input_ids``
            and ``labels``, which are -100 where a token doesn't count (padding on the right, a prompt on the left).
        query: The queries, in the same form.
        reference: The data that defines the loss landscape (curvature factors, SGLD's minibatches).
        workspace: Folder for scratch files, empty at the start; its growth counts as the method's disk use.
        token_loss: ``(model, examples) -> (example, position)``, for language models only: each token's loss given
            those before it, 0 where it doesn't count; ``loss`` is its sum over positions.
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
            generator: The same for every chain: derive the chain's own stream from it with ``chain_generator``.

        Returns:
            What ``score_chains`` needs of it, as tensors by name.
        """
        ...

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Score every training example for every query, from all chains in their order."""
        ...


@runtime_checkable
class TokenAttributor(Attributor, Protocol):
    """A method that can score tokens too, where the problem has ``token_loss``.

    One with independent chains may have ``sample_token_chain`` and ``score_token_chains`` beside it, in the form of
    ``ChainAttributor``'s methods.
    """

    def attribute_tokens(
        self, problem: Problem, *, generator: torch.Generator
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Score every token of the training examples for every token of the queries; positive means helpful.

        A token that doesn't count (the first, a prompt, padding) has exactly 0. With the generator that ``attribute``
        gets, the scores are about the same draws.

        Raises:
            Unsupported: If the problem has no tokens.
        """
        ...


@runtime_checkable
class TrainTokenAttributor(Attributor, Protocol):
    """A method that can score training tokens for whole queries, where the problem has ``token_loss``."""

    def attribute_train_tokens(
        self, problem: Problem, *, generator: torch.Generator
    ) -> Float[Tensor, "query train position"]:
        """Score every token of the training examples for every query; positive means helpful.

        Their sum over positions is what ``attribute`` gives with the same generator. What a position stands for is the
        method's: its token's loss, or what passes through it.

        Raises:
            Unsupported: If the problem has no tokens.
        """
        ...


@runtime_checkable
class Calibrated(Attributor, Protocol):
    """A method that can find settings by itself: those of its fields that say ``auto``.

    The workflow calibrates in a job of its own, and gives every other job of the method what was found.
    """

    def calibrate(self, problem: Problem, *, generator: torch.Generator) -> dict[str, Any]:
        """Find settings, from the model and the training data alone: no query's loss or label may be looked at.

        Nor may ``chains``, ``draws`` or ``estimate`` matter, where there are such settings: the workflow doesn't
        calibrate again when they change.

        Args:
            generator: As ``attribute`` gets it. Derive a stream from its ``initial_seed()``, so that it is not moved.

        Returns:
            ``proposed``: values by setting, at least of those that say ``auto``; beside it, as JSON can hold, what
            they rest on.
        """
        ...


@runtime_checkable
class Restricted(Attributor, Protocol):
    """A method that looks at some of a model's parameters only, and can say at how many."""

    def count_tracked(self, problem: Problem) -> int:
        """Count them; values are not looked at, which a model on the device ``meta`` does not have."""
        ...


@runtime_checkable
class Batched(Attributor, Protocol):
    """A method whose memory ends to grow where its batches are full, and that can say where: then a plan knows it.

    The memory of a method that doesn't say is taken to grow with every example and query.
    """

    def batch_sizes(self, problem: Problem) -> dict[str, int] | None:
        """Return the most examples of ``train``, ``query`` and ``reference`` that it works on at once.

        Beside them it may hold all examples, its losses and its scores.

        Args:
            problem: One with fewer examples than a batch may have; they are no limit.

        Returns:
            By part; 0 for one that is not used. A part that is missing has no limit; None: nor has any other.
        """
        ...


@runtime_checkable
class SelfInfluential(Attributor, Protocol):
    """A method with a cheaper way to its scores of the training examples for themselves.

    ``normalize: self`` asks for them. Other methods are asked for scores with the training examples as queries.
    """

    def self_influence(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, " train"]:
        """Return the diagonal of what ``attribute`` gives if the queries are the training examples.

        It is called after ``attribute`` or ``score_chains``, with the same problem: what they left in the workspace is
        there to be used.

        Args:
            generator: As ``attribute`` gets it, from its start.

        Raises:
            Unsupported: If there is no such thing; the table then shows the reason.
        """
        ...


class Unsupported(Exception):
    """Raised by a method that can't run on a problem; the message says why, for the table."""


class OutOfDisk(ValueError):
    """Raised by a method that has too little room for its factors; a scaling experiment shows it as a run's result."""


class Diverged(ValueError):
    """Raised by a method none of whose draws can be used; a sweep shows it as a point's result."""


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model, in eval mode, so that a library may change it."""
    return copy.deepcopy(model).eval()


def chain_generator(problem: Problem, chain: int, generator: torch.Generator) -> torch.Generator:
    """Return the stream of a chain, on the examples' device; the method's generator is left where it is.

    So chains can be sampled in any order, in any number of processes.

    Args:
        chain: Which one, from 0.
        generator: The method's, as ``attribute`` gets it.
    """
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    return [fork_generator(copy, device_of(problem.train)) for _ in range(chain + 1)][-1]
