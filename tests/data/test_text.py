"""Documents become rows of tokens, and bad text a clear error."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tdabench.data.restore import restore_data
from tdabench.data.sources import HubText, PythonTopics, TextFiles, WikiText2, read_text
from tdabench.data.text.options import Rows
from tdabench.data.text.rows import TextData, make_text
from tdabench.data.text.tokenizers import restore_tokenizer
from tdabench.storage.records import load_record, load_tensors, make_record, save_tensors

DOCUMENTS = [f"document {number} says: " + "one two three four. " * (3 + number) for number in range(12)]


def test_rows_are_the_documents_tokens_in_order_and_none_holds_two_documents():
    data = make_text(DOCUMENTS, Rows(length=8, shortest=2, vocabulary=300), root=Path())

    texts = [_decode(data, part, row) for part in ("train", "test") for row in range(data.sizes[part])]
    for document in DOCUMENTS:
        assert any(document.startswith(text) for text in texts)
    assert all(any(text in document for document in DOCUMENTS) for text in texts)
    assert sum(map(len, texts)) >= 0.98 * sum(map(len, DOCUMENTS))  # only an end of one token is left out


def test_a_short_end_is_padded_and_what_is_padding_does_not_count():
    data = make_text(DOCUMENTS, Rows(length=8, shortest=2, vocabulary=300), root=Path())
    without = make_text(DOCUMENTS, Rows(length=8, vocabulary=300), root=Path())
    lengths = data.train_spans[:, 1]
    assert lengths.min() < 8
    assert (without.train_spans[:, 1] == 8).all()

    examples = data.examples("train", torch.arange(data.sizes["train"]))

    counted = examples["labels"] != -100
    assert torch.equal(counted.sum(dim=1), lengths - 1)  # nothing predicts the first token
    assert not counted[:, 0].any()
    assert torch.equal(examples["labels"][counted], examples["input_ids"][counted])


def test_the_order_of_the_documents_changes_nothing():
    rows = Rows(length=8, shortest=2, vocabulary=300, pretraining=0.4)

    first, second = (make_text(documents, rows, root=Path()) for documents in (DOCUMENTS, DOCUMENTS[::-1]))

    for name, values in first.tensors().items():
        assert torch.equal(values, second.tensors()[name]), name


def test_text_for_pretraining_is_in_no_other_part_and_has_its_share():
    data = make_text(DOCUMENTS, Rows(length=8, shortest=2, vocabulary=300, pretraining=0.4), root=Path())

    tokens = {part: int((getattr(data, f"{part}_spans")[:, 1]).sum()) for part in data.sizes}
    share = tokens["pretraining"] / sum(tokens.values())
    heads = {
        part: {text for row in range(size) if (text := _decode(data, part, row)[:11]).startswith("document")}
        for part, size in data.sizes.items()
    }
    assert 0.4 <= share < 0.6  # whole documents
    assert heads["pretraining"]
    assert heads["train"] | heads["test"]
    assert not heads["pretraining"] & (heads["train"] | heads["test"])


def test_documents_for_queries_are_the_only_queries():
    data = make_text(DOCUMENTS[:6], Rows(length=8, vocabulary=300), root=Path(), test=["one two three. " * 9])

    assert all(_decode(data, "test", row).strip() in "one two three. " * 9 for row in range(data.sizes["test"]))


def test_a_text_dataset_survives_its_file(tmp_path):
    data = make_text(DOCUMENTS, Rows(length=8, vocabulary=300), root=Path())
    path = tmp_path / "dataset.safetensors"
    save_tensors(path, data.tensors(), make_record({}, **data.details))

    restored = restore_data(load_tensors(path), load_record(path))

    assert isinstance(restored, TextData)
    assert _decode(restored, "train", 0) == _decode(data, "train", 0)


@settings(max_examples=30, deadline=None)
@given(text=st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_trained_tokenizer_loses_no_character(text):
    encodable = [part for part in text if part.encode("utf-8", "ignore").decode() == part]
    rows = Rows(length=2, shortest=2, vocabulary=257, test_every=2)
    try:
        data = make_text(encodable, rows, root=Path(), test=["abcdef"])
    except ValueError:
        return  # too short for a row

    tokenizer = restore_tokenizer(data.tokenizer)
    for part in encodable:
        assert tokenizer.decode(tokenizer.encode(part).ids, skip_special_tokens=False) == part


def test_prompts_with_completions_are_the_queries_and_their_completions_alone_count(tmp_path):
    queries = [
        {"name": "one", "prompt": "one two", "completion": " three."},
        {"name": "long", "prompt": "document 1 says: one two three four", "completion": " one two three."},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps({"queries": queries}), encoding="utf-8")
    data = make_text(DOCUMENTS, Rows(length=8, vocabulary=300, prompts="prompts.json"), root=tmp_path)

    examples = data.examples("test", torch.arange(2))

    tokenizer = restore_tokenizer(data.tokenizer)
    for row, query in enumerate(queries):
        counted = examples["labels"][row] != -100
        assert tokenizer.decode(examples["input_ids"][row][counted].tolist()) == query["completion"]
        assert _decode(data, "test", row) == query["prompt"] + query["completion"]
    without = make_text(DOCUMENTS, Rows(length=8, vocabulary=300), root=tmp_path).sizes
    assert data.sizes["train"] == without["train"] + without["test"]  # no row is set aside


def test_a_prompt_longer_than_its_rows_loses_its_beginning(tmp_path):
    query = {"name": "long", "prompt": "document 1 says: one two three four", "completion": " one two three."}
    (tmp_path / "prompts.json").write_text(json.dumps({"queries": [query]}), encoding="utf-8")
    rows = Rows(length=8, vocabulary=300, prompts="prompts.json", prompt_length=8)

    data = make_text(DOCUMENTS, rows, root=tmp_path)

    assert data.test_tokens.shape == (1, 8)
    assert _decode(data, "test", 0).endswith(query["completion"])
    assert not _decode(data, "test", 0).startswith("document")


def test_by_default_rows_of_prompts_have_room_for_the_longest_however_its_parts_are_tokenised(tmp_path):
    # Together the words are few tokens, and cut in their middle they are many.
    query = {"name": "cut", "prompt": "document docume", "completion": "nt says"}
    (tmp_path / "prompts.json").write_text(json.dumps({"queries": [query]}), encoding="utf-8")

    data = make_text(DOCUMENTS, Rows(length=8, vocabulary=400, begin="<s>", prompts="prompts.json"), root=tmp_path)

    assert _decode(data, "test", 0).removeprefix("<s>") == query["prompt"] + query["completion"]
    assert data.test_tokens.shape[1] == data.test_spans[0, 1]


# Sources


def test_the_embedded_text_gives_rows_without_any_data(tmp_path):
    data = PythonTopics(length=32, pretraining=0.5).load(tmp_path / "nothing")

    assert data.sizes["pretraining"] > 500
    assert data.sizes["train"] > data.sizes["test"] > 100


def test_files_are_divided_into_documents_by_their_separator(tmp_path):
    (tmp_path / "text.txt").write_text("\n===\n".join(DOCUMENTS), encoding="utf-8")
    source = TextFiles(files=("text.txt",), separator="\n===\n", length=8, shortest=2, vocabulary=300)

    data = source.load(tmp_path)

    expected = make_text(DOCUMENTS, Rows(length=8, shortest=2, vocabulary=300), root=Path())
    assert torch.equal(data.train_tokens, expected.train_tokens)


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_its_text(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfA text.")

    assert read_text(tmp_path / "text.txt") == "A text."


def test_an_article_of_wikitext_is_a_document(tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    article = " = {} = \n\n = = Head = = \n Words of {} and more words , many of them . \n\n"
    names = [f"Title {letter}" for letter in "ABCDEFGH"]
    (tmp_path / "wikitext-2" / "train.txt").write_text(
        "\n" + "".join(article.format(name, name) for name in names), encoding="utf-8"
    )

    data = WikiText2(length=8, vocabulary=280, shortest=2).load(tmp_path)

    starts = [_decode(data, part, row) for part in ("train", "test") for row in range(data.sizes[part])]
    assert sum(text.startswith(" = T") for text in starts) == len(names)


def test_a_tokenizer_begins_every_document_where_it_is_told(tmp_path):
    data = make_text(DOCUMENTS, Rows(length=8, vocabulary=300, begin="<s>"), root=tmp_path)

    begin = restore_tokenizer(data.tokenizer).token_to_id("<s>")
    assert 0 < (torch.cat([data.train_tokens, data.test_tokens])[:, 0] == begin).sum() <= len(DOCUMENTS)
    assert not (data.train_tokens[:, 1:] == begin).any()


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n", r"The text file .*empty\.txt is empty"),
        ("latin.txt", "Größe".encode("latin-1"), r"latin\.txt is not UTF-8: byte 2 is 0xf6"),
        ("none.txt", None, r"There is no text file .*none\.txt: name its folder with --data"),
    ],
)
def test_a_file_that_cannot_be_read_as_text_is_an_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TextFiles(files=(name,)).load(tmp_path)


def test_a_text_too_short_for_a_row_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"gives no train row of 64 tokens \(1 documents\)"):
        make_text(["short"], Rows(vocabulary=300), root=tmp_path)


def test_a_text_of_one_token_is_no_row():
    rows, spans = torch.zeros(3, 1, dtype=torch.int32), torch.zeros(3, 2, dtype=torch.int32)
    tensors = {f"{part}_tokens": rows for part in ("train", "test", "pretraining")}
    tensors |= {f"{part}_spans": spans for part in ("train", "test", "pretraining")}

    with pytest.raises(ValueError, match="needs at least two tokens, got 1"):
        TextData(**tensors, tokenizer=torch.zeros(1, dtype=torch.uint8))


def test_a_tokenizer_that_is_damaged_or_lacks_a_token_is_an_error(tmp_path):
    file = tmp_path / "tokens" / "tokenizer.json"
    file.parent.mkdir()
    file.write_text("{", encoding="utf-8")

    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer that can be read"):
        make_text(DOCUMENTS, Rows(tokenizer="tokens"), root=tmp_path)

    file.write_bytes(bytes(make_text(DOCUMENTS, Rows(length=8, vocabulary=300), root=tmp_path).tokenizer.tolist()))
    with pytest.raises(ValueError, match=r"The tokenizer tokens has no token '<s>' \(data.options.begin\)"):
        make_text(DOCUMENTS, Rows(tokenizer="tokens", begin="<s>"), root=tmp_path)


def test_a_tokenizer_that_is_nowhere_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(FileNotFoundError, match=r"There is no tokenizer.json in .*no-such.* Put its folder into"):
        make_text(DOCUMENTS, Rows(tokenizer="no-such/tokenizer"), root=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, r"length must lie in \[2, 131072\], got 1\."),
        ({"shortest": 99}, r"shortest must lie in 2 to length \(64\), got 99"),
        ({"vocabulary": 256}, r"vocabulary must lie in \[257, 1048576\], got 256"),
        ({"length": 10**9}, r"length must lie in \[2, 131072\], got 1000000000"),
        ({"prompts": "queries.json", "prompt_length": 10**9}, "prompt_length must lie in .* or null, got"),
        ({"pretraining": 1.0}, r"pretraining must lie in \[0, 1\), got 1.0"),
        ({"test_every": 1}, "test_every must be at least 2, got 1"),
        ({"prompt_length": 8}, "prompt_length is of prompts, and there are none; got 8"),
        ({"most_documents": 0}, "most_documents must be at least 1 or null, got 0"),
        ({"files": ()}, r"data\.options\.files must have at least 1, got \(\)"),
        ({"test_files": ()}, r"data\.options\.test_files must have at least 1 or null, got \(\)"),
        ({"separator": "("}, r"data\.options\.separator is no regular expression .*, got '\('"),
        ({"separator": "(a)|x"}, r"data\.options\.separator may have no groups but \(\?:\.\.\.\), got"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        TextFiles(**{"files": ("text.txt",), **options})


def test_a_dataset_of_the_hub_without_its_library_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)

    with pytest.raises(ImportError, match="needs the library datasets: pip install datasets"):
        HubText(dataset="some/text").load(tmp_path)


def test_a_dataset_of_the_hub_is_streamed_and_its_column_checked(tmp_path, monkeypatch):
    asked = {}

    class Stream(list):
        def take(self, count: int) -> list:
            return self[:count]

    def load_dataset(name: str, configuration: str | None, **options: object) -> Stream:
        asked.update(options, name=name)
        return Stream({"text": document} for document in DOCUMENTS)

    monkeypatch.setitem(
        __import__("sys").modules, "datasets", type("datasets", (), {"load_dataset": staticmethod(load_dataset)})
    )

    data = HubText(dataset="some/text", documents=8, length=8, vocabulary=300).load(tmp_path)

    assert asked == {"name": "some/text", "split": "train", "revision": None, "streaming": True}
    assert data.sizes["train"] > 0
    with pytest.raises(ValueError, match="some/text has no column 'words'; it has text"):
        HubText(dataset="some/text", field="words").load(tmp_path)


def _decode(data: TextData, part: str, row: int) -> str:
    tokens, (_, end) = getattr(data, f"{part}_tokens")[row], getattr(data, f"{part}_spans")[row]
    return restore_tokenizer(data.tokenizer).decode(tokens[:end].tolist(), skip_special_tokens=True)
