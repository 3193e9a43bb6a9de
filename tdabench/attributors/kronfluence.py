"""EK-FAC, K-FAC, diagonal Fisher and GradSim through kronfluence (Grosse et al., 2023, arXiv:2308.03296)."""

import dataclasses
import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.utils.common.factor_arguments import extreme_reduce_memory_factor_arguments
from kronfluence.utils.common.score_arguments import extreme_reduce_memory_score_arguments
from torch import Tensor

from tdabench.attributors.adapters.kronfluence_analyzer import ExampleDataset, compare_with_autograd, open_analyzer
from tdabench.attributors.adapters.kronfluence_factors import gradients_within, require_disk
from tdabench.attributors.adapters.kronfluence_layers import find_layers, output_embeddings
from tdabench.attributors.adapters.kronfluence_processes import data_parallel
from tdabench.attributors.adapters.token_rows import BATCH_TOKENS
from tdabench.attributors.base import Problem, Unsupported, num_examples
from tdabench.attributors.running.run import AttributionWarning
from tdabench.cost import phase
from tdabench.examples import is_text

# Memory of the queries' preconditioned gradients by default, for language models.
QUERY_BYTES = 2**30
# Parts of the layers that are scored one after the other with low_memory: kronfluence's own number.
SCORE_PARTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kronfluence:
    r"""Influence with a factored Gauss-Newton Hessian: :math:`g_j^T (H + \lambda I)^{-1} g_i`, by kronfluence.

    kronfluence tracks exact ``nn.Linear`` and ``nn.Conv2d`` layers only; other parameters are left out, and so are
    layers whose weight is frozen. Layers that it would compute wrongly (grouped convolutions, shared parameters,
    modules that a pass calls several times or never) are left out too, and a warning names them. Before every run a few
    products of gradients are compared with autograd's. Its labels of the Fisher are sampled from the model; the
    sampling is seeded.

    Of language models the output embedding (``embed_out`` of GPT-NeoX, ``lm_head`` of others) is left out as well: its
    factor would have the square of the vocabulary's size. A warning says so. The Fisher's labels are sampled where a
    token counts, and padding enters no factor. A factor's layer sees tokens as examples of their own, but ``ekfac``
    and ``diagonal`` correct its eigenvalues by whole rows: one damping means another thing to ``kfac``.

    Attributes:
        strategy: ``ekfac``, ``kfac``, ``diagonal``, or ``identity`` (GradSim: plain gradient dot products).
        damping: :math:`\lambda`; ``null`` means 0.1 times each layer's mean eigenvalue. ``identity`` ignores it.
        fit_batch_size: Examples a batch when fitting the factors; ``null``: 250 images, or rows of 2,048 tokens in all.
        train_batch_size: Training examples a batch when scoring; ``null`` as for the fit.
        query_batch_size: Queries whose gradients are in memory when scoring; training gradients are computed once for
            each such batch. ``null``: 1,000 images, or what fits in 1 GiB.
        low_memory: Whether to compute in bfloat16, keep activations in host memory, and go through the layers in four
            parts (kronfluence's "extreme reduce memory"): other scores, and about four times the passes of scoring.
        processes: Processes that share the examples, each with a GPU of its own (kronfluence's data parallelism). With
            another number of them the Fisher's labels are sampled otherwise, and the scores are others.
    """

    strategy: str
    damping: float | None = None
    fit_batch_size: int | None = None
    train_batch_size: int | None = None
    query_batch_size: int | None = None
    low_memory: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in ("ekfac", "kfac", "diagonal", "identity"):
            raise ValueError(f"strategy must be ekfac, kfac, diagonal or identity, got {self.strategy!r}.")
        if self.damping is not None and not self.damping >= 0:
            raise ValueError(f"damping must be at least 0 or null, got {self.damping}.")
        for name in ("fit_batch_size", "train_batch_size", "query_batch_size", "processes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Fit the factors on the reference set and score every pair.

        Raises:
            Unsupported: If the model has no layer that kronfluence can track, or has several processes and no GPU.
            ValueError: If the factors don't fit on the disk.
        """
        _prepare(self, problem)
        return self._share(attribute_part, problem, generator)

    def self_influence(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, " train"]:
        """Score every training example for itself, with the factors that ``attribute`` left in the workspace.

        Raises:
            Unsupported: As ``attribute``.
        """
        return self._share(self_influence_part, problem, generator)

    def _share(self, function: Callable[..., Tensor], problem: Problem, generator: torch.Generator) -> Tensor:
        """Let one process do all of a function's work, or several share it."""
        if self.processes == 1:
            return function(self, problem, generator)
        if not next(iter(problem.train.values())).is_cuda:
            raise Unsupported(f"{self.processes} processes share kronfluence's work on GPUs only: set processes to 1.")
        with data_parallel(function, self, problem, processes=self.processes, generator=generator):
            return function(self, problem, generator)

    def count_tracked(self, problem: Problem) -> int:
        """Count the parameters of the layers that kronfluence tracks."""
        model = problem.models[0]
        layers = [model.get_submodule(name) for name in find_layers(problem).tracked]
        return sum(parameter.numel() for layer in layers for parameter in layer.parameters())

    def attribute_train_tokens(
        self, problem: Problem, *, generator: torch.Generator
    ) -> Float[Tensor, "query train position"]:
        """Score every position of every training row for every query as a whole; their sum is what ``attribute`` gives.

        A position's part of a gradient is the product of its activations and of what the losses of the tokens after it
        send back to it (Grosse et al., 2023, tokenwise attribution): what the row says at a position, not the loss of
        that token. The last token that counts, and padding, are 0.

        Raises:
            Unsupported: As ``attribute``; also if the examples are no rows of tokens, or for several processes.
            ValueError: If the factors don't fit on the disk.
        """
        if not is_text(problem.train):
            raise Unsupported(f"Scores of tokens need input_ids and labels, got {', '.join(problem.train)}.")
        if self.processes > 1:
            raise Unsupported(f"Scores of tokens are made by one process: set processes to 1, got {self.processes}.")
        _prepare(self, problem)
        return attribute_part(self, problem, generator, per_token=True)

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Return the most examples at once; of queries, those whose gradients are held."""
        fit, train, held = _most_at_once(self, problem, find_layers(problem).tracked)
        return {"reference": 0 if self.strategy == "identity" else fit, "train": train, "query": held}


def _prepare(attributor: Kronfluence, problem: Problem) -> None:
    """Check what can be checked before the fit, and say what is left out."""
    layers = find_layers(problem)
    if layers.left_out:
        warnings.warn(AttributionWarning(layers.describe(problem.models[0])), stacklevel=3)
    left_out = output_embeddings(problem.models[0]) if is_text(problem.train) else []
    if left_out:
        message = f"the output embedding ({', '.join(left_out)}) is left out of the layers"
        warnings.warn(AttributionWarning(message), stacklevel=3)
    require_disk(
        problem.models[0],
        layers.tracked,
        strategy=attributor.strategy,
        element_bytes=(torch.bfloat16 if attributor.low_memory else torch.float32).itemsize,
        folder=problem.workspace,
    )
    compare_with_autograd(problem, layers.tracked)


def attribute_part(
    attributor: Kronfluence, problem: Problem, generator: torch.Generator, *, per_token: bool = False
) -> Float[Tensor, "query train"] | Float[Tensor, "query train position"]:
    """Do this process's part, and return all scores, whichever process it is."""
    layers = find_layers(problem).tracked
    fit, train, query, accumulated = _batch_sizes(attributor, problem, layers)
    with open_analyzer(problem, layers, processes=attributor.processes, generator=generator) as analyzer:
        with phase("fit"):
            analyzer.fit_all_factors(
                factors_name="factors",
                dataset=ExampleDataset(problem.reference),
                per_device_batch_size=fit,
                factor_args=_factor_arguments(attributor),
            )
        scores_name = "token_scores" if per_token else "scores"
        arguments = _score_arguments(attributor, layers=len(layers))
        arguments.query_gradient_accumulation_steps = accumulated
        arguments.compute_per_token_scores = per_token
        analyzer.compute_pairwise_scores(
            scores_name=scores_name,
            factors_name="factors",
            query_dataset=ExampleDataset(problem.query),
            train_dataset=ExampleDataset(problem.train),
            per_device_query_batch_size=query,
            per_device_train_batch_size=train,
            score_args=arguments,
        )
        # kronfluence's score is the predicted drop of the query's loss: positive means helpful, as here.
        return analyzer.load_pairwise_scores(scores_name)["all_modules"].float()


def self_influence_part(
    attributor: Kronfluence, problem: Problem, generator: torch.Generator
) -> Float[Tensor, " train"]:
    """Do this process's part of the scores of training examples for themselves, and return all of them."""
    layers = find_layers(problem).tracked
    with open_analyzer(problem, layers, processes=attributor.processes, generator=generator) as analyzer:
        analyzer.compute_self_scores(
            scores_name="self_scores",
            factors_name="factors",
            train_dataset=ExampleDataset(problem.train),
            per_device_train_batch_size=_batch_sizes(attributor, problem, layers)[1],
            score_args=_score_arguments(attributor, layers=len(layers)),
        )
        return analyzer.load_self_scores("self_scores")["all_modules"].float()


def _most_at_once(attributor: Kronfluence, problem: Problem, layers: list[str]) -> tuple[int, int, int]:
    """Return the most examples of a batch when fitting, of training examples, and of queries that are held at once."""
    usual, held = 250, 1000
    if is_text(problem.train):
        model = problem.models[0]
        usual = max(1, min(usual, BATCH_TOKENS // problem.train["input_ids"].shape[1]))
        held = gradients_within(model, layers, memory_bytes=QUERY_BYTES)
    return attributor.fit_batch_size or usual, attributor.train_batch_size or usual, attributor.query_batch_size or held


def _batch_sizes(attributor: Kronfluence, problem: Problem, layers: list[str]) -> tuple[int, int, int, int]:
    """Return the batch sizes for fitting, training examples and queries, and how many queries share one pass.

    A batch of queries is no larger than one of training examples where those are rows of tokens: their gradients may
    be few numbers, but their logits are many.
    """
    fit, train, held = _most_at_once(attributor, problem, layers)
    fit = min(fit, num_examples(problem.reference))
    train = min(train, num_examples(problem.train))
    held = min(held, num_examples(problem.query))
    accumulated = math.ceil(held / train) if is_text(problem.train) else 1
    return fit, train, math.ceil(held / accumulated), accumulated


def _factor_arguments(attributor: Kronfluence) -> FactorArguments:
    make = extreme_reduce_memory_factor_arguments if attributor.low_memory else FactorArguments
    return make(strategy=attributor.strategy)


def _score_arguments(attributor: Kronfluence, *, layers: int) -> ScoreArguments:
    if not attributor.low_memory:
        return ScoreArguments(damping_factor=attributor.damping)
    return extreme_reduce_memory_score_arguments(
        damping_factor=attributor.damping, module_partitions=min(SCORE_PARTS, layers)
    )
