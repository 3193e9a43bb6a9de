"""Handwritten digits that ship with scikit-learn: 1,797 real 8x8 images (Alpaydin & Kaynak, 1998)."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from tdabench.data.base import ImageData


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """The first 1,297 images train, the last 500 test: they come from different writers."""

    def load(self, root: Path) -> ImageData:
        """Load the images; nothing is read from the data root."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        # 17 grey levels become 0..255.
        images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
        labels = torch.from_numpy(digits.target.astype(np.int64))
        return ImageData(
            train_images=images[:1297],
            train_labels=labels[:1297],
            test_images=images[1297:],
            test_labels=labels[1297:],
            mean=torch.tensor([0.305]),
            deviation=torch.tensor([0.376]),
            label_names=tuple(str(name) for name in digits.target_names),
        )
