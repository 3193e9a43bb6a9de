import re

import pytest
import torch
from torch import Tensor, nn

from tdabench.models.resnet9 import ResNet9
from tdabench.seeds import make_generator

SMALL = ResNet9(widths=(24, 24, 24))


def test_default_network_has_the_size_of_the_original():
    model = ResNet9().build(_draw_images(64), generator=make_generator(0, "model"))

    assert sum(parameter.numel() for parameter in model.parameters()) == 1_972_792


def test_whitening_gives_patches_of_unit_covariance():
    images = _draw_images(200)

    whitening = SMALL.build(images, generator=make_generator(0, "model"))[0]

    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
    smallest = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).min().item()
    responses = whitening(images).detach().double().transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    # The regularisation shrinks a variance v to v / (v + 5e-4); the filters are float32.
    shrinkage = 5e-4 / (smallest + 5e-4)
    assert shrinkage < 0.1
    variances = covariance.diagonal()
    assert (variances < 1 + 1e-4).all()
    assert (variances > 1 - shrinkage - 1e-4).all()
    torch.testing.assert_close(
        covariance[:12, :12] - variances[:12].diag(), torch.zeros(12, 12).double(), atol=1e-4, rtol=0
    )
    # The other half are the negatives.
    torch.testing.assert_close(covariance[:12, 12:], -covariance[:12, :12], atol=1e-4, rtol=0)


def test_whitening_and_scales_of_batch_norm_are_frozen_and_nothing_else():
    model = SMALL.build(_draw_images(8), generator=make_generator(0, "model"))

    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert frozen == {"0.weight", "0.bias", *(f"{name}.weight" for name in norms)}
    # Of the exact types that kronfluence tracks.
    assert sum(type(module) is nn.Conv2d for module in model.modules()) == 7
    assert sum(type(module) is nn.Linear for module in model.modules()) == 1


def test_convolutions_start_as_copies_of_their_inputs():
    model = SMALL.build(_draw_images(8), generator=make_generator(0, "model"))

    convolution = next(module for module in model[2:] if isinstance(module, nn.Conv2d))

    inputs = torch.randn(2, 24, 5, 5, generator=make_generator(0, "inputs"))
    torch.testing.assert_close(convolution(inputs).detach(), inputs, rtol=0, atol=1e-6)


def test_logits_are_scaled_and_have_one_entry_a_class_and_batch_norm_the_asked_momentum():
    images = _draw_images(8)
    plain, scaled = (
        ResNet9(widths=(24, 24, 24), classes=7, logit_scale=scale, norm_momentum=0.1).build(
            images, generator=make_generator(0, "model")
        )
        for scale in (1.0, 0.25)
    )
    assert {module.momentum for module in plain.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}

    logits = scaled.eval()(images)

    assert logits.shape == (8, 7)
    torch.testing.assert_close(logits, 0.25 * plain.eval()(images))


def test_initialisation_is_drawn_from_the_generator():
    images = _draw_images(8)

    first, again, other = (
        SMALL.build(images, generator=make_generator(0, "model", index))[-2].weight for index in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (64, 256)}, "model.widths must have 3 entries, got (64, 256)"),
        ({"widths": (64, 256, 16)}, "model.widths must be at least 24, got 16"),
        ({"classes": 1}, "model.classes must be at least 2, got 1"),
        ({"norm_momentum": 0.0}, "model.norm_momentum must lie in (0, 1], got 0.0"),
        ({"norm_momentum": 1.5}, "model.norm_momentum must lie in (0, 1], got 1.5"),
    ],
)
def test_a_setting_out_of_range_is_an_error(unchecked_types, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ResNet9(**settings)


def _draw_images(count: int) -> Tensor:
    """Draw images whose neighbouring pixels are alike, as photographs' are, with unit variance."""
    noise = torch.randn(count, 3, 34, 34, generator=make_generator(0, "images"))
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1)
    return (smooth / smooth.std()).to(memory_format=torch.channels_last)
