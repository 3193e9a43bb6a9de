"""Made-up problems that bring a method's properties to light."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.base import Examples, Problem
from tdabench.seeds import isolated_random_state, make_generator

# Pixels of the flat problem that only flat examples light up, one a group.
GROUPS = 16


class OwnConvolution(nn.Module):
    """A convolution that is no ``nn.Conv2d``: the same function of the same parameters."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve."""
        return functional.conv2d(inputs, self.weight, self.bias)


class OwnAffine(nn.Module):
    """An affine map that is no ``nn.Linear``: the same function of the same parameters."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Map."""
        return functional.linear(inputs, self.weight, self.bias)


class FalseCurvature(nn.Module):
    r"""The identity in value and first derivative, with a second derivative that is made up.

    .. math:: y = x + \tfrac{c}{2} (x - \bar x)^2, \qquad \bar x = x \text{ held fixed}

    Whoever only takes first derivatives, anywhere, finds no difference, exactly; whoever differentiates twice does, so
    much that it can't be overlooked.
    """

    def __init__(self, curvature: float = 1e6) -> None:
        super().__init__()
        self.curvature = curvature

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs."""
        return inputs + self.curvature / 2 * (inputs - inputs.detach()).square()


def rewrite(model: nn.Module, *, own_layers: bool, false_curvature: bool) -> nn.Module:
    """Write the network of ``make_image_problem`` in another way: equal losses and gradients, shared parameters.

    Args:
        own_layers: Whether its layers become modules of our own.
        false_curvature: Whether a ``FalseCurvature`` follows its convolution.
    """
    layers: list[nn.Module] = []
    for layer in model.children():
        own: dict[type, Callable[..., nn.Module]] = {nn.Conv2d: OwnConvolution, nn.Linear: OwnAffine}
        layers.append(own[type(layer)](layer) if own_layers and type(layer) in own else layer)
        if false_curvature and isinstance(layer, nn.Conv2d):
            layers.append(FalseCurvature())
    return nn.Sequential(*layers).eval()


class Squares(nn.Module):
    """Square every number."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Square."""
        return inputs.square()


class KeepPixels(nn.Module):
    """Set pixels to zero where the mask does."""

    def __init__(self, mask: Float[Tensor, " pixel"]) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply by the mask."""
        return inputs * self.mask


def make_flat_problem(workspace: Path, *, curved: bool, num_models: int = 1, seed: int = 0) -> Problem:
    r"""Make a problem whose first ``GROUPS`` training examples and queries have no gradient, but curvature.

    The logits are :math:`\pm v \cdot (W x)^2`. Flat example g lights up one pixel, g, on which W is zero: its loss
    :math:`\log(1 + e^{2 v \cdot (W x)^2})` is at its minimum, with zero gradient and Hessian
    :math:`2 \, \mathrm{diag}(v) \otimes x x^T`. Flat query g has the same pixel as flat training example g, brighter,
    and no other shares it. All other examples leave these pixels dark.

    Args:
        workspace: An empty folder.
        curved: Whether the network sees the flat examples' pixels; if not, their losses are constant.
    """
    generator = make_generator(seed, "flat problem")
    pixels, units, others = 64, 8, 192
    with isolated_random_state(generator):
        hidden, output = nn.Linear(pixels, units, bias=False), nn.Linear(units, 2, bias=False)
    weight = torch.randn(units, pixels, generator=generator) / pixels**0.5
    weight[:, :GROUPS] = 0
    hidden.weight.data, output.weight.data = weight, torch.tensor([[0.1], [-0.1]]).expand(2, units).clone()
    mask = torch.ones(pixels)
    mask[:GROUPS] = float(curved)
    model = nn.Sequential(nn.Flatten(), KeepPixels(mask), hidden, Squares(), output).eval()
    train, query = (_draw_flat(model, light, count, generator) for light, count in ((3.0, others), (4.0, GROUPS // 2)))
    return Problem(
        models=(model,) * num_models,
        loss=classification_loss,
        train=train,
        query=query,
        reference=train,
        workspace=workspace,
    )


def _draw_flat(model: nn.Module, light: float, others: int, generator: torch.Generator) -> Examples:
    images = torch.randn(GROUPS + others, 1, 8, 8, generator=generator)
    images.view(len(images), -1)[:, :GROUPS] = 0
    images[:GROUPS] = 0
    images.view(len(images), -1)[range(GROUPS), range(GROUPS)] = light
    with torch.no_grad():
        chance = model(images).softmax(dim=1)
    labels = torch.multinomial(chance, 1, generator=generator).flatten()  # the model is right about its labels
    labels[:GROUPS] = 1
    return {"image": images.contiguous(memory_format=torch.channels_last), "label": labels}


def classification_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Cross-entropy of each example."""
    return functional.cross_entropy(model(examples["image"]), examples["label"], reduction="none")


def make_token_problem(workspace: Path, *, num_models: int = 1, seed: int = 0) -> Problem:
    """Make a language problem: next tokens of short sequences, by a network with an embedding and an affine map.

    Args:
        workspace: An empty folder.
    """
    generator = make_generator(seed, "token problem")
    vocabulary, features = 12, 8
    with isolated_random_state(generator):
        model = nn.Sequential(nn.Embedding(vocabulary, features), nn.Linear(features, vocabulary)).eval()
    train, query = ({"input_ids": torch.randint(vocabulary, (count, 6), generator=generator)} for count in (10, 3))
    return Problem(
        models=(model,) * num_models,
        loss=lambda model, examples: next_token_losses(model, examples).mean(dim=1),
        token_loss=next_token_losses,
        train=train,
        query=query,
        reference=train,
        workspace=workspace,
    )


def next_token_losses(model: nn.Module, examples: Examples) -> Float[Tensor, "example position"]:
    """Cross-entropy of every token but the first, given the one before."""
    tokens = examples["input_ids"]
    return functional.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")
