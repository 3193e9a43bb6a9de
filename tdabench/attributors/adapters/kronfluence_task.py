"""What kronfluence must know of a problem: the losses, and the labels of the Fisher."""

import torch
from jaxtyping import Bool, Float, Int
from kronfluence.task import Task
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.adapters.token_rows import counted_tokens, predict_tokens, predicting_tokens
from tdabench.attributors.base import Examples, Problem, num_examples
from tdabench.attributors.running.passes import GRADIENT, counted
from tdabench.examples import is_text


def make_task(problem: Problem, layers: list[str]) -> Task:
    """Make kronfluence's task of a problem: summed training loss with sampled labels, the loss as measurement."""
    return (_make_language_task if is_text(problem.train) else _make_image_task)(problem, layers)


def _make_image_task(problem: Problem, layers: list[str]) -> Task:
    class ClassificationTask(Task):
        def compute_train_loss(self, batch: Examples, model: nn.Module, sample: bool = False) -> Tensor:
            if not sample:
                return problem.loss(model, batch).sum()
            with counted(GRADIENT * num_examples(batch)):
                logits = model(batch["image"]).float()
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(dim=-1), num_samples=1).flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Examples, model: nn.Module) -> Tensor:
            return problem.loss(model, batch).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return ClassificationTask()


def _make_language_task(problem: Problem, layers: list[str]) -> Task:
    class LanguageTask(Task):
        def compute_train_loss(self, batch: Examples, model: nn.Module, sample: bool = False) -> Tensor:
            if not sample:
                return problem.loss(model, batch).sum()
            # The token after a position is sampled where the next one counts: prompts and padding have no label.
            predicted = counted_tokens(batch["labels"])[:, 1:]
            with counted(GRADIENT * num_examples(batch)):
                logits = predict_tokens(model, batch["input_ids"])[:, :-1][predicted].float()
            return functional.cross_entropy(logits, sample_tokens(logits.detach()), reduction="sum")

        def compute_measurement(self, batch: Examples, model: nn.Module) -> Tensor:
            return problem.loss(model, batch).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

        def get_attention_mask(self, batch: Examples) -> Bool[Tensor, "example position"]:
            return predicting_tokens(batch["labels"])

    return LanguageTask()


def sample_tokens(logits: Float[Tensor, "token vocabulary"]) -> Int[Tensor, " token"]:
    """Sample a label of each token from the global stream of the CPU.

    By the inverse of the distribution function: one number a token, so that batches of another size sample the same.
    """
    shares = logits.softmax(dim=-1).cumsum(dim=-1)
    heights = torch.rand(len(logits), 1).to(shares) * shares[:, -1:]
    return torch.searchsorted(shares, heights, right=True).flatten().clamp_max(logits.shape[-1] - 1)
