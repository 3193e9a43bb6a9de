"""Tokens as text: whatever bytes they hold, they can be seen, and together they read as the text."""

import pytest

from tdabench.questions.tokens.pieces import cut_text, make_visible

tokenizers = pytest.importorskip("tokenizers")

CHINESE = "Чай 饮茶 🍵!"


@pytest.fixture(scope="module")
def by_bytes():
    """Return a tokenizer of byte-level BPE without merges: each byte is a token."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({sign: place for place, sign in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    made.add_tokens(["    "])
    return made


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_each_byte_of_plain_text_is_itself(by_bytes):
    assert cut_text(encode(by_bytes, "a b!"), by_bytes) == ["a", "␣", "b", "!"]


def test_a_character_of_several_tokens_stands_with_the_last_of_them(by_bytes):
    assert cut_text(encode(by_bytes, "饮!"), by_bytes) == ["⋯", "⋯", "饮", "!"]


def test_a_character_that_is_cut_off_is_shown_as_missing(by_bytes):
    tokens = encode(by_bytes, "饮a")

    assert cut_text(tokens[:2], by_bytes) == ["⋯", "\N{REPLACEMENT CHARACTER}"]
    assert cut_text([tokens[0], tokens[3]], by_bytes) == ["⋯", "\N{REPLACEMENT CHARACTER}a"]


def test_special_and_added_tokens_are_their_own_text(by_bytes):
    assert cut_text(by_bytes.encode("a<|end|>    b").ids, by_bytes) == ["a", "<|end|>", "␣␣␣␣", "b"]


def test_every_byte_is_read_as_itself(by_bytes):
    text = "".join(chr(number) for number in range(ord("!"), 0x800) if chr(number).isprintable())

    assert "".join(cut_text(encode(by_bytes, text), by_bytes)).replace("⋯", "") == text


def test_a_number_that_no_token_has_is_shown_as_a_number(by_bytes):
    assert cut_text([encode(by_bytes, "饮")[0], 90_000], by_bytes) == ["⋯", "\N{REPLACEMENT CHARACTER}⟨90000⟩"]


@pytest.mark.data
@pytest.mark.parametrize("folder", ["pythia-tokenizer", "stories260K"])
def test_the_tokens_of_a_real_tokenizer_read_as_the_text(data_root, folder):
    tokenizer = tokenizers.Tokenizer.from_file(str(data_root / folder / "tokenizer.json"))

    pieces = cut_text(encode(tokenizer, CHINESE), tokenizer)

    assert "⋯" in pieces
    assert "".join(pieces).replace("⋯", "").replace("␣", " ").strip(" ") == CHINESE


def test_word_pieces_have_a_space_where_a_word_begins():
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    made.decoder = tokenizers.decoders.WordPiece()

    assert cut_text([1, 2, 1], made) == ["play", "ing", " play"]


def test_a_tokenizer_without_a_decoder_shows_its_words():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "▁one": 1}, unk_token="?"))

    assert cut_text([1, 0], made) == ["▁one", " ?"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n\n", "⏎\n⏎\n"),
        ("a\tb", "a⇥b"),
        ("  ", "␣␣"),
        (" a ", " a "),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\x00\x1b", "⟨U+0000⟩⟨U+001B⟩"),
        ("a\N{NO-BREAK SPACE}b", "a\N{NO-BREAK SPACE}b"),
    ],
)
def test_what_cannot_be_seen_is_written_as_something_that_can(text, shown):
    assert make_visible(text) == shown
