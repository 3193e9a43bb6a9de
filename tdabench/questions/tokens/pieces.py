"""Tokens as text that people can read: each by itself, whatever bytes it holds."""

import codecs
import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
PARTIAL = "⋯"


def cut_text(tokens: Sequence[int], tokenizer: Any) -> list[str]:
    """Return what each token looks like; one after another, they read as the text.

    A character that several tokens share stands with the last of them, and those before it are shown as ⋯. A line's
    end is ⏎ and a break, a token of nothing but spaces is ␣, and what can't be seen, or would turn the direction of
    the text, is shown by its number.

    Args:
        tokenizer: Of the library tokenizers.
    """
    spell = _speller(tokenizer)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    shown = []
    for place, token in enumerate(tokens):
        content = spell(token)
        if content is None:
            text = f"{decoder.decode(b'', final=True)}⟨{token}⟩"
            decoder.reset()
        else:
            text = decoder.decode(content, final=place == len(tokens) - 1)
        shown.append(make_visible(text) or PARTIAL)
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


def _speller(tokenizer: Any) -> Any:
    """Make a function that gives a token's bytes, or nothing for a number that no token has."""
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    kinds = set(_kinds(json.loads(tokenizer.to_str())["decoder"]))

    def spell(number: int) -> bytes | None:
        if number in added:
            return added[number].encode()
        token = tokenizer.id_to_token(number)
        if token is None:
            return None
        if "ByteLevel" in kinds:
            alphabet = _alphabet()
            return b"".join(alphabet.get(character, character.encode()) for character in token)
        if "ByteFallback" in kinds and _BYTE.fullmatch(token):
            return bytes.fromhex(token[3:5])
        if "WordPiece" in kinds:
            return token.removeprefix("##").encode() if token.startswith("##") else f" {token}".encode()
        return token.replace("▁", " ").encode() if {"Replace", "Metaspace"} & kinds else token.encode()

    return functools.cache(spell)


def _kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    """Name a tokenizer's decoder, and those that it consists of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", []):
            yield from _kinds(part)


@functools.cache
def _alphabet() -> dict[str, bytes]:
    """Return the byte that each character of byte-level BPE stands for (Radford et al., 2019)."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in itself]
    letters = {chr(byte): bytes([byte]) for byte in itself}
    return letters | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}
