import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tdabench.experiment.sections import Recipe
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.training import recipe as recipe_module
from tdabench.training.losses import image_loss
from tdabench.training.recipe import train

FLAT = {"schedule_start": 1.0, "schedule_peak": 0.0, "schedule_end": 1.0}
SGD = {"optimizer": "sgd", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, **FLAT}


def test_learning_rate_rises_to_its_peak_and_falls_to_its_end(monkeypatch):
    rates, _ = _record_steps(monkeypatch)
    recipe = Recipe(
        **{**SGD, "epochs": 2, "batch_size": 4, "schedule_start": 0.2, "schedule_peak": 0.5, "schedule_end": 0.1}
    )

    train(_draw_model(), _draw_examples(10), recipe, generator=make_generator(0, "train"))

    # Three steps an epoch; step k of 6 is at progress k / 6.
    expected = np.interp(np.arange(6) / 6, [0, 0.5, 1], [0.2, 1, 0.1])
    relative = np.array(rates)[:, 0] / rates[3][0]
    np.testing.assert_allclose(relative, expected, rtol=1e-12)


def test_warm_up_runs_on_its_own_set_at_the_first_learning_rate(monkeypatch):
    rates, batches = _record_steps(monkeypatch)
    recipe = Recipe(**{**SGD, "warmup_steps": 3, "schedule_start": 0.2, "schedule_peak": 0.5, "schedule_end": 0.1})
    warmup = _draw_examples(16, "warmup")

    train(_draw_model(), _draw_examples(16), recipe, generator=make_generator(0, "train"), warmup=warmup)

    assert rates[:3] == [rates[3]] * 3
    assert len(rates) == 3 + 2
    images = {tuple(image.flatten().tolist()) for image in warmup["image"]}
    from_warmup = [{tuple(image.flatten().tolist()) for image in batch["image"]} <= images for batch in batches]
    assert from_warmup == [True] * 3 + [False] * 2


def test_every_epoch_takes_every_example_once_in_batches_of_equal_size_and_a_new_order(monkeypatch):
    _, batches = _record_steps(monkeypatch)
    examples = {
        "image": torch.arange(10.0).reshape(10, 1, 1, 1).expand(-1, 1, 4, 4),
        "label": torch.zeros(10, dtype=torch.int64),
    }

    train(
        _draw_model(),
        examples,
        Recipe(**{**SGD, "epochs": 2, "batch_size": 4}),
        generator=make_generator(0, "train"),
    )

    assert sorted(len(batch["label"]) for batch in batches) == [3, 3, 3, 3, 4, 4]
    first, second = (
        torch.cat([batch["image"][:, 0, 0, 0] for batch in batches[part]]) for part in (slice(3), slice(3, 6))
    )
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert not torch.equal(first, second)


def test_sgd_follows_the_written_out_formula():
    examples, model = _draw_examples(16), _draw_model()
    momentum, smoothing, decay, bias_scaler = 0.85, 0.2, 0.5, 4.0
    recipe = Recipe(
        **{**SGD, "epochs": 3, "batch_size": 16, "learning_rate": 20.0, "weight_decay": decay},
        momentum=momentum,
        label_smoothing=smoothing,
        bias_scaler=bias_scaler,
    )
    expected = [parameter.detach().double() for parameter in model.parameters()]

    train(model, examples, recipe, generator=make_generator(0, "train"))

    # Jordan (2024): summed losses, and rates per 1024 (1 + 1 / (1 - m)) examples; Nesterov's momentum; decay apart.
    kilostep = 1024 * (1 + 1 / (1 - momentum))
    velocity = [torch.zeros_like(values) for values in expected]
    for _ in range(3):
        gradients = _summed_gradients(expected, examples, smoothing)
        for index, scaler in enumerate((1.0, bias_scaler)):
            rate = 20.0 / kilostep * scaler
            gradient = gradients[index] + decay / kilostep * 16 / rate * expected[index]
            velocity[index] = momentum * velocity[index] + gradient
            expected[index] = expected[index] - rate * (gradient + momentum * velocity[index])
    for parameter, values in zip(model.parameters(), expected, strict=True):
        # Three float32 steps of values of order one.
        torch.testing.assert_close(parameter.detach().double(), values, rtol=0, atol=1e-5)
        assert (values - values.mean()).abs().max() > 0.1


