"""How large kronfluence's factors are, and how many gradients of a model fit in memory at a time."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tdabench.attributors.base import OutOfDisk


def require_disk(model: nn.Module, layers: Sequence[str], *, strategy: str, element_bytes: int, folder: Path) -> None:
    """Check that the factors fit on the disk, before any of them is fitted.

    Args:
        layers: Names of those that are tracked.
        element_bytes: Of one number of a factor.
        folder: Where they will lie; it need not exist.

    Raises:
        OutOfDisk: If there is too little space.
    """
    needed = element_bytes * sum(factor_numbers(model.get_submodule(name), strategy) for name in layers)
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if needed > free:
        raise OutOfDisk(
            f"The factors of strategy {strategy} take {needed / 2**30:,.2f} GiB on disk ({needed:,} bytes for "
            f"{len(layers)} layers), and {folder} has {free / 2**30:,.2f} GiB free ({free:,} bytes): make room, use "
            "low_memory (half as much), or freeze layers."
        )


def factor_numbers(layer: nn.Module, strategy: str) -> int:
    """Count the numbers that a strategy keeps of an ``nn.Linear`` or ``nn.Conv2d`` layer: its factors' elements."""
    outputs = layer.weight.shape[0]
    inputs = layer.weight.numel() // outputs + (layer.bias is not None)
    # Two covariance matrices, as many eigenvectors, and the eigenvalues.
    factored = 2 * (inputs**2 + outputs**2) + inputs + outputs
    corrected = inputs * outputs
    return {"ekfac": factored + corrected, "kfac": factored, "diagonal": corrected, "identity": 0}[strategy]


def gradients_within(model: nn.Module, layers: Sequence[str], *, memory_bytes: int) -> int:
    """Count the float32 gradients of the layers that fit in so much memory; at least one."""
    parameters = sum(value.numel() for name in layers for value in model.get_submodule(name).parameters())
    return max(1, memory_bytes // (4 * parameters))
