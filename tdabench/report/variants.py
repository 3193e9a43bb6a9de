"""Methods that differ in a number: one colour family, and which of them a line joins."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.colors import to_hex, to_rgb

# How far the lightest variant is mixed with white, and the darkest with black.
LIGHTEST, DARKEST = 0.45, 0.4


def find_base(method: str, known: Iterable[str]) -> str | None:
    """Return the longest known method of which the key says that it is a variant: ``trak_3x128`` is one of ``trak``."""
    found = [base for base in known if method == base or method.startswith(f"{base}_")]
    return max(found, key=len, default=None)


def shade(colour: str, place: int, count: int) -> str:
    """Return the colour of one of so many variants: from lighter to darker; a single one keeps the colour."""
    share = 0 if count < 2 else LIGHTEST - (LIGHTEST + DARKEST) * place / (count - 1)
    towards = 1.0 if share > 0 else 0.0
    return to_hex([value + abs(share) * (towards - value) for value in to_rgb(colour)])


def find_lines(methods: Mapping[str, Any]) -> list[list[str]]:
    """Join methods that differ in one number alone, in its order: the same method at growing prices.

    A setting that is a word makes another method, not another price.

    Args:
        methods: The experiment's: each has a ``path`` and ``settings``.
    """
    lines = []
    for setting in dict.fromkeys(name for component in methods.values() for name in component.settings):
        groups: dict[str, list[str]] = {}
        for method, component in methods.items():
            if _is_number(component.settings.get(setting)):
                others = {name: value for name, value in component.settings.items() if name != setting}
                groups.setdefault(f"{component.path} {sorted(others.items(), key=str)}", []).append(method)
        for group in groups.values():
            if len(group) > 1:
                lines.append(sorted(group, key=lambda method, name=setting: methods[method].settings[name]))
    return lines


def short_labels(labels: Sequence[str]) -> list[str]:
    """Return what tells the labels of one line apart: their last word, if all words before it are the same."""
    heads = {label.rpartition(" ")[0] for label in labels}
    return [label.rpartition(" ")[2] for label in labels] if len(heads) == 1 and heads != {""} else list(labels)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
