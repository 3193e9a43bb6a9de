"""Losses that are linear in the parameters, which lie in several tensors: an example's gradient is its ``slope``."""

import torch
from torch import Tensor, nn

from tdabench.attributors.base import Examples


class Linear(nn.Module):
    """The parameters, one tensor a block."""

    def __init__(self, *blocks: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ParameterList(nn.Parameter(block.clone()) for block in blocks)

    def forward(self, slope: Tensor) -> Tensor:
        return slope @ torch.cat(list(self.blocks))


def linear_loss(model: nn.Module, examples: Examples) -> Tensor:
    return model(examples["slope"])
