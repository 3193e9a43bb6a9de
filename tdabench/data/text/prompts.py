"""Queries that are a prompt and its completion, as of Grosse et al. (2023): only the completion counts in the loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tdabench.examples import IGNORED, Examples

Prompt = tuple[str, str, str]  # name, prompt, completion
KEYS = ("name", "prompt", "completion")


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompt-completion queries: JSON, ``{"queries": [{"name", "prompt", "completion"}, ...]}``; more keys may be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 or not JSON, a key is missing or no text, a completion is empty, or two queries
            have one name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file of queries {path}.")
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid UTF-8 at byte {error.start:,}: save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    queries = content.get("queries") if isinstance(content, dict) else None
    if not isinstance(queries, list) or not queries:
        raise ValueError(f'{path} needs the key queries: a list of {{"name", "prompt", "completion"}}.')
    prompts = [_check_prompt(query, f"{path}: query {place}") for place, query in enumerate(queries)]
    names = [name for name, _, _ in prompts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two queries named {twice[0]!r}: give each a name of its own.")
    return prompts


def _check_prompt(query: Any, where: str) -> Prompt:
    if not isinstance(query, dict):
        raise ValueError(f"{where} is no mapping with {', '.join(KEYS)}, but {type(query).__name__}.")
    for key in KEYS:
        if key not in query:
            raise ValueError(f"{where} lacks the key {key}.")
        if not isinstance(query[key], str):
            raise ValueError(f"{where}: {key} must be text, got {query[key]!r}.")
        if any("\ud800" <= sign <= "\udfff" for sign in query[key]):
            raise ValueError(f"{where}: {key} has half a character (a lone surrogate), which no UTF-8 can hold.")
    name, prompt, completion = (query[key] for key in KEYS)
    if not name:
        raise ValueError(f"{where} has an empty name.")
    if not completion:
        raise ValueError(f"{where} ({name}) has an empty completion: nothing of it would count in the loss.")
    return name, prompt, completion


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, positions: int, *, begin: int | None = None, truncate: bool = False
) -> Examples:
    """Tokenise queries into rows padded on the right; labels are -100 but for the completion.

    Prompt and completion are tokenised apart, so that no token holds a part of both.

    Args:
        tokenizer: Of the library tokenizers.
        positions: Tokens of a row.
        begin: A token before every prompt.
        truncate: Leave out the beginning of a prompt that is too long, instead of refusing it.

    Raises:
        ValueError: If a query has fewer than two tokens, or more than there are positions (a completion alone, if
            prompts may be truncated).
    """
    tokens = torch.zeros(len(prompts), positions, dtype=torch.int64)
    labels = torch.full_like(tokens, IGNORED)
    for row, (name, prompt, completion) in enumerate(prompts):
        before, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, completion))
        before = _fit_prompt(name, before, after, positions, begin=begin, truncate=truncate)
        whole = torch.tensor([*before, *after])
        tokens[row, : len(whole)] = whole
        first = max(len(before), 1)  # nothing predicts the first token
        labels[row, first : len(whole)] = whole[first:]
    return {"input_ids": tokens, "labels": labels}


def _fit_prompt(
    name: str, before: list[int], after: list[int], positions: int, *, begin: int | None, truncate: bool
) -> list[int]:
    """Return a prompt's tokens with the one that begins them, so many as there is room for before the completion."""
    first = [] if begin is None else [begin]
    if not after:
        raise ValueError(f"The completion of query {name} has no tokens: nothing of it would count in the loss.")
    total = len(first) + len(before) + len(after)
    if total < 2:
        raise ValueError(f"Query {name} has one token; it needs two, since nothing predicts the first.")
    if total <= positions:
        return [*first, *before]
    if not truncate:
        raise ValueError(
            f"Query {name} has {total:,} tokens and there is room for {positions:,}: raise the length of the rows, or "
            "let prompts be truncated from the left."
        )
    room = positions - len(first) - len(after)
    if room < 0 or len(first) + room == 0:
        raise ValueError(
            f"The completion of query {name} has {len(after):,} tokens and leaves no room in {positions:,} for a token "
            "before it: raise the length of the rows."
        )
    return [*first, *before[len(before) - room :]]
