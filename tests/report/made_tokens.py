"""A made-up query with made-up token scores, of which every colour can be computed."""

from pathlib import Path

import torch
from torch import Tensor

from tdabench.questions.tokens.page import MethodPassages, Passage, Question
from tdabench.storage.cell import Cell

PLACE = ("lds_stories", Cell(Path("results/lds_stories"), 0, 400))
QUERY = ("Tell", " me", ":", " a", " cat", " ⏎\n", " ran")
COUNTED = torch.tensor([False, False, False, True, True, True, True])
TEXTS = (
    ("The", " cat", " sat", " down", "."),
    ("A", " dog", " ran", "␣", " away", "."),
    ("No", " one", " ran", "."),
    ("<script>document.title='attacked'</script>", " &amp;", " end"),
)


def make_question(index: int = 17) -> Question:
    return Question(index=index, pieces=QUERY, counted=COUNTED)


def make_pairs(number: int) -> Tensor:
    """Return the scores of a sequence's tokens for the query's: (query token, training token)."""
    generator = torch.Generator().manual_seed(number)
    pairs = torch.randn(len(QUERY), len(TEXTS[number]), generator=generator)
    return pairs * COUNTED[:, None] * (torch.arange(len(TEXTS[number])) > 0)


def make_passage(number: int, *, pairs: bool = True) -> Passage:
    scores = make_pairs(number)
    whole = scores.sum(0) if pairs else 40 * scores.abs().sum(0)
    return Passage(
        index=100 + number,
        pieces=TEXTS[number],
        counted=torch.arange(len(TEXTS[number])) > 0,
        score=whole.sum().item(),
        whole=whole,
        pairs=scores if pairs else None,
    )


def make_methods() -> list[MethodPassages]:
    return [
        MethodPassages(
            label="BIF",
            summary="Covariance of token losses.",
            facts=(("draws", "500"),),
            helpful=(make_passage(0), make_passage(1)),
            harmful=(make_passage(2), make_passage(3)),
        ),
        MethodPassages(
            label="EK-FAC",
            helpful=(make_passage(1, pairs=False),),
            harmful=(make_passage(3, pairs=False),),
        ),
        MethodPassages(label="TRAK", reason="TRAK has no scores of tokens."),
    ]
