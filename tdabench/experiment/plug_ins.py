"""The files that a plug-in is: its module, and what that imports from beside it. Imports no torch."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def hash_plug_in(module: str) -> str | None:
    """Return the hash of a plug-in's file and of the files beside it that it imports, however far; None without one.

    Files are read, never run. Of an installed package, those of its own package count.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    first = Path(spec.origin) if spec and spec.origin else None
    if first is None or not first.is_file():
        return None
    root = first.parents[module.count(".") + (first.name == "__init__.py")]
    files, queue = {first}, [first]
    while queue:
        found = set(_imported(queue.pop(), root, module.partition(".")[0])) - files
        files |= found
        queue += found
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in [first, *sorted(files - {first})]]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _imported(path: Path, root: Path, package: str) -> Iterator[Path]:
    """Return the files below a root that a file imports; tdabench's own are not a plug-in's."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # its own job says so
        return
    installed = root.name in ("site-packages", "dist-packages")
    for name in {name for node in ast.walk(tree) for name in _names(node, path.relative_to(root).parts)}:
        top, *_ = parts = name.split(".")
        if top != "tdabench" and (top == package or not installed):
            places = [root.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
            files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
            yield from filter(Path.is_file, files)


def _names(node: ast.AST, parts: tuple[str, ...]) -> list[str]:
    """Return the modules that a statement may import, in the file that has these parts below the root."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or node.level > len(parts):
        return []
    base = [*(parts[: -node.level] if node.level else ()), *([node.module] if node.module else [])]
    return [".".join([*base, *more]) for more in ([], *([alias.name] for alias in node.names)) if [*base, *more]]
