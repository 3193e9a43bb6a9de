"""The interface of every dataset, and how it is split."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
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
    """Images as they are stored, with what normalises them; or features without an image. NumPy's arrays serve too.

    Attributes:
        train_images: Of type uint8, 0 to 255; or floats, which are only normalised: pixels in [0, 1], or features
            (train, feature).
        train_labels: Whole numbers from 0 on.
        mean: Mean of each channel or feature, for pixels in [0, 1].
        deviation: Standard deviation of each channel or feature.
        label_names: What people call the labels, in order; empty if they have only numbers.

    Raises:
        ValueError: If images or labels are of another kind, or there are names, but not for every label.
    """

    train_images: Shaped[Tensor, "train channel *size"]
    train_labels: Int[Tensor, " train"]
    test_images: Shaped[Tensor, "test channel *size"]
    test_labels: Int[Tensor, " test"]
    mean: Float[Tensor, " _"]
    deviation: Float[Tensor, " _"]
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train_images", "train_labels", "test_images", "test_labels", "mean", "deviation"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)))  # an array of NumPy serves too
        for part in ("train", "test"):
            self._check_images(f"{part}_images", getattr(self, f"{part}_images"))
            _check_labels(f"{part}_labels", getattr(self, f"{part}_labels"), getattr(self, f"{part}_images"))
        num_labels = 1 + max(int(labels.max()) for labels in (self.train_labels, self.test_labels))
        if self.label_names and len(self.label_names) < num_labels:
            raise ValueError(
                f"label_names has {len(self.label_names)} names for {num_labels} labels: name every label, or none."
            )

    def _check_images(self, name: str, images: Tensor) -> None:
        shape = tuple(images.shape)
        if images.ndim not in (2, 4):
            raise ValueError(
                f"{name} must have the axes (example, channel, height, width), or (example, feature), got the shape "
                f"{shape}: grey images get a channel by images[:, None]."
            )
        if {len(self.mean), len(self.deviation)} - {1, shape[1]} or not (self.deviation > 0).all():
            raise ValueError(
                f"mean and deviation must have a number for each of the {shape[1]} channels or features of {name}, "
                f"deviations above 0, got {self.mean.tolist()} and {self.deviation.tolist()}."
            )
        if images.dtype == torch.uint8:
            return
        if not images.is_floating_point() or not images.isfinite().all():
            raise ValueError(f"{name} must be uint8 (0 to 255) or finite floats, got {_range_of(images)}.")
        normalised = not self.mean.any() and (self.deviation == 1).all()
        if images.ndim == 4 and not normalised and (images.min() < 0 or images.max() > 1):
            raise ValueError(
                f"{name} must be pixels in [0, 1] where they are floats, got {_range_of(images)}: divide them by 255, "
                "or if they are normalised already, set mean to 0 and deviation to 1."
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
        """Return normalised examples on a device, images channels last; features, too, are called ``image``.

        Args:
            part: ``train`` or ``test``.
        """
        images, labels = getattr(self, f"{part}_images")[indices], getattr(self, f"{part}_labels")[indices]
        flat = (-1, *[1] * (images.ndim - 2))
        mean, deviation = self.mean.float().view(flat), self.deviation.float().view(flat)
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        normalised = (pixels - mean) / deviation
        layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
        return {"image": normalised.to(device, memory_format=layout), "label": labels.long().to(device)}


def _check_labels(name: str, labels: Tensor, images: Tensor) -> None:
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{name} must have one label an image ({len(images)}), got the shape {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise ValueError(
            f"{name} must be whole numbers, a class each, got {_range_of(labels)}: real-valued targets have no loss "
            "here; divide them into classes."
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(
            f"{name} must be classes from 0 on, got {_range_of(labels)}: leave examples out whose label is unknown."
        )


def _range_of(values: Tensor) -> str:
    ends = f" from {values.min().item():g} to {values.max().item():g}" if len(values) else ""
    return f"{str(values.dtype).removeprefix('torch.')}{ends}"


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
