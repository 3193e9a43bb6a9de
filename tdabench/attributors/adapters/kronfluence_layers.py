"""Which layers of a model kronfluence can track."""

import collections
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from tdabench.attributors.base import Problem, Unsupported, copy_model, take
from tdabench.attributors.running.passes import counted
from tdabench.examples import is_text

# What models call the layer that maps features to the vocabulary, where they have no method that gives it.
OUTPUT_EMBEDDINGS = ("embed_out", "lm_head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """Layers by name: those that are tracked, and why each of the others is not."""

    tracked: list[str]
    left_out: dict[str, str]

    def describe(self, model: nn.Module) -> str | None:
        """Say what is left out, and the share of the trained parameters that is tracked; None if nothing is."""
        if not self.left_out:
            return None
        parts = [f"{name} ({reason})" for name, reason in self.left_out.items()]
        trained = {id(value): value.numel() for value in model.parameters() if value.requires_grad}
        tracked = {id(value) for name in self.tracked for value in model.get_submodule(name).parameters()}
        share = sum(size for key, size in trained.items() if key in tracked) / sum(trained.values())
        return f"left out of the layers: {', '.join(parts)}; {share:.0%} of the trained parameters are tracked"


def find_layers(problem: Problem) -> Layers:
    """Find the layers that kronfluence can track and whose weight is trained; no language model's output embedding.

    kronfluence takes others too, and computes them wrongly or stops: grouped convolutions, parameters that several
    modules share, modules that one pass calls several times or never. They are found by a pass of one example, unless
    the model has no values (on the device ``meta``).

    Raises:
        Unsupported: If there are none, or the examples are neither labelled images nor rows of tokens.
    """
    language = is_text(problem.train)
    if not language and not {"image", "label"} <= problem.train.keys():
        raise Unsupported(
            f"kronfluence's adapter needs image and label, or input_ids and labels, got {', '.join(problem.train)}."
        )
    model = problem.models[0]
    outputs = output_embeddings(model) if language else []
    names = [
        name
        for name, module in model.named_modules()
        if name and type(module) in (nn.Linear, nn.Conv2d) and module.weight.requires_grad and name not in outputs
    ]
    left_out = dict(_find_faults(problem, names))
    tracked = [name for name in names if name not in left_out]
    if not tracked:
        besides = f" besides the output embedding ({', '.join(outputs)})" if outputs else ""
        besides += (
            f" besides {', '.join(f'{name} ({reason})' for name, reason in left_out.items())}" if left_out else ""
        )
        raise Unsupported(
            f"kronfluence needs trained nn.Linear or nn.Conv2d layers (exact types) inside a model{besides}."
        )
    return Layers(tracked=tracked, left_out=left_out)


def _find_faults(problem: Problem, names: list[str]) -> Iterator[tuple[str, str]]:
    """Name the layers that can't be tracked, each with the reason."""
    model = problem.models[0]
    owners = collections.Counter(id(value) for module in model.modules() for value in module._parameters.values())
    values_are_there = all(value.device.type != "meta" for value in model.parameters())
    calls, reached = _probe(problem, names) if names and values_are_there else (dict.fromkeys(names, 1), set(names))
    for name in names:
        layer = model.get_submodule(name)
        if getattr(layer, "groups", 1) != 1:
            yield name, f"a convolution in {layer.groups} groups"
        elif any(owners[id(value)] > 1 for value in layer.parameters()):
            yield name, "its parameters are another module's too"
        elif calls[name] > 1:
            yield name, f"called {calls[name]} times in a pass"
        elif name not in reached:
            yield name, "without a gradient"


def _probe(problem: Problem, names: list[str]) -> tuple[dict[str, int], set[str]]:
    """Count the calls of layers in a pass of one example, and name those that get a gradient."""
    model, calls = copy_model(problem.models[0]), dict.fromkeys(names, 0)
    layers = {name: model.get_submodule(name) for name in names}

    def count(name: str) -> None:
        calls[name] += 1

    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: count(name))
    with counted(0), torch.enable_grad():
        problem.loss(model, take(problem.train, slice(1))).sum().backward()
    return calls, {name for name, layer in layers.items() if layer.weight.grad is not None}


def output_embeddings(model: nn.Module) -> list[str]:
    """Name the modules of a language model that map features to the vocabulary, under whatever names they have."""
    give = getattr(model, "get_output_embeddings", None)  # transformers' models have it
    found = give() if give is not None else None
    return [
        name
        for name, module in model.named_modules()
        if (module is found if found is not None else name.rpartition(".")[2] in OUTPUT_EMBEDDINGS)
    ]
