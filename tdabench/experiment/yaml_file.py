"""YAML 1.2, where things are what they look like: `yes`, `1:30` and dates are text, `1e-4` and `032` numbers."""

import io
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.resolver import VersionedResolver

_CORE = ("str", "int", "float", "bool", "null", "seq", "map", "merge")


def read_yaml(text: str) -> Any:
    """Read a document: what JSON has, and infinities and NaN; a key of a mapping is text, and stands once.

    Raises:
        ValueError: If it is not valid; the message names line and column.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}") from error
    except (YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except LookupError as error:  # ruamel.yaml stumbles over a tag on a value of another type, such as !!bool maybe
        raise ValueError(f"a tag does not fit its value ({error}).") from error
    except RecursionError as error:
        raise ValueError("its lists and mappings lie too deep in each other.") from error


def write_yaml(content: Any) -> str:
    """Write a document that :func:`read_yaml` reads back, keys in their order."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style, writer.width, writer.Resolver = False, 100, _Resolver
    writer.sort_base_mapping_type_on_output = False
    stream = io.StringIO()
    writer.dump(content, stream)
    return stream.getvalue()


class _Resolver(VersionedResolver):
    """What plain scalars are: in the core schema there are no dates."""

    def add_version_implicit_resolver(self, version: Any, tag: str, regexp: re.Pattern[str], first: list[str]) -> None:
        """Leave out the two that are not of the core schema."""
        if not tag.endswith((":timestamp", ":value")):
            super().add_version_implicit_resolver(version, tag, regexp, first)


class _Constructor(SafeConstructor):
    def construct_document(self, node: Node) -> Any:
        """Check a document before anything of it is made."""
        for place, problem in _faults(node, set()):
            raise ConstructorError(None, None, problem, place.start_mark)
        return super().construct_document(node)


def _faults(node: Node, seen: set[int]) -> Iterator[tuple[Node, str]]:
    """Return what JSON could not hold, and keys that stand twice, which ruamel.yaml overlooks beside a merge key."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _CORE:
        yield node, f"the tag {node.tag} is of no value that JSON has."
    if isinstance(node, ScalarNode):
        return
    if isinstance(node, MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                yield key, "a key must be text, and this one is a list or a mapping."
            elif key.tag.rpartition(":")[2] not in ("str", "merge"):
                yield key, f"a key must be text: put {key.value} in quotes."
            elif key.value in keys:
                yield key, f"the key {key.value!r} stands twice."
            keys.add(str(key.value))
    for part in node.value:
        for one in part if isinstance(node, MappingNode) else (part,):
            yield from _faults(one, seen)
