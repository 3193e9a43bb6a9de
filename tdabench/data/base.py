"""The interface of every dataset, and how it is split."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tdabench.examples import Examples
from tdabench.experiment.sections import DataSettings


@runtime_checkable
class Data(Protocol):
    """A dataset in memory.

    Attributes:
        sizes: How many examples each part has: ``train``, ``test``, and whatever else there is.
        details: What belongs into the record of a result file, beside the tensors.
    """

    @property
    def sizes(self) -> dict[str, int]:
        """Count the examples of each part."""
        ...

    @property
    def details(self) -> dict[str, Any]:
        """Return the record's part."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what a result file holds."""
        ...

    def examples(self, part: str, indices: Int[Tensor, " example"], device: torch.device | str = "cpu") -> Examples:
        """Return examples of a part on a device."""
        ...


class Source(Protocol):
    """Where a dataset comes from: a frozen dataclass of its options."""

    def load(self, root: Path) -> Data:
        """Load the data, from the data root, from a package, or downloaded.

        Raises:
            FileNotFoundError: If they are neither there nor can be downloaded.
            ValueError: If a file is corrupt.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images as they are stored, with what normalises them.

    Attributes:
        mean: Mean of each channel, for pixels in [0, 1].
        deviation: Standard deviation of each channel.
        label_names: What people call the labels, in order; empty if they have only numbers.

    Raises:
        ValueError: If there are names, but not for every label.
    """

    train_images: UInt8[Tensor, "train channel height width"]
    train_labels: Int[Tensor, " train"]
    test_images: UInt8[Tensor, "test channel height width"]
    test_labels: Int[Tensor, " test"]
    mean: Float[Tensor, " channel"]
    deviation: Float[Tensor, " channel"]
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_labels = 1 + max(int(labels.max()) for labels in (self.train_labels, self.test_labels))
        if self.label_names and len(self.label_names) < num_labels:
            raise ValueError(
                f"label_names has {len(self.label_names)} names for {num_labels} labels: name every label, or none."
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Return how many examples each part has."""
        return {"train": len(self.train_labels), "test": len(self.test_labels)}

    @property
    def details(self) -> dict[str, Any]:
        """Return what belongs into the record of a result file, beside the tensors."""
        return {"label_names": self.label_names}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a result file holds."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def examples(self, part: str, indices: Int[Tensor, " example"], device: torch.device | str = "cpu") -> Examples:
        """Return normalised examples on a device, images channels last.

        Args:
            part: ``train`` or ``test``.
        """
        images, labels = getattr(self, f"{part}_images")[indices], getattr(self, f"{part}_labels")[indices]
        mean, deviation = self.mean[:, None, None], self.deviation[:, None, None]
        normalised = (images.float() / 255 - mean) / deviation
        return {
            "image": normalised.to(device, memory_format=torch.channels_last),
            "label": labels.long().to(device),
        }


def split_indices(
    num_train: int, num_test: int, settings: DataSettings, *, generator: torch.Generator
) -> dict[str, Int[Tensor, " example"]]:
    """Draw who is what: ``warmup`` and ``pool`` from the training set, ``query`` and ``tuning`` from the test set.

    The pool is one random order: an attribution set of size n is its first n entries, so that sets of different sizes
    are nested, and a size that is added later changes no other.

    Raises:
        ValueError: If the dataset is too small for what is asked of it.
    """
    largest = max(settings.train_sizes)
    if settings.reference != "train":
        largest = max(largest, int(settings.reference))
    if settings.warmup + largest > num_train:
        raise ValueError(
            f"data asks for {settings.warmup} warm-up and {largest} attribution or reference examples; "
            f"the training set has {num_train}."
        )
    if settings.queries + settings.tuning_queries > num_test:
        raise ValueError(
            f"data asks for {settings.queries} scored and {settings.tuning_queries} tuning queries; "
            f"the test set has {num_test}."
        )
    train_order = torch.randperm(num_train, generator=generator)
    test_order = torch.randperm(num_test, generator=generator)
    return {
        "warmup": train_order[: settings.warmup],
        "pool": train_order[settings.warmup :],
        "query": test_order[: settings.queries],
        "tuning": test_order[settings.queries : settings.queries + settings.tuning_queries],
    }
