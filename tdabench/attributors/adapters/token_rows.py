"""Rows of tokens, as the methods for language models read them: which count, and which only pad."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# The label of a token that doesn't count, as in transformers.
IGNORED = -100
# Tokens of a batch by default: enough to keep the cores busy, and their logits over 50,000 words take 0.4 GiB.
BATCH_TOKENS = 2048


def counted_tokens(labels: Int[Tensor, "example position"]) -> Bool[Tensor, "example position"]:
    """Tell which tokens' losses count; a row's first never does, since nothing predicts it."""
    counted = labels != IGNORED
    counted[:, 0] = False
    return counted


def real_tokens(labels: Int[Tensor, "example position"]) -> Bool[Tensor, "example position"]:
    """Tell which tokens are no padding: those up to the last one that counts, a prompt's with them."""
    return counted_tokens(labels).flip(1).cummax(dim=1).values.flip(1)


def predicting_tokens(labels: Int[Tensor, "example position"]) -> Bool[Tensor, "example position"]:
    """Tell which tokens stand before one that counts: the positions that its loss's gradient goes through."""
    real = real_tokens(labels)
    return torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)


def predict_tokens(
    model: nn.Module, tokens: Int[Tensor, "example position"]
) -> Float[Tensor, "example position vocabulary"]:
    """Return the logits of the token after each position. Padding on the right is unseen by what stands before it."""
    return model(input_ids=tokens, use_cache=False).logits