def test_the_number_of_examples_moves_the_weights_and_not_the_batch_size():
    examples, model = _draw_examples(64), _draw_model()
    settings = {**SGD, "learning_rate": 0.1}

    moves = {
        (epochs, batch_size): _move(model, examples, Recipe(**{**settings, "epochs": epochs, "batch_size": batch_size}))
        for epochs, batch_size in ((1, 8), (1, 32), (2, 8))
    }

    # The weights move by up to 64 * 0.1 / 2048 = 3e-3 times the mean gradient, which changes the gradients by less than
    # 1% of themselves; float32 rounding of weights below 0.25 is 1.5e-8 in each of at most 16 steps.
    torch.testing.assert_close(moves[1, 8], moves[1, 32], rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(moves[2, 8], 2 * moves[1, 8], rtol=1e-2, atol=1e-6)
    assert moves[1, 8].abs().max() > 1e-4


def test_adamw_is_that_of_pytorch_with_the_schedule():
    examples, model = _draw_examples(16), _draw_model()
    expected = copy.deepcopy(model)
    recipe = Recipe(
        optimizer="adamw",
        epochs=4,
        batch_size=16,
        learning_rate=0.1,
        weight_decay=0.5,
        schedule_start=0.5,
        schedule_peak=0.5,
        schedule_end=0.0,
    )

    train(model, examples, recipe, generator=make_generator(0, "train"))

    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.1, weight_decay=0.5)
    for factor in (0.5, 0.75, 1.0, 0.5):
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        optimizer.zero_grad()
        image_loss(expected, examples).mean().backward()
        optimizer.step()
    # The order of a batch changes float32 sums, which Adam divides by gradients that may be small.
    torch.testing.assert_close(_flatten(model), _flatten(expected), rtol=0, atol=1e-4)


def test_training_leaves_eval_mode_and_frozen_parameters():
    model = _draw_network()
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    train(model, _draw_examples(16), Recipe(**SGD), generator=make_generator(0, "train"))

    unmoved = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert unmoved == {"0.weight", "0.bias"}
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("count", [20, 600])
def test_recalibrated_batch_norm_has_the_statistics_of_the_training_set(count):
    model, examples = _draw_network(), _draw_examples(count)
    recipe = Recipe(**{**SGD, "learning_rate": 1.0, "recalibrate_norm": True})

    train(model, examples, recipe, generator=make_generator(0, "train"))

    # At most 500 examples a batch: 600 are two of 300, whose statistics are averaged.
    parts = model[0](examples["image"]).detach().double().split(count if count <= 500 else 300)
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    variance = torch.stack([part.transpose(0, 1).flatten(1).var(dim=1) for part in parts]).mean(dim=0)
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), variance, rtol=1e-5, atol=1e-6)
    assert model[1].momentum == 0.1
    assert not model[1].training


def test_without_recalibration_batch_norm_keeps_its_running_statistics():
    models = [_draw_network() for _ in range(2)]

    for model, recalibrate in zip(models, (False, True), strict=True):
        recipe = Recipe(**{**SGD, "recalibrate_norm": recalibrate})
        train(model, _draw_examples(16), recipe, generator=make_generator(0, "train"))

    assert torch.equal(_flatten(models[0]), _flatten(models[1]))
    assert not torch.equal(models[0][1].running_mean, models[1][1].running_mean)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_models_are_the_same_for_the_same_generator_and_others_for_another(dropout):
    examples, recipe = _draw_examples(16), Recipe(**{**SGD, "learning_rate": 10.0})
    model = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), _draw_model()[1])

    first, again, other = (_move(model, examples, recipe, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bfloat16_rounds_the_forward_pass_and_not_the_parameters():
    examples, model = _draw_examples(16), _draw_model()
    settings = {**SGD, "learning_rate": 10.0}

    exact, rounded = (
        _move(model, examples, Recipe(**settings, precision=precision)) for precision in ("float32", "bfloat16")
    )

    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    # bfloat16 has 8 bits: an error of 0.4% in the logits and in the gradients, which are of order one.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02 * exact.abs().max().item())


def test_a_run_that_diverges_is_no_error_and_its_losses_are_not_finite():
    model, examples = _draw_network(), _draw_examples(16)

    train(model, examples, Recipe(**{**SGD, "learning_rate": 1e38, "epochs": 4}), generator=make_generator(0, "train"))

    assert not image_loss(model, examples).isfinite().any()


@pytest.mark.parametrize(
    ("count", "warmup", "message"),
    [
        (0, None, "Can't train on an empty training set"),
        (4, None, "training.warmup_steps is 5, but there is no warm-up set: set data.warmup"),
        (4, 0, "training.warmup_steps is 5, but there is no warm-up set: set data.warmup"),
    ],
)
def test_a_set_that_is_needed_and_empty_is_an_error(count, warmup, message):
    recipe, held_out = Recipe(**SGD, warmup_steps=5), None if warmup is None else _draw_examples(warmup)

    with pytest.raises(ValueError, match=re.escape(message)):
        train(_draw_model(), _draw_examples(count), recipe, generator=make_generator(0, "train"), warmup=held_out)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (1, "labels go from 1 to 3, and the model's 3 outputs are for 0 to 2: count labels from 0"),
        (2, "labels go from 2 to 4, and the model's 3 outputs are for 0 to 2: give the model more classes"),
    ],
)
def test_a_label_that_the_model_has_no_output_for_is_an_error(shift, message):
    examples = _draw_examples(16)
    examples["label"] += shift

    with pytest.raises(ValueError, match=message):
        train(_draw_model(), examples, Recipe(**SGD), generator=make_generator(0, "train"))


