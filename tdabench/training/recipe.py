"""The training loop: one recipe for checkpoints and for the bank."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tdabench.examples import Examples, device_of, is_text, num_examples, take
from tdabench.experiment.sections import Recipe
from tdabench.runtime.progress import progress
from tdabench.seeds import fork_generator, isolated_random_state, make_generator
from tdabench.training.losses import losses_of


def train(
    model: nn.Module,
    train: Examples,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    warmup: Examples | None = None,
    description: str | None = None,
) -> None:
    """Train a model in place and leave it in eval mode.

    A run that diverges is not an error: its parameters, and every loss measured with them, are NaN.

    Args:
        train: Examples on the model's device.
        generator: The stream of the order of the examples, and of what layers draw.
        warmup: The held-out warm-up set; needed if ``recipe.warmup_steps`` is positive.
        description: Name of a progress bar over the steps; without it there is none.

    Raises:
        ValueError: If the training set is empty, warm-up steps are asked for without a warm-up set, batch norm is
            to be recalibrated and there are no images, parameters have less than 32 bits, or a label has no output.
    """
    _require_trainable(model, train, recipe, warmup)
    order = fork_generator(generator, device_of(train))
    # Layers and optimisers may know only the global random states: dropout does. They get a stream beside the order's.
    with isolated_random_state(make_generator(order.initial_seed(), "train")):
        _run(model, train, recipe, order, warmup, description)
    model.eval()


def _require_trainable(model: nn.Module, train: Examples, recipe: Recipe, warmup: Examples | None) -> None:
    if num_examples(train) == 0:
        raise ValueError("Can't train on an empty training set.")
    if recipe.warmup_steps and not (warmup and num_examples(warmup)):
        raise ValueError(
            f"training.warmup_steps is {recipe.warmup_steps}, but there is no warm-up set: set data.warmup."
        )
    if recipe.recalibrate_norm and "image" not in train:
        raise ValueError("training.recalibrate_norm is for models of images: leave it out.")
    _require_float32(model)
    if "image" in train:
        _require_outputs(model, train)


def _run(
    model: nn.Module,
    train: Examples,
    recipe: Recipe,
    order: torch.Generator,
    warmup: Examples | None,
    description: str | None,
) -> None:
    optimizer = _make_optimizer(model, recipe)
    model.train()
    if recipe.warmup_steps:
        _scale_learning_rates(optimizer, recipe.schedule_start)
        for batch in _batches(warmup, recipe.warmup_steps, recipe.batch_size, order):
            _step(model, batch, optimizer, recipe)
    steps = recipe.epochs * math.ceil(num_examples(train) / recipe.batch_size)
    batches = _batches(train, steps, recipe.batch_size, order)
    if description:
        batches = progress(batches, description, total=steps)
    for step, batch in enumerate(batches):
        _scale_learning_rates(optimizer, _triangle(step / steps, recipe))
        _step(model, batch, optimizer, recipe)
    if recipe.recalibrate_norm:
        _recalibrate_norm(model, train)


@torch.no_grad()
def _require_outputs(model: nn.Module, train: Examples) -> None:
    """Refuse labels that the model has no output for, before a device stumbles over them."""
    outputs, least, most = model.eval()(train["image"][:1]).shape[-1], *train["label"].aminmax()
    if most >= outputs:
        raise ValueError(
            f"The labels go from {least} to {most}, and the model's {outputs} outputs are for 0 to {outputs - 1}: "
            + ("count labels from 0." if least == 1 else "give the model more classes (model.classes).")
        )


def _require_float32(model: nn.Module) -> None:
    """Refuse parameters of so few bits that most steps would be rounded away."""
    short = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad and parameter.itemsize < 4}
    if short:
        raise ValueError(
            f"Parameters of type {str(short.pop()).removeprefix('torch.')} round small steps away, so that training "
            "would stall: set model.dtype to float32, and training.precision to bfloat16 for speed."
        )


@torch.no_grad()
def _recalibrate_norm(model: nn.Module, train: Examples, batch_size: int = 500) -> None:
    """Set every batch norm's statistics to the mean of those of the training set's batches, in training mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    for images in train["image"].tensor_split(math.ceil(len(train["image"]) / batch_size)):
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _batches(examples: Examples, steps: int, batch_size: int, order: torch.Generator) -> Iterator[Examples]:
    """Return batches of equal size (to within one example), each epoch in a new order."""
    count = num_examples(examples)
    permutation: list[Tensor] = []
    for _ in range(steps):
        if not permutation:
            shuffled = torch.randperm(count, generator=order, device=device_of(examples))
            permutation = list(shuffled.tensor_split(math.ceil(count / batch_size)))
        yield take(examples, permutation.pop())


def _step(model: nn.Module, batch: Examples, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    enabled = recipe.precision == "bfloat16"
    optimizer.zero_grad(set_to_none=True)
    for part, share in _microbatches(batch, recipe.microbatch):
        with torch.autocast(device_of(batch).type, torch.bfloat16, enabled=enabled):
            # The mean; Jordan's sum over a batch of 1,024 is in the learning rate.
            loss = losses_of(part).mean_loss(model, part, recipe.label_smoothing)
        (loss * share).backward()
    optimizer.step()


def _microbatches(batch: Examples, size: int | None) -> Iterator[tuple[Examples, float]]:
    """Divide a batch into parts of at most ``size``, each with its share of what counts in the mean."""
    if size is None or size >= num_examples(batch):
        yield batch, 1.0
        return
    weights = _counted(batch)
    total = weights.sum()
    for start in range(0, num_examples(batch), size):
        part = slice(start, start + size)
        if weights[part].any():  # the mean of nothing is NaN
            yield take(batch, part), float(weights[part].sum() / total)


def _counted(batch: Examples) -> Tensor:
    """Return how many labels of each example count."""
    if is_text(batch):
        return (batch["labels"][:, 1:] >= 0).sum(dim=1).double()
    return torch.ones(num_examples(batch), dtype=torch.float64)


def _triangle(done: float, recipe: Recipe) -> float:
    """Learning rate relative to its peak, with a share of the steps done."""
    if done < recipe.schedule_peak:
        share = done / recipe.schedule_peak
        return recipe.schedule_start + (1 - recipe.schedule_start) * share
    share = (done - recipe.schedule_peak) / (1 - recipe.schedule_peak)
    return 1 + (recipe.schedule_end - 1) * share


def _scale_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            [parameter for _, parameter in named], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        optimizer.param_groups[0]["peak"] = recipe.learning_rate
        return optimizer
    # Jordan (2024): with momentum m, one example moves the weights by (1 + 1 / (1 - m)) times the learning rate.
    # Per 1,024 examples and for summed losses; ours are means, hence the batch size below.
    kilostep = 1024 * (1 + 1 / (1 - recipe.momentum))
    rate = recipe.learning_rate / kilostep * recipe.batch_size
    decay = recipe.weight_decay / kilostep * recipe.batch_size  # decoupled: not multiplied by the learning rate
    groups = []
    for scale, wanted in ((recipe.bias_scaler, True), (1.0, False)):
        parameters = [parameter for name, parameter in named if name.endswith("bias") == wanted]
        peak = rate * scale
        groups.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay / peak})
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
