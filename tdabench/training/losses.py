"""THE loss: what models are trained by, attributed on, and the bank is measured by; of images and of language."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tdabench.examples import Examples, is_text


@dataclasses.dataclass(frozen=True)
class Losses:
    """The losses of one kind of examples.

    Attributes:
        loss: ``(model, examples) -> (example,)``, nats, without label smoothing.
        loss_and_margin: Both, each (example,).
        mean_loss: ``(model, examples, label_smoothing) -> ()``: what training minimises.
        token_loss: ``(model, examples) -> (example, position)``, of language.
    """

    loss: Callable[[nn.Module, Examples], Tensor]
    loss_and_margin: Callable[[nn.Module, Examples], tuple[Tensor, Tensor]]
    mean_loss: Callable[[nn.Module, Examples, float], Tensor]
    token_loss: Callable[[nn.Module, Examples], Tensor] | None = None


def losses_of(examples: Examples) -> Losses:
    """Return the losses of examples of this kind."""
    if is_text(examples):
        return Losses(language_loss, language_loss_and_margin, _mean_token_loss, token_loss)
    return Losses(image_loss, image_loss_and_margin, _mean_image_loss)


def image_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Cross-entropy of each example's label, in nats, without label smoothing."""
    return functional.cross_entropy(model(examples["image"]).float(), examples["label"], reduction="none")


def image_loss_and_margin(
    model: nn.Module, examples: Examples
) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
    """Return loss and margin: the label's logit minus the log-sum-exp of the others (Park et al., 2023, TRAK)."""
    logits = model(examples["image"]).float()
    loss = functional.cross_entropy(logits, examples["label"], reduction="none")
    return loss, _margins(logits, examples["label"])


def token_loss(model: nn.Module, examples: Examples) -> Float[Tensor, "example position"]:
    """Return each token's cross-entropy given those before it, in nats; 0 where it doesn't count."""
    logits, labels = _predictions(model, examples)
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return functional.pad(losses.view_as(labels), (1, 0))  # nothing predicts the first token


def language_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Return each row's loss in nats: the sum, not the mean, over its tokens that count."""
    return token_loss(model, examples).sum(dim=1)


def language_loss_and_margin(
    model: nn.Module, examples: Examples
) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
    """Return each row's loss and margin, both summed over its tokens that count.

    A token's margin is its logit minus the log-sum-exp of the others (Park et al., 2023, TRAK).
    """
    logits, labels = _predictions(model, examples)
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    counted = labels >= 0
    margins = _margins(logits, labels.clamp(min=0)).where(counted, 0)
    return losses.sum(dim=1), margins.sum(dim=1)


def _predictions(
    model: nn.Module, examples: Examples
) -> tuple[Float[Tensor, "example position vocabulary"], Int[Tensor, "example position"]]:
    """Return the logits of every token but the first, and what it is, or -100."""
    logits = model(input_ids=examples["input_ids"], use_cache=False).logits
    return logits[:, :-1].float(), examples["labels"][:, 1:]


def _margins(logits: Float[Tensor, "... option"], labels: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    labels = labels[..., None]
    others = logits.scatter(-1, labels, -torch.inf).logsumexp(dim=-1)
    return logits.gather(-1, labels).squeeze(-1) - others


def _mean_image_loss(model: nn.Module, batch: Examples, label_smoothing: float) -> Float[Tensor, ""]:
    logits = model(batch["image"]).float()
    return functional.cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)


def _mean_token_loss(model: nn.Module, batch: Examples, label_smoothing: float) -> Float[Tensor, ""]:
    """Return the mean over all of a batch's tokens that count."""
    logits, labels = _predictions(model, batch)
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)