def test_parameters_of_sixteen_bits_are_refused_since_small_steps_would_leave_them_where_they_are():
    examples = _draw_examples(4)
    examples["image"] = examples["image"].bfloat16()

    with pytest.raises(ValueError, match="Parameters of type bfloat16 round small steps away"):
        train(_draw_model().bfloat16(), examples, Recipe(**SGD), generator=make_generator(0, "train"))


def _draw_examples(count: int, name: str = "train") -> dict[str, Tensor]:
    generator = make_generator(0, "examples", name)
    images = torch.randn(count, 1, 4, 4, generator=generator)
    return {"image": images, "label": torch.randint(3, (count,), generator=generator)}


def _draw_model() -> nn.Module:
    with isolated_random_state(make_generator(0, "model")):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def _draw_network() -> nn.Module:
    with isolated_random_state(make_generator(0, "network")):
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("size", [1, 3])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(size):
    model, examples = _draw_model(), _draw_examples(8)

    whole = _move(model, examples, Recipe(**SGD))
    parts = _move(model, examples, Recipe(**SGD, microbatch=size))

    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)  # float32


def test_rows_of_text_weigh_in_a_step_by_their_tokens_and_those_without_any_not_at_all():
    generator = make_generator(0, "text")
    tokens = torch.randint(7, (6, 5), generator=generator)
    labels = tokens.clone()
    labels[0, 2:], labels[3] = -100, -100
    model = _Bigrams(torch.randn(7, 7, generator=generator))
    examples = {"input_ids": tokens, "labels": labels}

    whole = _move(model, examples, Recipe(**SGD))
    parts = _move(model, examples, Recipe(**SGD, microbatch=1))

    assert whole.abs().max() > 0
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-8)  # float32


class _Bigrams(nn.Module):
    """Logits of the next token from a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def _flatten(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _move(model: nn.Module, examples: dict[str, Tensor], recipe: Recipe, seed: int = 0) -> Tensor:
    """Train a copy and return by how much its parameters moved."""
    moved = copy.deepcopy(model)
    train(moved, examples, recipe, generator=make_generator(seed, "train"))
    return _flatten(moved) - _flatten(model)


def _summed_gradients(parameters: list[Tensor], examples: dict[str, Tensor], smoothing: float) -> list[Tensor]:
    weight, bias = parameters
    inputs = examples["image"].flatten(1).double()
    probabilities = (inputs @ weight.T + bias).softmax(dim=1)
    wanted = (1 - smoothing) * torch.eye(3, dtype=torch.float64)[examples["label"]] + smoothing / 3
    errors = probabilities - wanted
    return [errors.T @ inputs, errors.sum(dim=0)]


def _record_steps(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[float]], list[dict[str, Tensor]]]:
    """Record learning rates and batches in place of taking steps."""
    rates: list[list[float]] = []
    batches: list[dict[str, Tensor]] = []

    def record(model, batch, optimizer, recipe) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        batches.append(batch)

    monkeypatch.setattr(recipe_module, "_step", record)
    return rates, batches
