from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tdabench.examples import batch_size_of
from tdabench.seeds import make_generator
from tdabench.training.losses import (
    image_loss,
    image_loss_and_margin,
    language_loss,
    language_loss_and_margin,
    losses_of,
    token_loss,
)


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


# Language


def test_a_tokens_loss_is_minus_the_log_softmax_of_the_next_token():
    model, examples = _draw_text()

    losses = token_loss(model, examples)

    logits = model(input_ids=examples["input_ids"], use_cache=False).logits.double()
    for row in range(3):
        for place in range(1, 5):
            expected = -torch.log_softmax(logits[row, place - 1], dim=0)[examples["input_ids"][row, place]]
            assert losses[row, place].item() == pytest.approx(expected.item(), abs=1e-5)
    assert (losses[:, 0] == 0).all()


def test_what_does_not_count_has_no_loss_and_no_gradient():
    model, examples = _draw_text()
    padded = {"input_ids": examples["input_ids"].clone(), "labels": examples["labels"].clone()}
    padded["labels"][:, 3:] = -100
    other = {**padded, "input_ids": padded["input_ids"].clone()}
    other["input_ids"][:, 3:] = 0  # another padding

    losses = token_loss(model, padded)

    assert (losses[:, 3:] == 0).all()
    torch.testing.assert_close(losses[:, :3], token_loss(model, examples)[:, :3])
    for measure in (language_loss, lambda *given: language_loss_and_margin(*given)[1]):
        assert torch.equal(measure(model, padded), measure(model, other))
    gradients = [torch.autograd.grad(language_loss(model, given).sum(), model.table)[0] for given in (padded, other)]
    assert torch.equal(*gradients)


def test_a_rows_loss_and_margin_are_sums_over_its_tokens():
    model, examples = _draw_text()

    loss, margin = language_loss_and_margin(model, examples)

    probabilities = torch.exp(-token_loss(model, examples).double())[:, 1:]
    torch.testing.assert_close(loss, language_loss(model, examples))
    torch.testing.assert_close(loss, token_loss(model, examples).sum(dim=1))
    expected = (probabilities / (1 - probabilities)).log().sum(dim=1)
    torch.testing.assert_close(margin.double(), expected, rtol=1e-4, atol=1e-4)  # float32


def test_training_minimises_the_mean_over_all_tokens_that_count():
    model, examples = _draw_text()
    examples["labels"][0, 2:] = -100

    mean = losses_of(examples).mean_loss(model, examples, 0.0)

    torch.testing.assert_close(mean, token_loss(model, examples).sum() / (1 + 4 + 4))


def test_the_kind_of_the_examples_chooses_their_losses():
    _, examples = _draw_text()

    assert losses_of(examples).token_loss is token_loss
    assert losses_of({"image": torch.zeros(2, 1), "label": torch.zeros(2)}).token_loss is None


@pytest.mark.parametrize(("positions", "expected"), [(8, 500), (1024, 4), (5000, 1)])
def test_long_rows_are_measured_in_smaller_batches(positions, expected):
    assert batch_size_of({"input_ids": torch.zeros(1, positions)}) == expected


class _Table(nn.Module):
    """Logits of the next token from a table: a bigram model."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def _draw_text() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    generator = make_generator(0, "text")
    tokens = torch.randint(7, (3, 5), generator=generator)
    return _Table(torch.randn(7, 7, generator=generator)), {"input_ids": tokens, "labels": tokens.clone()}
