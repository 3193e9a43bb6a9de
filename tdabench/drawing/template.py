"""Pages that are a single file: style and script stand in it, and no other script may run."""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup


def render_template(name: str, /, *, styles: Sequence[str], script: str | None = None, **values: Any) -> str:
    """Fill a template of the package; every text that is filled in is escaped.

    Args:
        styles: Names of CSS files, as paths in the package.
        script: Name of a JavaScript file.
    """
    code = _source(script) if script else ""
    return (
        _environment()
        .get_template(name)
        .render(
            **values,
            style=Markup("\n".join(_source(style) for style in styles)),
            script=Markup(code),
            script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        )
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tdabench", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    return importlib.resources.files("tdabench").joinpath(name).read_text(encoding="utf-8")
