"""TRAK through traker (Park et al., 2023, arXiv:2303.14186)."""

import contextlib
import dataclasses
import logging

import torch
from jaxtyping import Float
from torch import Tensor
from trak import TRAKer

from tdabench.attributors.base import Problem, Unsupported, batches, copy_model, num_examples
from tdabench.attributors.passes import FORWARD, GRADIENT, counted
from tdabench.cost import phase
from tdabench.progress import progress
from tdabench.seeds import isolated_random_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class TRAK:
    """Kernel regression on randomly projected gradients of the margin, averaged over an ensemble of checkpoints.

    The ensemble is the problem's checkpoints: models trained on the whole attribution set, apart from the bank.
    Gradients are float32, of the parameters that are trained.

    Attributes:
        proj_dim: Dimension of the projection; traker needs more than 100 and fewer than the training examples
            (otherwise it breaks, or returns garbage silently: refused here). ``null`` means half the training examples,
            at most 4,096.
        checkpoints: Number of checkpoints to use, from the first on; ``null`` means all.
        batch_size: Examples whose gradients are in memory at once.
        regularization: Ridge added to the projected gradients' Gram matrix.
    """

    proj_dim: int | None = None
    checkpoints: int | None = None
    batch_size: int = 250
    regularization: float = 0.0

    def __post_init__(self) -> None:
        if self.proj_dim is not None and self.proj_dim <= 100:
            raise ValueError(f"proj_dim must be above 100 (traker's projector breaks otherwise), got {self.proj_dim}.")
        for name, low in {"checkpoints": 1, "batch_size": 1, "regularization": 0}.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Featurize the training set with every checkpoint, then score the queries.

        Raises:
            Unsupported: If the problem is not image classification, or has too few examples or checkpoints.
        """
        num_train, num_query = num_examples(problem.train), num_examples(problem.query)
        proj_dim = min(num_train // 2, 4096) if self.proj_dim is None else self.proj_dim
        self._require_support(problem, num_train, proj_dim)
        states = [model.state_dict() for model in problem.models[: self.checkpoints]]
        trainable = [name for name, value in problem.models[0].named_parameters() if value.requires_grad]
        projector_seed = int(torch.randint(2**20, (), generator=generator, device=generator.device).item())
        with isolated_random_state(generator), _logging_untouched():
            traker = TRAKer(
                model=copy_model(problem.models[0]),
                task="image_classification",
                train_set_size=num_train,
                save_dir=str(problem.workspace / "traker"),
                load_from_save_dir=True,
                device=str(problem.train["image"].device),
                proj_dim=proj_dim,
                use_half_precision=False,
                projector_seed=projector_seed,
                grad_wrt=trainable,
                lambda_reg=self.regularization,
                logging_level=logging.WARNING,
            )
            with phase("fit"):
                for index, state in enumerate(progress(states, "TRAK features")):
                    traker.load_checkpoint(state, model_id=index)
                    for batch in batches(problem.train, self.batch_size):
                        count = num_examples(batch)
                        with counted((GRADIENT + FORWARD) * count):  # a margin's gradient, then the loss's weight
                            traker.featurize((batch["image"], batch["label"]), num_samples=count)
                traker.finalize_features()
            for index, state in enumerate(progress(states, "TRAK queries")):
                traker.start_scoring_checkpoint("queries", state, model_id=index, num_targets=num_query)
                for batch in batches(problem.query, self.batch_size):
                    count = num_examples(batch)
                    with counted(GRADIENT * count):
                        traker.score((batch["image"], batch["label"]), num_samples=count)
            # traker gives (train, query); positive means that the example raises the query's margin: helpful.
            return torch.as_tensor(traker.finalize_scores("queries")).T.clone()

    def _require_support(self, problem: Problem, num_train: int, proj_dim: int) -> None:
        if "image" not in problem.train or "label" not in problem.train:
            raise Unsupported(f"traker's image classification needs image and label, got {', '.join(problem.train)}.")
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
