"""BM25 (Robertson et al., 1994), a baseline that needs no model: which rows share words with a query."""

import dataclasses
import logging
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.adapters.token_rows import real_tokens
from tdabench.attributors.base import Examples, Problem, Unsupported
from tdabench.cost import phase
from tdabench.examples import device_of, is_text
from tdabench.runtime.progress import progress

# What a query of nothing but padding asks for, and no row has: bm25s refuses to be asked for nothing.
NO_WORD = "no word"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BM25:
    r"""Lexical similarity of rows of tokens, by bm25s (Lucene's variant): no model, no gradient, no randomness.

    .. math:: \mathrm{score}(j, i) = \sum_{v \in j} \log\Big(1 + \frac{n - n_v + 1/2}{n_v + 1/2}\Big)
        \frac{c_{vi}}{c_{vi} + k_1 (1 - b + b\, l_i / \bar l)}

    over the tokens v of the query j, with :math:`c_{vi}` how often the training row i has it, :math:`n_v` how many of
    the n rows have it, and :math:`l_i` the length of row i. A row's words are its tokens, a prompt's too; padding is
    left out.

    Attributes:
        k1: :math:`k_1`, at least 0: how slowly repetitions of a token stop to count; 0: they don't count.
        b: In [0, 1]: how much a long row's counts are worth less.
    """

    k1: float = 1.5
    b: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.k1 < float("inf"):
            raise ValueError(f"k1 must be at least 0 and finite, got {self.k1}.")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b must lie in [0, 1], got {self.b}.")

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Index the training rows, and score them for every query.

        Raises:
            Unsupported: If the examples are no rows of tokens.
            ImportError: If bm25s is not installed.
        """
        if not is_text(problem.train):
            raise Unsupported(f"BM25 compares rows of tokens, and examples here are {' and '.join(problem.train)}.")
        index = _import_bm25s().BM25(k1=self.k1, b=self.b, method="lucene", backend="numpy")
        with phase("fit"):
            index.index(_words(problem.train), show_progress=False)
        queries = progress(_words(problem.query), "BM25 queries")
        scores = [torch.as_tensor(index.get_scores(query or [NO_WORD])) for query in queries]
        return torch.stack(scores).to(device_of(problem.train))

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Use none: its index is small beside the rows themselves."""
        return {"train": 0, "query": 0, "reference": 0}


def _words(examples: Examples) -> list[list[str]]:
    """Return each row's tokens as words."""
    real = real_tokens(examples["labels"]).cpu()
    rows = zip(examples["input_ids"].cpu(), real, strict=True)
    return [[str(token) for token in tokens[kept].tolist()] for tokens, kept in rows]


def _import_bm25s() -> ModuleType:
    try:
        import bm25s
    except ImportError as error:
        raise ImportError("BM25 needs bm25s: pip install 'tdabench[language]'.") from error
    logging.getLogger("bm25s").setLevel(logging.INFO)  # it tells every step, as a fault-finder would
    return bm25s
