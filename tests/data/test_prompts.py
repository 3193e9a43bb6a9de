"""Prompt-completion queries: read and checked, then as rows in which the completion alone counts."""

import json

import pytest

from tdabench.data.text.prompts import Prompt, encode_prompts, read_prompts
from tdabench.data.text.tokenizers import Tokenizer

tokenizers = pytest.importorskip("tokenizers")

GOOD = {"name": "ring", "prompt": "one two", "completion": " three four"}


@pytest.fixture
def tokenizer():
    words = ["one", "two", "three", "four", "five"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"?": 0} | {word: number for number, word in enumerate(words, start=1)}, "?")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def encode(queries, library, positions, begin=None):
    prompts = [Prompt(name=name, prompt=prompt, completion=completion) for name, prompt, completion in queries]
    tokens, spans = encode_prompts(prompts, Tokenizer(library, begin), positions)
    return tokens.tolist(), spans.tolist()


@pytest.fixture
def write(tmp_path):
    def write_queries(queries):
        path = tmp_path / "queries.json"
        path.write_text(json.dumps({"queries": queries}), encoding="utf-8")
        return path

    return write_queries


def test_queries_are_read_in_their_order_and_other_keys_are_left(write):
    path = write([GOOD | {"group": "roads"}, GOOD | {"name": "Дорога"}])

    assert read_prompts(path) == [Prompt(**GOOD), Prompt(**GOOD | {"name": "Дорога"})]


@pytest.mark.data
def test_the_queries_of_grosse_et_al_are_read_and_encoded(data_root):
    prompts = read_prompts(data_root / "influence-queries" / "grosse2023_queries.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(data_root / "pythia-tokenizer" / "tokenizer.json"))

    tokens, spans = encode_prompts(prompts, Tokenizer(tokenizer), None)

    assert len(prompts) == 29
    for prompt, row, (first, end) in zip(prompts, tokens.tolist(), spans.tolist(), strict=True):
        assert tokenizer.decode(row[first:end]) == prompt.completion
        assert tokenizer.decode(row[:first]) == prompt.prompt


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"name": "ring", "prompt": "one"}, r"queries\.0\.completion is wrong: Field required"),
        (GOOD | {"completion": ""}, r"queries\.0\.completion is wrong: .* at least 1 character"),
        (GOOD | {"name": ""}, r"queries\.0\.name is wrong: .* at least 1 character"),
        (GOOD | {"prompt": 3}, r"queries\.0\.prompt is wrong: .* valid string"),
        (GOOD | {"prompt": "\ud83d"}, "Invalid JSON: .* hex escape"),
        (["ring"], r"queries\.0 is wrong: .* object"),
    ],
)
def test_a_faulty_query_is_refused_by_its_place(write, query, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(write([query]))


def test_two_queries_of_one_name_are_refused(write):
    with pytest.raises(ValueError, match="two queries named 'ring'"):
        read_prompts(write([GOOD, GOOD]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "the file is wrong: .* object"),
        (b'{"queries": []}', "queries is wrong: .* at least 1 item"),
        (b"{}", "queries is wrong: Field required"),
        (b'{"queries": "\xff"}', "the file is wrong: Invalid JSON: invalid unicode code point at line 1"),
        (b"{", "the file is wrong: Invalid JSON"),
        (b"[" * 100_000, "the file is wrong: Invalid JSON"),
    ],
)
def test_a_file_without_queries_is_refused(tmp_path, content, message):
    path = tmp_path / "queries.json"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_an_absent_file_of_queries_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of queries .*nowhere\.json"):
        read_prompts(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("queries", "positions", "begin", "tokens", "spans"),
    [
        ([("a", "one two", "three four"), ("b", "", "one five")], 5, None, [[1, 2, 3, 4, 0], [1, 5, 0, 0, 0]],
         [[2, 4], [1, 2]]),
        # A token that begins every prompt lets the first of a completion count.
        ([("a", "", "three")], 3, 9, [[9, 3, 0]], [[1, 2]]),
        # A prompt that is too long loses its beginning, but for that token.
        ([("a", "one two three", "four five")], 4, 9, [[9, 3, 4, 5]], [[2, 4]]),
        ([("a", "one two", "three")], None, 9, [[9, 1, 2, 3]], [[3, 4]]),
    ],
)  # fmt: skip
def test_the_completion_alone_counts_and_padding_is_on_the_right(tokenizer, queries, positions, begin, tokens, spans):
    assert encode(queries, tokenizer, positions, begin) == (tokens, spans)


@pytest.mark.parametrize(
    ("query", "begin", "message"),
    [
        (("a", "", "four"), None, "Query a has one token; it needs two"),
        (("a", "one", " "), None, "completion of query a has no tokens"),
        (("a", "one", "two three four five"), None, "4 tokens and leaves no room in 3"),
        (("a", "one", "two three four"), None, "3 tokens and leaves no room in 3"),
        (("a", "one", "two three four"), 9, "leaves no room in 3"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(tokenizer, query, begin, message):
    with pytest.raises(ValueError, match=message):
        encode([query], tokenizer, 3, begin)
