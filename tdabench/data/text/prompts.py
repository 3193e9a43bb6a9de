"""Queries that are a prompt and its completion, as of Grosse et al. (2023): only the completion counts in the loss."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Int
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from tdabench.data.text.tokenizers import Tokenizer, Tokens


class Prompt(BaseModel, frozen=True):
    """A query; nothing of one with an empty completion would count in the loss."""

    name: Annotated[str, Field(min_length=1)]
    prompt: str
    completion: Annotated[str, Field(min_length=1)]


class _File(BaseModel):
    queries: Annotated[list[Prompt], Field(min_length=1)]


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompt-completion queries: JSON, ``{"queries": [{"name", "prompt", "completion"}, ...]}``; more keys may be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON in UTF-8, a key is missing or no text, a completion is empty, or two queries have
            one name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of queries {path}.")
    try:
        prompts = _File.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8)).queries
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f'{path} needs {{"queries": [{{"name", "prompt", "completion"}}, ...]}}, and {where} is wrong: '
            f"{first['msg']}."
        ) from error
    names = [prompt.name for prompt in prompts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two queries named {twice[0]!r}: give each a name of its own.")
    return prompts


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, positions: int | None
) -> tuple[Int[Tensor, "query position"], Int[Tensor, "query 2"]]:
    """Tokenise queries into rows padded on the right.

    Prompt and completion are tokenised apart, so that no token holds a part of both. Of a prompt that is too long, the
    beginning is left out.

    Args:
        positions: Tokens of a row; as many as the longest query has, if that is left open.

    Returns:
        The tokens, and the first and one past the last token of each completion.

    Raises:
        ValueError: If a completion has no tokens, or leaves no room for a token before it: nothing predicts the first.
    """
    befores = tokenizer.encode([prompt.prompt for prompt in prompts])
    afters = Tokenizer(tokenizer.library).encode([prompt.completion for prompt in prompts])
    lengths = [len(before) + len(after) for before, after in zip(befores, afters, strict=True)]
    positions = positions or max(*lengths, 2)
    tokens = torch.zeros(len(prompts), positions, dtype=torch.int32)
    spans = torch.zeros(len(prompts), 2, dtype=torch.int32)
    for row, (prompt, before, after) in enumerate(zip(prompts, befores, afters, strict=True)):
        before = _fit_prompt(prompt.name, before, after, positions, begun=tokenizer.begin is not None)
        whole = torch.tensor([*before, *after])
        tokens[row, : len(whole)] = whole
        spans[row] = torch.tensor([max(len(before), 1), len(whole)])  # nothing predicts the first token
    return tokens, spans


def _fit_prompt(name: str, before: Tokens, after: Tokens, positions: int, *, begun: bool) -> Tokens:
    """Return a prompt's tokens with the one that begins them, so many as there is room for before the completion."""
    if not after:
        raise ValueError(f"The completion of query {name} has no tokens: nothing of it would count in the loss.")
    total = len(before) + len(after)
    if total < 2:
        raise ValueError(f"Query {name} has one token; it needs two, since nothing predicts the first.")
    if total <= positions:
        return before
    first, room = before[:begun], positions - begun - len(after)
    if room < 0 or begun + room == 0:
        raise ValueError(
            f"The completion of query {name} has {len(after):,} tokens and leaves no room in {positions:,} for a token "
            "before it: raise the length of the rows."
        )
    return [*first, *before[len(before) - room :]]
