"""ResNet-9 for CIFAR-10 (Jordan, 2024, arXiv:2404.00498)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tdabench.experiment.settings import settings
from tdabench.seeds import isolated_random_state

Width = Annotated[int, Field(ge=24)]  # the whitening layer has 24 channels


@settings("model")
class ResNet9:
    """Build the network of Jordan (2024): a frozen whitening layer, three groups of two convolutions, a linear head.

    With the default widths it has 1,972,792 parameters. The whitening layer and the scales of the batch norms are
    frozen; everything else trains.

    Attributes:
        widths: Channels of the three groups.
        classes: Number of classes.
        whitening_epsilon: Added to the patch covariance's eigenvalues (pixels have unit variance).
        logit_scale: Factor on the logits.
        norm_momentum: Share of each batch in batch norm's running statistics (PyTorch's meaning). Jordan's 0.4 suits
            batches of 1,024; small batches need less, else the statistics at the end are those of a few examples.
    """

    widths: tuple[Width, Width, Width] = (64, 256, 256)
    classes: Annotated[int, Field(ge=2)] = 10
    whitening_epsilon: float = 5e-4
    logit_scale: float = 1 / 9
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.4

    def build(self, images: Float[Tensor, "example 3 height width"], *, generator: torch.Generator) -> nn.Module:
        """Build a freshly initialised network.

        Args:
            images: Normalised images from which the whitening filters are computed (the first 5,000 are used).
            generator: The stream of the initialisation.
        """
        first, second, third = self.widths
        with isolated_random_state(generator):
            model = nn.Sequential(
                _whitening(images[:5000].cpu(), self.whitening_epsilon),
                nn.GELU(),
                *_group(24, first, self.norm_momentum),
                *_group(first, second, self.norm_momentum),
                *_group(second, third, self.norm_momentum),
                nn.MaxPool2d(3),
                nn.Flatten(),
                nn.Linear(third, self.classes, bias=False),
                Scale(self.logit_scale),
            )
        return model.to(memory_format=torch.channels_last)


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply the inputs, of any shape, by the factor."""
        return inputs * self.factor


def _group(channels_in: int, channels_out: int, momentum: float) -> list[nn.Module]:
    return [
        _dirac_convolution(channels_in, channels_out),
        nn.MaxPool2d(2),
        _batch_norm(channels_out, momentum),
        nn.GELU(),
        _dirac_convolution(channels_out, channels_out),
        _batch_norm(channels_out, momentum),
        nn.GELU(),
    ]


def _dirac_convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Make a 3x3 convolution whose first output channels start as copies of the input channels."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:channels_in])
    return convolution


def _batch_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm


def _whitening(images: Float[Tensor, "example 3 height width"], epsilon: float, size: int = 2) -> nn.Conv2d:
    """Make the frozen first layer: the eigenvectors of the 2x2 patches' covariance, scaled to unit variance, and
    their negatives.
    """
    patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * size * size)
    covariance = patches.double().T @ patches.double() / len(patches)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    filters = (eigenvectors / (eigenvalues + epsilon).sqrt()).T.float().reshape(-1, 3, size, size).flip(0)
    layer = nn.Conv2d(3, 2 * len(filters), size)
    layer.weight.data.copy_(torch.cat([filters, -filters]))
    layer.bias.data.zero_()
    return layer.requires_grad_(False)  # the paper trains the bias for no epoch ("whiten bias epochs: False")
