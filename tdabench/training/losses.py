"""THE loss: what models are attributed on and the bank is measured by."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Examples = dict[str, Tensor]


def image_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Cross-entropy of each example's label, in nats, without label smoothing."""
    return functional.cross_entropy(model(examples["image"]).float(), examples["label"], reduction="none")


def image_loss_and_margin(
    model: nn.Module, examples: Examples
) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
    """Give the loss and the margin: the label's logit minus the log-sum-exp of the others (Park et al., 2023, TRAK)."""
    logits = model(examples["image"]).float()
    loss = functional.cross_entropy(logits, examples["label"], reduction="none")
    labels = examples["label"][:, None]
    others = logits.scatter(1, labels, -torch.inf).logsumexp(dim=1)
    return loss, logits.gather(1, labels).squeeze(1) - others
