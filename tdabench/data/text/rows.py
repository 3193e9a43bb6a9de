"""Text as rows of tokens: what language models are attributed on, and how documents become rows."""

import bisect
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tdabench.data.base import Examples
from tdabench.data.text.options import Rows
from tdabench.data.text.prompts import encode_prompts, read_prompts
from tdabench.data.text.tokenizers import Tokens, choose_tokenizer, tokenizer_bytes
from tdabench.examples import IGNORED


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData:
    """Rows of tokens, padded on the right.

    Attributes:
        train_spans: First and one past the last token of each row that counts in its loss: what is before is a prompt,
            what is behind is padding.
        pretraining_tokens: Rows that a model is pretrained on, none of them in the other parts.
        tokenizer: The bytes of its ``tokenizer.json``.

    Raises:
        ValueError: If rows have fewer than two positions: then no token has one before it.
    """

    train_tokens: Int[Tensor, "train position"]
    train_spans: Int[Tensor, "train 2"]
    test_tokens: Int[Tensor, "test query_position"]
    test_spans: Int[Tensor, "test 2"]
    pretraining_tokens: Int[Tensor, "row row_position"]
    pretraining_spans: Int[Tensor, "row 2"]
    tokenizer: UInt8[Tensor, " byte"]

    def __post_init__(self) -> None:
        positions = self.train_tokens.shape[1]
        if positions < 2:
            raise ValueError(f"A row of text needs at least two tokens, got {positions}.")

    @property
    def sizes(self) -> dict[str, int]:
        """Return how many examples each part has."""
        return {part: len(getattr(self, f"{part}_tokens")) for part in ("train", "test", "pretraining")}

    @property
    def details(self) -> dict[str, Any]:
        """Return what belongs into the record of a result file, beside the tensors."""
        return {"kind": "text"}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a result file holds."""
        return dict(vars(self))

    def examples(self, part: str, indices: Int[Tensor, " example"], device: torch.device | str = "cpu") -> Examples:
        """Return ``input_ids`` and ``labels`` (as transformers has them: -100 where a token doesn't count) on a device.

        Args:
            part: ``train``, ``test`` or ``pretraining``.
        """
        tokens = getattr(self, f"{part}_tokens")[indices].long()
        first, end = getattr(self, f"{part}_spans")[indices].long()[..., None].unbind(1)
        places = torch.arange(tokens.shape[1])
        counted = (places >= first.clamp(min=1)) & (places < end)  # nothing predicts the first token
        return {"input_ids": tokens.to(device), "labels": tokens.where(counted, IGNORED).to(device)}


def make_text(documents: Sequence[str], rows: Rows, *, root: Path, test: Sequence[str] | None = None) -> TextData:
    """Tokenise documents once and divide them into rows.

    Args:
        root: The data root, where a tokenizer's folder may lie.
        test: Documents for the queries; without them, rows of the others are set aside.

    Raises:
        FileNotFoundError: If the tokenizer is neither there nor can be downloaded.
        ValueError: If a part of the text is too short to give a row.
    """
    ordered = sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())[: rows.most_documents]
    tokenizer = choose_tokenizer(rows, ordered, root)
    encoded = tokenizer.encode(ordered)
    divided = _divide_documents([len(tokens) for tokens in encoded], rows.pretraining)
    parts = {"pretraining": _cut(encoded[:divided], rows), "train": _cut(encoded[divided:], rows)}
    if rows.prompts is not None:
        parts["test"] = []
    elif test is None:
        parts["test"] = parts["train"][:: rows.test_every]
        parts["train"] = [row for place, row in enumerate(parts["train"]) if place % rows.test_every]
    else:
        parts["test"] = _cut(tokenizer.encode(test), rows)
    for part in ("train", "test", "pretraining"):
        wanted = rows.pretraining if part == "pretraining" else part == "train" or rows.prompts is None
        if wanted and not parts[part]:
            raise ValueError(
                f"The text gives no {part} row of {rows.length} tokens ({len(ordered)} documents): give more text, "
                "lower data.options.length or shortest, or divide a file into documents (data.options.separator)."
            )
    stacked = {name: value for part, found in parts.items() for name, value in _stack(part, found, rows).items()}
    if rows.prompts is not None:
        prompts = read_prompts(root / rows.prompts)
        stacked["test_tokens"], stacked["test_spans"] = encode_prompts(prompts, tokenizer, rows.prompt_length)
    return TextData(**stacked, tokenizer=tokenizer_bytes(tokenizer))


def _divide_documents(lengths: Sequence[int], share: float) -> int:
    """Return how many documents from the first on hold a share of all tokens."""
    return bisect.bisect_left([0, *itertools.accumulate(lengths)], share * sum(lengths))


def _cut(documents: Iterable[Tokens], rows: Rows) -> list[Tokens]:
    shortest = rows.length if rows.shortest is None else rows.shortest
    pieces = (
        tokens[start : start + rows.length] for tokens in documents for start in range(0, len(tokens), rows.length)
    )
    return [piece for piece in pieces if len(piece) >= shortest]


def _stack(part: str, pieces: Sequence[Tokens], rows: Rows) -> dict[str, Tensor]:
    tokens = torch.zeros(len(pieces), rows.length, dtype=torch.int32)
    spans = torch.zeros(len(pieces), 2, dtype=torch.int32)
    for place, piece in enumerate(pieces):
        tokens[place, : len(piece)] = torch.tensor(piece, dtype=torch.int32)
        spans[place, 1] = len(piece)
    return {f"{part}_tokens": tokens, f"{part}_spans": spans}
