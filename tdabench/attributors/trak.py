"""TRAK through traker (Park et al., 2023, arXiv:2303.14186)."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from trak import TRAKer
from trak.gradient_computers import AbstractGradientComputer, FunctionalGradientComputer
from trak.modelout_functions import AbstractModelOutput

from tdabench.attributors.adapters.kronfluence_layers import output_embeddings
from tdabench.attributors.adapters.token_rows import BATCH_TOKENS
from tdabench.attributors.adapters.traker_margins import RowOutput, compute_in_chunks
from tdabench.attributors.base import Examples, Problem, Unsupported, batches, copy_model, device_of, num_examples
from tdabench.attributors.running.passes import FORWARD, GRADIENT, counted
from tdabench.attributors.sampling.restriction import require_patterns, restrict_model
from tdabench.cost import phase
from tdabench.examples import is_text
from tdabench.runtime.progress import progress
from tdabench.seeds import isolated_random_state

# Memory of a batch's gradients by default, for language models.
GRADIENT_BYTES = 2**30

# Makes batches as traker takes them, each with how many examples it has.
Batches = Callable[[], Iterator[tuple[tuple[Tensor, Tensor], int]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TRAK:
    """Kernel regression on randomly projected gradients of the margin, averaged over an ensemble of checkpoints.

    The ensemble is the problem's checkpoints: models trained on the whole attribution set, apart from the bank.
    Gradients are float32, of the parameters that are trained.

    A row of tokens is as many classifications as it has tokens that count: see ``margins.RowOutput``. Gradients of a
    language model's embeddings, input and output, are left out unless ``restrict`` says otherwise, as they are left out
    of EK-FAC: they are most of a small model's parameters (12.9 of Pythia-14M's 14.1 million), and traker draws a
    random number for each parameter and dimension of the projection, anew for every batch.

    Attributes:
        proj_dim: Dimension of the projection; traker needs more than 100 and fewer than the training examples
            (otherwise it breaks, or returns garbage silently: refused here). ``null`` means half the training examples,
            at most 4,096.
        checkpoints: Number of checkpoints to use, from the first on; ``null`` means all.
        batch_size: Examples whose gradients are in memory at once; ``null``: 250 images, or as many rows of tokens (at
            most 1,000) as have gradients of 1 GiB. Fewer batches are faster.
        regularization: Ridge added to the projected gradients' Gram matrix.
        restrict: Which parameters have gradients, by patterns of names (see ``restriction.restrict_model``); ``null``:
            all of an image model, all but the embeddings of a language model. ``["*"]``: all.
    """

    proj_dim: int | None = None
    checkpoints: int | None = None
    batch_size: int | None = None
    regularization: float = 0.0
    restrict: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.proj_dim is not None and self.proj_dim <= 100:
            raise ValueError(f"proj_dim must be above 100 (traker's projector breaks otherwise), got {self.proj_dim}.")
        for name, low in {"checkpoints": 1, "batch_size": 1, "regularization": 0}.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        require_patterns(self.restrict)

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Featurize the training set with every checkpoint, then score the queries.

        Raises:
            Unsupported: If the examples are neither labelled images nor rows of tokens, or there are too few of them or
                of the checkpoints.
            ValueError: If a pattern of ``restrict`` matches nothing.
        """
        num_train, num_query = num_examples(problem.train), num_examples(problem.query)
        proj_dim = min(num_train // 2, 4096) if self.proj_dim is None else self.proj_dim
        self._require_support(problem, num_train, proj_dim)
        states = [model.state_dict() for model in problem.models[: self.checkpoints]]
        model = self._restrict(problem)
        names, batch_size, task, computer = self._adapt(problem, model)
        projector_seed = int(torch.randint(2**20, (), generator=generator, device=generator.device).item())
        with isolated_random_state(generator), _logging_untouched():
            traker = TRAKer(
                model=model,
                task=task,
                train_set_size=num_train,
                save_dir=str(problem.workspace / "traker"),
                load_from_save_dir=True,
                device=str(device_of(problem.train)),
                gradient_computer=computer,
                proj_dim=proj_dim,
                use_half_precision=False,
                projector_seed=projector_seed,
                lambda_reg=self.regularization,
                logging_level=logging.WARNING,
            )
            _featurize(traker, states, lambda: _as_tuples(problem.train, names, batch_size))
            return _score(traker, states, lambda: _as_tuples(problem.query, names, batch_size), num_query)

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Return the most examples whose gradients are in memory at once."""
        _, size, _, _ = self._adapt(problem, self._restrict(problem))
        return {"train": size, "query": size, "reference": 0}

    def _restrict(self, problem: Problem) -> nn.Module:
        """Return a copy of the first model whose only parameters are those with gradients; the others are buffers.

        traker differentiates every parameter, and drops what is not asked for afterwards.
        """
        model = copy_model(restrict_model(problem.models[0], self.restrict))
        if self.restrict is None and is_text(problem.train):
            outputs = output_embeddings(model)
            for name, module in model.named_modules():
                if isinstance(module, nn.Embedding) or name in outputs:
                    module.requires_grad_(False)
        for module in model.modules():
            for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
                if not parameter.requires_grad:
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach())
        return model

    def _adapt(
        self, problem: Problem, model: nn.Module
    ) -> tuple[tuple[str, str], int, AbstractModelOutput | str, type[AbstractGradientComputer]]:
        """Return what traker needs of examples: their tensors' names, how many at a time, and what to differentiate."""
        if not is_text(problem.train):
            return ("image", "label"), self.batch_size or 250, "image_classification", FunctionalGradientComputer
        size = GRADIENT_BYTES // (4 * sum(parameter.numel() for parameter in model.parameters()))
        rows = max(1, BATCH_TOKENS // problem.train["input_ids"].shape[1])
        return ("input_ids", "labels"), self.batch_size or max(1, min(size, 1000)), RowOutput(), compute_in_chunks(rows)

    def _require_support(self, problem: Problem, num_train: int, proj_dim: int) -> None:
        if not is_text(problem.train) and not {"image", "label"} <= problem.train.keys():
            raise Unsupported(f"TRAK needs image and label, or input_ids and labels, got {', '.join(problem.train)}.")
        if not 100 < proj_dim < num_train:
            raise Unsupported(
                f"TRAK needs a proj_dim above 100 and below the number of training examples ({num_train}), "
                f"got {proj_dim}."
            )
        if self.checkpoints is not None and self.checkpoints > len(problem.models):
            raise Unsupported(
                f"TRAK is asked for {self.checkpoints} checkpoints and there are {len(problem.models)}: "
                "raise the experiment's key checkpoints."
            )


def _featurize(traker: TRAKer, states: list[dict[str, Tensor]], make_batches: Batches) -> None:
    with phase("fit"):
        for index, state in enumerate(progress(states, "TRAK features")):
            traker.load_checkpoint(state, model_id=index)
            for batch, count in make_batches():
                with counted((GRADIENT + FORWARD) * count):  # a margin's gradient, then the loss's weight
                    traker.featurize(batch, num_samples=count)
        traker.finalize_features()


def _score(
    traker: TRAKer, states: list[dict[str, Tensor]], make_batches: Batches, num_query: int
) -> Float[Tensor, "query train"]:
    for index, state in enumerate(progress(states, "TRAK queries")):
        traker.start_scoring_checkpoint("queries", state, model_id=index, num_targets=num_query)
        for batch, count in make_batches():
            with counted(GRADIENT * count):
                traker.score(batch, num_samples=count)
    # traker gives (train, query); positive means that the example raises the query's margin: helpful.
    return torch.as_tensor(traker.finalize_scores("queries")).T.clone()


def _as_tuples(examples: Examples, names: tuple[str, str], size: int) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
    """Return batches as traker takes them, and how many examples each has."""
    for batch in batches(examples, size):
        yield tuple(batch[name] for name in names), num_examples(batch)


@contextlib.contextmanager
def _logging_untouched():
    """Undo traker's ``logging.basicConfig``."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
