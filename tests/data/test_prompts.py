"""Prompt-completion queries: read and checked, then as rows in which the completion alone counts."""

import json

import pytest
import torch

from tdabench.data.text.prompts import encode_prompts, read_prompts

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


@pytest.fixture
def write(tmp_path):
    def write_queries(queries):
        path = tmp_path / "queries.json"
        path.write_text(json.dumps({"queries": queries}), encoding="utf-8")
        return path

    return write_queries


def test_queries_are_read_in_their_order_and_other_keys_are_left(write):
    path = write([GOOD | {"group": "roads"}, GOOD | {"name": "Дорога"}])

    assert read_prompts(path) == [("ring", "one two", " three four"), ("Дорога", "one two", " three four")]


@pytest.mark.data
def test_the_queries_of_grosse_et_al_are_read_and_encoded(data_root):
    prompts = read_prompts(data_root / "influence-queries" / "grosse2023_queries.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(data_root / "pythia-tokenizer" / "tokenizer.json"))

    rows = encode_prompts(prompts, tokenizer, 400)

    counted = rows["labels"] != -100
    assert len(prompts) == 29
    assert counted.any(1).all()
    for (_, prompt, completion), tokens, counts in zip(prompts, rows["input_ids"], counted, strict=True):
        first = int(counts.nonzero()[0])
        assert tokenizer.decode(tokens[counts].tolist()) == completion
        assert tokenizer.decode(tokens[:first].tolist()) == prompt


@pytest.mark.parametrize("key", ["name", "prompt", "completion"])
def test_a_query_without_a_key_is_refused_by_its_place(write, key):
    query = {name: value for name, value in GOOD.items() if name != key}

    with pytest.raises(ValueError, match=f"query 1 lacks the key {key}"):
        read_prompts(write([GOOD, query]))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (GOOD | {"completion": ""}, r"query 0 \(ring\) has an empty completion"),
        (GOOD | {"name": ""}, "empty name"),
        (GOOD | {"prompt": 3}, "prompt must be text, got 3"),
        (GOOD | {"prompt": "\ud83d"}, "half a character"),
        (["ring"], "no mapping with name, prompt, completion, but list"),
    ],
)
def test_a_faulty_query_is_refused(write, query, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(write([query]))


def test_two_queries_of_one_name_are_refused(write):
    with pytest.raises(ValueError, match="two queries named 'ring'"):
        read_prompts(write([GOOD, GOOD]))


@pytest.mark.parametrize("content", [b"[]", b'{"queries": []}', b'{"queries": {}}', b"{}", b"3"])
def test_a_file_without_queries_is_refused(tmp_path, content):
    path = tmp_path / "queries.json"
    path.write_bytes(content)

    with pytest.raises(ValueError, match="needs the key queries"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"queries": "\xff"}', "not valid UTF-8 at byte 13"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_file_that_is_no_json_in_utf8_is_refused(tmp_path, content, message):
    path = tmp_path / "queries.json"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_an_absent_file_of_queries_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of queries .*nowhere\.json"):
        read_prompts(tmp_path / "nowhere.json")


def test_the_completion_alone_counts_and_padding_is_on_the_right(tokenizer):
    rows = encode_prompts([("a", "one two", "three four"), ("b", "", "one five")], tokenizer, 5)

    assert rows["input_ids"].tolist() == [[1, 2, 3, 4, 0], [1, 5, 0, 0, 0]]
    assert rows["labels"].tolist() == [[-100, -100, 3, 4, -100], [-100, 5, -100, -100, -100]]
    assert rows["labels"].dtype == torch.int64


def test_a_token_that_begins_every_prompt_lets_the_first_of_a_completion_count(tokenizer):
    rows = encode_prompts([("a", "", "three")], tokenizer, 3, begin=9)

    assert rows["input_ids"].tolist() == [[9, 3, 0]]
    assert rows["labels"].tolist() == [[-100, 3, -100]]


def test_a_prompt_that_is_too_long_is_cut_from_the_left_if_a_setting_says_so_and_keeps_its_beginning_token(tokenizer):
    rows = encode_prompts([("a", "one two three", "four five")], tokenizer, 4, begin=9, truncate=True)

    assert rows["input_ids"].tolist() == [[9, 3, 4, 5]]
    assert rows["labels"].tolist() == [[-100, -100, 4, 5]]


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (("a", "one two three", "four"), {}, "Query a has 4 tokens and there is room for 3"),
        (("a", "", "four"), {}, "Query a has one token; it needs two"),
        (("a", "one", " "), {}, "completion of query a has no tokens"),
        (("a", "one", "two three four five"), {"truncate": True}, "4 tokens and leaves no room in 3"),
        (("a", "one", "two three four"), {"truncate": True}, "3 tokens and leaves no room in 3"),
        (("a", "one", "two three four"), {"truncate": True, "begin": 9}, "leaves no room in 3"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(tokenizer, query, options, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts([query], tokenizer, 3, **options)
