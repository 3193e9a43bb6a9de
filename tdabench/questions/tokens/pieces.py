"""Tokens as text that people can read: each by itself, whatever bytes it holds."""

import unicodedata
from collections.abc import Sequence
from typing import Any

PARTIAL, BROKEN = "⋯", "\N{REPLACEMENT CHARACTER}"


def cut_text(tokens: Sequence[int], tokenizer: Any) -> list[str]:
    """Return what each token looks like; one after another, they read as the text.

    A character that several tokens share stands with the last of them, and those before it are shown as ⋯. A line's
    end is ⏎ and a break, a token of nothing but spaces is ␣, and what can't be seen, or would turn the direction of
    the text, is shown by its number.

    Args:
        tokenizer: Of the library tokenizers.
    """
    shown: list[str] = []
    before: list[int] = []  # decides whether a space comes first
    pending: list[int] = []
    for place, token in enumerate(tokens):
        if tokenizer.id_to_token(token) is None:
            shown.append(f"{BROKEN if pending else ''}⟨{token}⟩")
            before, pending = [], []
            continue
        pending.append(token)
        start = len(tokenizer.decode(before, skip_special_tokens=False))
        text = tokenizer.decode(before + pending, skip_special_tokens=False)[start:]
        if text.endswith(BROKEN) and place < len(tokens) - 1:
            shown.append(PARTIAL)
            continue
        shown.append(make_visible(text) or PARTIAL)
        before, pending = pending, []
    return shown


def make_visible(text: str) -> str:
    """Write what can't be seen as something that can."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥"
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return f"⟨U+{ord(character):04X}⟩"
