import re

import pytest
import torch
from torch import Tensor, nn

from tdabench.models.small_cnn import SmallCNN
from tdabench.seeds import make_generator


@pytest.mark.parametrize(("shape", "head"), [((1, 8, 8), 2 * 2), ((3, 32, 32), 8 * 8), ((1, 11, 9), 2 * 2)])
def test_network_fits_the_images(shape, head):
    images = _draw_images(5, *shape)

    model = SmallCNN(width=4, classes=7).build(images, generator=make_generator(0, "model"))

    assert model(images).shape == (5, 7)
    first, second, last = (shape[0] * 9 + 1) * 4, (4 * 9 + 1) * 8, (8 * head + 1) * 7
    assert sum(parameter.numel() for parameter in model.parameters()) == first + second + last


def test_every_parameter_is_trained():
    model = SmallCNN().build(_draw_images(1, 1, 8, 8), generator=make_generator(0, "model"))

    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {type(module) for module in model} == {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear}


def test_initialisation_is_drawn_from_the_generator_and_not_from_the_images():
    images = _draw_images(2, 1, 8, 8)

    first, again, other = (
        SmallCNN().build(inputs, generator=make_generator(0, "model", index))[-1].weight
        for inputs, index in ((images, 0), (-images, 0), (images, 1))
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "model.width must be at least 1, got 0"),
        ({"classes": 1}, "model.classes must be at least 2, got 1"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SmallCNN(**settings)


def _draw_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=make_generator(0, "images")).to(memory_format=torch.channels_last)
