"""Which methods of a table are divided by self-influence, in a sentence: a ranking of unlike things has to say so."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

BASELINES = "tdabench.attributors.baselines:"  # nothing to be divided


def tell_division(
    methods: Mapping[str, Mapping[str, Any]], shown: Collection[str], label: Callable[[str], str] = str
) -> str:
    """Say which of the methods that are shown are divided by self-influence, and which are not; nothing if all alike.

    A correlation of losses is a covariance that is divided so.

    Args:
        methods: Their lines in the file, as recorded.
        label: What people call a method.
    """
    lines = {name: line for name, line in methods.items() if name in shown and not line["path"].startswith(BASELINES)}
    divided = {name for name, line in lines.items() if _is_divided(line)}
    if not 0 < len(divided) < len(lines):
        return ""
    names = [", ".join(label(name) for name in lines if (name in divided) is told) for told in (True, False)]
    return (
        "Unlike things are compared here. Divided by the root of each training example's self-influence: "
        f"{names[0]}. Not divided: {names[1]}."
    )


def _is_divided(line: Mapping[str, Any]) -> bool:
    return line.get("normalize") == "self" or line["settings"].get("estimate") == "correlation"
