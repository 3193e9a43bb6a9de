"""Which parameters move: chosen by patterns of names."""

import fnmatch
from collections.abc import Iterator, Sequence

from torch import nn

from tdabench.attributors.base import copy_model

# What transformers, torchvision, timm and PyTorch call these modules, in lower case. A module's own name must be equal
# to one of them: GPT-NeoX's ``post_attention_layernorm`` is no attention.
WORDS = {
    "attention": (
        *("attention", "attn", "mha"),
        *("self_attention", "self_attn", "selfattention", "multihead_attn"),
        *("cross_attention", "cross_attn", "crossattention", "encoder_attn", "encdecattention"),
    ),
    "mlp": ("mlp", "ffn", "feed_forward", "feedforward", "densereludense"),
}


def require_patterns(patterns: Sequence[str] | None) -> None:
    """Check the form of patterns.

    Raises:
        ValueError: If they are no list of at least one pattern, or one is no text or empty.
    """
    if patterns is None:
        return
    is_list = isinstance(patterns, list | tuple) and len(patterns) > 0
    if not is_list or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"restrict must be a list of patterns of names, or null, got {patterns!r}.")


def restrict_model(model: nn.Module, patterns: Sequence[str] | None) -> nn.Module:
    """Return a copy of a model in which only the parameters that a pattern matches require a gradient.

    A pattern is a word or a glob (``*``, ``?``, ``[ab]``; case counts; a ``*`` crosses dots):

    - ``attention``, ``mlp``: parameters in a module with one of the names that ``WORDS`` lists, in any case;
    - a glob: parameters whose dotted name it matches, or that are in a module whose dotted name it matches, so that
      ``gpt_neox.layers.0`` are all parameters of the first layer and ``*.bias`` all biases.

    A parameter with several names (tied weights) is chosen by any of them. One that doesn't require a gradient in the
    given model doesn't in the copy either.

    Args:
        patterns: None restricts nothing, and gives the model itself.

    Raises:
        ValueError: If a pattern matches no parameter that requires a gradient.
    """
    if patterns is None:
        return model
    model = copy_model(model)
    movable = [(name, value) for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad]
    chosen = set()
    for pattern in patterns:
        matched = {id(value) for name, value in movable if _matches(name, pattern)}
        if not matched:
            raise ValueError(_describe_miss(model, pattern))
        chosen |= matched
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return model


def _matches(parameter: str, pattern: str) -> bool:
    called = WORDS.get(pattern)
    if called is not None:
        modules = parameter.lower().split(".")[:-1]
        return not set(modules).isdisjoint(called)
    return any(fnmatch.fnmatchcase(name, pattern) for name in _names_around(parameter))


def _names_around(parameter: str) -> Iterator[str]:
    """Return the dotted names of a parameter and of the modules that it is in."""
    parts = parameter.split(".")
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


def _describe_miss(model: nn.Module, pattern: str, *, shown: int = 12) -> str:
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    some = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    words = " or ".join(WORDS)
    return (
        f"restrict: {pattern!r} matches no parameter that requires a gradient. The model's modules are "
        f"{some or 'none'}; give a name of a module or parameter, a glob of them (as *.bias), or {words}."
    )
