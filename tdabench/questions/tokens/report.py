"""What the report shows of scores of tokens: links to their pages."""

from typing import Any

from tdabench.drawing.section import Shown


def _links(experiment: Any) -> dict[str, str]:
    """Return the links to the pages of tokens, by what they are called."""
    return {
        f"Tokens, n = {size:,}, repeat {repeat}": f"tokens/{repeat}-{size}/index.html"
        for repeat in range(experiment.repeats)
        for size in experiment.data.train_sizes
    }


SHOWN = Shown(links=_links)
