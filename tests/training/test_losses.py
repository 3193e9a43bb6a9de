import pytest
import torch
from torch import nn

from tdabench.seeds import make_generator
from tdabench.training.losses import image_loss, image_loss_and_margin


def test_loss_is_minus_the_log_softmax_of_the_label():
    logits, labels = _draw_logits()

    loss = image_loss(nn.Identity(), {"image": logits, "label": labels})

    expected = -torch.log_softmax(logits.double(), dim=1)[torch.arange(6), labels]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)  # float32


def test_margin_is_the_log_odds_of_the_label():
    logits, labels = _draw_logits()

    loss, margin = image_loss_and_margin(nn.Identity(), {"image": logits, "label": labels})

    probability = torch.softmax(logits.double(), dim=1)[torch.arange(6), labels]
    expected = (probability / (1 - probability)).log()
    torch.testing.assert_close(margin.double(), expected, rtol=1e-5, atol=1e-5)  # float32
    torch.testing.assert_close(loss, image_loss(nn.Identity(), {"image": logits, "label": labels}), rtol=0, atol=0)


def test_margin_of_a_very_sure_model_is_not_rounded_to_infinity():
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]])

    _, margin = image_loss_and_margin(nn.Identity(), {"image": logits, "label": torch.tensor([0, 0])})

    assert margin.tolist() == pytest.approx([200 - torch.tensor(2.0).log().item(), -200.0], abs=1e-4)


def test_loss_of_bfloat16_logits_is_computed_in_float32():
    logits, labels = _draw_logits()
    rounded = logits.bfloat16()

    loss, margin = image_loss_and_margin(nn.Identity(), {"image": rounded, "label": labels})

    assert loss.dtype == margin.dtype == torch.float32
    expected = -torch.log_softmax(rounded.double(), dim=1)[torch.arange(6), labels]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def _draw_logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = make_generator(0, "logits")
    return 3 * torch.randn(6, 4, generator=generator), torch.randint(4, (6,), generator=generator)
