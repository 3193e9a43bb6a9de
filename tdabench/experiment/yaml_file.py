"""YAML that may be anybody's: read safely, and refused where it is too large, too deep or holds what no file can."""

import re
from typing import Any

import yaml

# Of a file, and of what it says once every alias is written out: a few lines can stand for more than memory holds.
MOST_CHARACTERS = 30_000
MOST_LEVELS = 20
MOST_BITS = 63


def read_yaml(text: str) -> Any:
    """Read YAML safely, with 1e-4 as a number and no key twice.

    Raises:
        ValueError: If it is not valid, or beyond what an experiment could need.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; {MOST_CHARACTERS:,} are read at most.")
    try:
        content = yaml.load(text, Loader=_Loader)
        size, levels = _measure(content, {})
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"it has more than {MOST_LEVELS} levels, or an alias that holds itself.") from error
    except (LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML itself stumbles over a tag on a value of another type, such as !!bool maybe.
        raise ValueError(f"a tag does not fit its value ({type(error).__name__}: {error}).") from error
    if levels > MOST_LEVELS:
        raise ValueError(f"it has {levels} levels of lists and mappings; {MOST_LEVELS} are the most.")
    if size > MOST_CHARACTERS:
        raise ValueError(f"with every alias written out it has {size:,} characters; {MOST_CHARACTERS:,} are the most.")
    return content


def _measure(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count characters, each alias where it stands, and levels; refuse what no record or file name could hold."""
    if isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" or (sign < " " and sign not in "\t\n") for sign in value):
            raise ValueError(f"the text {value[:40]!r} has a control character or half a character.")
        return 1 + len(value), 0
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError(f"a whole number has {value.bit_length():,} bits; {MOST_BITS} are the most.")
    if not isinstance(value, dict | list | tuple | set):
        return 1, 0
    if id(value) not in known:  # an alias that stands many times is measured once
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        sizes, levels = zip((0, 0), *(_measure(part, known) for part in parts), strict=True)
        known[id(value)] = 1 + sum(sizes), 1 + max(levels)
    return known[id(value)]


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 that also reads 1e-4 as a number (PyYAML's own takes it for text) and refuses a repeated key."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a mapping whose keys are all different, before merge keys (<<) add theirs."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} stands twice{node.start_mark}")
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Add what merge keys name, each key once: PyYAML keeps all, twice as many with every merge of a merge."""
        super().flatten_mapping(node)
        last = {
            (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)): (key, value)
            for key, value in node.value
        }
        node.value = list(last.values())


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
