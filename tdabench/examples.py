"""Examples: tensors by name, whose first axis is the example. What every room calls them."""

from collections.abc import Iterator

import torch
from torch import Tensor

Examples = dict[str, Tensor]
# As transformers marks labels that don't count.
IGNORED = -100

# Logits that are in memory at once when nothing is trained: a vocabulary is large.
TOKENS_AT_ONCE = 4096


def num_examples(examples: Examples) -> int:
    """Return the length of the first axis.

    Raises:
        ValueError: If the tensors' lengths differ.
    """
    lengths = {name: len(values) for name, values in examples.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Examples must have one length, got {lengths}.")
    return next(iter(lengths.values()))


def device_of(examples: Examples) -> torch.device:
    """Return the device that the examples lie on."""
    return next(iter(examples.values())).device


def is_text(examples: Examples) -> bool:
    """Say whether the examples are rows of tokens: then they have ``input_ids`` and ``labels``."""
    return "input_ids" in examples


def inputs_of(examples: Examples) -> Tensor:
    """Return what a model is called with: images, or rows of tokens."""
    return examples["input_ids" if is_text(examples) else "image"]


def take(examples: Examples, chosen: Tensor | slice) -> Examples:
    """Choose examples by index or slice."""
    return {name: values[chosen] for name, values in examples.items()}


def batches(examples: Examples, size: int) -> Iterator[Examples]:
    """Split examples into consecutive batches of at most ``size``."""
    for start in range(0, num_examples(examples), size):
        yield take(examples, slice(start, start + size))


def batch_size_of(examples: Examples, most: int = 500) -> int:
    """Return how many examples may be in memory at once when only losses are measured."""
    return max(1, min(most, TOKENS_AT_ONCE // examples["input_ids"].shape[1])) if is_text(examples) else most
