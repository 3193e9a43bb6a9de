"""Tokenizers: from a folder, from the Hugging Face hub, or trained on the text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tdabench.data.text.options import Rows

Tokens = list[int]
AT_A_TIME = 1000


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the library tokenizers, and the token that begins every document."""

    library: Any
    begin: int | None = None

    def encode(self, documents: Sequence[str]) -> list[Tokens]:
        """Return each document's tokens; no special token is added but the first."""
        first = [] if self.begin is None else [self.begin]
        found = []
        for start in range(0, len(documents), AT_A_TIME):
            encoded = self.library.encode_batch(list(documents[start : start + AT_A_TIME]), add_special_tokens=False)
            found += [[*first, *one.ids] for one in encoded]
        return found


def choose_tokenizer(rows: Rows, documents: Sequence[str], root: Path) -> Tokenizer:
    """Load or train the tokenizer that the options of a source ask for.

    Raises:
        FileNotFoundError: If it is neither in the data root nor on the hub, or the hub can't be reached.
        ImportError: If the library is not installed.
        ValueError: If its file is damaged, or it lacks the token that begins a document.
    """
    if rows.tokenizer is None:
        special = [] if rows.begin is None else [rows.begin]
        library = train_tokenizer(documents, rows.vocabulary, special=special)
    else:
        library = load_tokenizer(rows.tokenizer, root, revision=rows.tokenizer_revision)
    begin = None if rows.begin is None else library.token_to_id(rows.begin)
    if rows.begin is not None and begin is None:
        raise ValueError(f"The tokenizer {rows.tokenizer} has no token {rows.begin!r} (data.options.begin).")
    return Tokenizer(library, begin)


def load_tokenizer(name: str, root: Path, *, revision: str | None = None) -> Any:
    """Load a tokenizer from a folder of the data root, or else from the hub.

    Raises:
        FileNotFoundError: If it is in neither, or the hub can't be reached.
        ValueError: If its file is damaged.
    """
    library = _import_tokenizers()
    path = root / name / "tokenizer.json"
    if not path.is_file():
        path = _download(name, root, revision)
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} is no tokenizer that can be read ({error}).") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def train_tokenizer(documents: Sequence[str], vocabulary: int, *, special: Sequence[str] = ()) -> Any:
    """Train byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) on documents.

    Raises:
        ValueError: If there is no text.
    """
    if not any(documents):
        raise ValueError("A tokenizer can't be trained on an empty text.")
    library = _import_tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def tokenizer_bytes(tokenizer: Tokenizer) -> UInt8[Tensor, " byte"]:
    """Return a tokenizer's file as a tensor."""
    return torch.tensor(list(tokenizer.library.to_str().encode()), dtype=torch.uint8)


def restore_tokenizer(content: UInt8[Tensor, " byte"]) -> Any:
    """Make the library's tokenizer of a dataset's bytes again."""
    return _import_tokenizers().Tokenizer.from_str(bytes(content.tolist()).decode())


def _download(name: str, root: Path, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "tokenizer.json", revision=revision, etag_timeout=10))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no tokenizer.json in {root / name}, and none could be had from the Hugging Face hub under "
            f"that name ({type(error).__name__}). Put its folder into the data root (--data, TDABENCH_DATA), or "
            "set data.options.tokenizer to null to train one on the text."
        ) from error


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("Text needs the library tokenizers: pip install 'tdabench[language]'.") from error
    return tokenizers
