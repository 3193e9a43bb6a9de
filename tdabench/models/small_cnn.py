"""A small convolutional network for small greyscale images."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tdabench.experiment.settings import Count, settings
from tdabench.seeds import isolated_random_state


@settings("model")
class SmallCNN:
    """Build two 3x3 convolutions with pooling and a linear head, without batch norm.

    Attributes:
        width: Channels of the first convolution; the second has twice as many.
        classes: Number of classes.
    """

    width: Count = 16
    classes: Annotated[int, Field(ge=2)] = 10

    def build(self, images: Float[Tensor, "example channel height width"], *, generator: torch.Generator) -> nn.Module:
        """Build a freshly initialised network for images of the given size.

        Args:
            images: Normalised images; only their size is used.
            generator: The stream of the initialisation.
        """
        channels, height, width = images.shape[1:]
        with isolated_random_state(generator):
            model = nn.Sequential(
                nn.Conv2d(channels, self.width, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(self.width, 2 * self.width, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(2 * self.width * (height // 4) * (width // 4), self.classes),
            )
        return model.to(memory_format=torch.channels_last)
