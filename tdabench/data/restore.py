"""A dataset from the file that the stage ``dataset`` wrote."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tdabench.data.base import Data, ImageData
from tdabench.data.text.rows import TextData


def restore_data(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Data:
    """Make a dataset of a file's tensors and record."""
    if record.get("kind") == "text":
        return TextData(**tensors)
    return ImageData(**tensors, label_names=tuple(record.get("label_names", ())))
