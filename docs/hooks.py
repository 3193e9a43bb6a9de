"""What the site needs of the pages: copies of the files outside docs/ that they link to, and formulas as MathML."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# What is copied lies below this folder of the site, at its path in the repository.
PLACE = "repository"
FORMULA = re.compile(r"\\(?P<kind>[\[(])(?P<tex>.*?)\\[\])](?=</(?:span|div)>)", re.DOTALL)
LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<target>[^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add what the pages link to outside docs/; of a page of HTML in a folder of tokens, its neighbours too."""
    for page in list(files.documentation_pages()):
        for link in LINK.finditer(Path(page.abs_src_path).read_text(encoding="utf-8")):
            for path in _outside(page.src_uri, link):
                if files.get_file_from_path(f"{PLACE}/{path}") is None:
                    files.append(File.generated(config, f"{PLACE}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links outside docs/ to the copies."""
    return LINK.sub(lambda link: _redirect(page.file.src_uri, link), markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Write formulas as MathML, which browsers show without a script and without a network."""
    return FORMULA.sub(_as_mathml, content)


def _as_mathml(formula: re.Match[str]) -> str:
    return convert(html.unescape(formula["tex"]), display="block" if formula["kind"] == "[" else "inline")


def _redirect(source: str, link: re.Match[str]) -> str:
    outside = _outside(source, link)
    return f"]({'../' * source.count('/')}{PLACE}/{outside[0]}" if outside else link[0]


def _outside(source: str, link: re.Match[str]) -> list[str]:
    """Return the linked path in the repository, and its neighbours if it is an index; nothing if it is in docs/."""
    if link["up"].count("../") != source.count("/") + 1:
        return []
    target = ROOT / link["target"]
    found = [target, *sorted(target.parent.iterdir())] if target.name == "index.html" else [target]
    return [path.relative_to(ROOT).as_posix() for path in found if path.is_file()]
