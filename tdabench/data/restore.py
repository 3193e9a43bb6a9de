"""A dataset from the file that the stage ``dataset`` wrote."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tdabench.data.base import Data, ImageData


def restore_data(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Data:
    """Make a dataset of a file's tensors and record.

    Raises:
        ValueError: If the source gave another kind of dataset than ours, which no later job could make of the file.
    """
    if record.get("kind") == "text":
        # By name: an experiment of images imports nothing of text.
        return importlib.import_module("tdabench.data.text.rows").TextData(**tensors)
    expected = {field.name for field in dataclasses.fields(ImageData)} - {"label_names"}
    if set(tensors) != expected:
        raise ValueError(
            f"A source must give ImageData or TextData; this one's dataset holds {', '.join(sorted(tensors))}. "
            "Features without an image are an ImageData too: floats of the shape (example, feature)."
        )
    return ImageData(**tensors, label_names=tuple(record.get("label_names", ())))
