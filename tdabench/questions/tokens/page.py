"""The token page: which tokens of which training sequences helped which tokens of a query (the paper's Fig. 2, 16-20).

Scores are those of tdabench everywhere: positive means helpful.
"""

import base64
import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.drawing.columns import MINUS
from tdabench.drawing.template import render_template
from tdabench.storage.cell import Cell

# Scores are whole numbers up to this one, times the sequence's strongest score.
STEPS = 32_767
# A colour is full from this share of a method's scores on, so that a single one doesn't leave all others pale.
FULL_COLOUR = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
    """A training sequence that a method named for a query.

    Attributes:
        index: Of the training example.
        pieces: Its tokens as text.
        counted: Which of them count in its loss: a prompt's don't.
        score: Of the whole sequence for the whole query.
        whole: Of each token for the whole query.
        pairs: Of each token for each token of the query, if the method tells them apart.
    """

    index: int
    pieces: tuple[str, ...]
    counted: Bool[Tensor, " tpos"]
    score: float
    whole: Float[Tensor, " tpos"]
    pairs: Float[Tensor, "qpos tpos"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodPassages:
    """What one method says about a query; without scores, the reason.

    Attributes:
        label: What the method is called.
        summary: What its scores are and what they were made from, in a few words.
        facts: Its settings, by name.
    """

    label: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    helpful: tuple[Passage, ...] = ()
    harmful: tuple[Passage, ...] = ()
    reason: str = ""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All of them, in the order in which they stand on the page."""
        return self.helpful + self.harmful

    @property
    def has_pairs(self) -> bool:
        """Say whether there are scores for single tokens of the query."""
        return any(passage.pairs is not None for passage in self.passages)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A query.

    Attributes:
        index: Of the test example.
        counted: Which tokens count in its loss: a prompt's don't.
    """

    index: int
    pieces: tuple[str, ...]
    counted: Bool[Tensor, " qpos"]

    @property
    def file(self) -> str:
        """The name of its page."""
        return f"{self.index}.html"

    @property
    def beginning(self) -> str:
        """Its first words, as one line."""
        return textwrap.shorten("".join(self.pieces).replace("⏎", " ").replace("␣", " "), 160, placeholder="…")


def render_token_page(
    experiment: str,
    cell: Cell,
    question: Question,
    methods: Sequence[MethodPassages],
    *,
    neighbours: tuple[str | None, str | None],
) -> str:
    """Make a query's page; every text from data is escaped.

    Args:
        experiment: Its name.
        neighbours: The files of the queries before and after it.
    """
    shown = [method for method in methods if not method.reason]
    return render_template(
        "questions/tokens/templates/tokens.html.jinja",
        styles=["report/templates/page.css", "questions/tokens/templates/tokens.css"],
        script="questions/tokens/templates/tokens.js",
        experiment=experiment,
        cell=cell,
        question=question,
        methods=shown,
        missing=[method for method in methods if method.reason],
        ranks=rank_passages(shown),
        before=neighbours[0],
        after=neighbours[1],
        steps=f"{STEPS:,}",
        share=f"{FULL_COLOUR:.0%}",
        format_score=format_score,
        scores={"steps": STEPS, "methods": [pack_method(method) for method in shown]},
    )


def render_token_index(experiment: str, cell: Cell, questions: Sequence[Question], labels: Sequence[str]) -> str:
    """Make the page with every query's link and beginning."""
    return render_template(
        "questions/tokens/templates/tokens_index.html.jinja",
        styles=["report/templates/page.css", "questions/tokens/templates/tokens.css"],
        experiment=experiment,
        cell=cell,
        questions=questions,
        labels=labels,
    )


def rank_passages(methods: Sequence[MethodPassages]) -> dict[int, list[tuple[int, str, str]]]:
    """Give, for each training example, who names it: the method's place, its label, and the rank (+1, -1, ...)."""
    ranks: dict[int, list[tuple[int, str, str]]] = {}
    for place, method in enumerate(methods):
        for sign, passages in (("+", method.helpful), (MINUS, method.harmful)):
            for rank, passage in enumerate(passages, start=1):
                ranks.setdefault(passage.index, []).append((place, method.label, f"{sign}{rank}"))
    return ranks


def pack_method(method: MethodPassages) -> dict[str, Any]:
    """Return a method's scores as the page's script reads them."""
    return {
        "label": method.label,
        "wholeLimit": colour_limit([passage.whole for passage in method.passages]),
        "pairLimit": colour_limit([passage.pairs for passage in method.passages if passage.pairs is not None]),
        "passages": [
            {
                name: None if scores is None else pack_scores(scores)
                for name, scores in (("whole", one.whole), ("pairs", one.pairs))
            }
            for one in method.passages
        ],
    }


def pack_scores(scores: Float[Tensor, "..."]) -> dict[str, Any]:
    """Round scores to whole numbers of 16 bits, little-endian in base64, of which the strongest is ``STEPS``.

    Raises:
        ValueError: If a score is not finite.
    """
    if not scores.isfinite().all():
        raise ValueError("A page of tokens needs finite scores; a chain diverged, or a file is damaged.")
    strongest = scores.abs().max().item()
    rounded = (scores.double() * (STEPS / strongest)).round() if strongest else torch.zeros_like(scores)
    return {
        "strongest": strongest,
        "rounded": base64.b64encode(rounded.flatten().numpy().astype("<i2").tobytes()).decode(),
    }


def colour_limit(scores: Sequence[Float[Tensor, "..."]]) -> float:
    """Return the score at which a colour is full: as strong as 99 % of a method's scores, or the strongest."""
    if not scores:
        return 0.0
    strengths = torch.cat([part.flatten() for part in scores]).abs().sort().values
    limit = strengths[math.ceil(FULL_COLOUR * len(strengths)) - 1].item()
    return limit or strengths[-1].item()


def format_score(score: float) -> str:
    """Write a score with its sign and three significant digits."""
    if not math.isfinite(score) or score == 0:
        return "0" if score == 0 else "—"
    size = abs(score)
    if 1e-3 <= float(f"{size:.2e}") < 1e3:
        text = f"{size:.{max(0, 2 - math.floor(math.log10(float(f'{size:.2e}'))))}f}"
    else:
        mantissa, exponent = f"{size:.2e}".split("e")
        text = f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return ("+" if score > 0 else MINUS) + text
