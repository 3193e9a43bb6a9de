"""From a method's tensors and record to what a page shows."""

import pytest
import torch

from tdabench.questions.tokens.passages import list_settings, make_passages, make_question, summarise_method

tokenizers = pytest.importorskip("tokenizers")

RECORD = {"status": "ok", "method": {"settings": {}}, "attributor": {}}
COUNTED = torch.tensor([False, True, True, False])


@pytest.fixture(scope="module")
def tokenizer():
    words = [f"w{number}" for number in range(10)]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, "w0"))
    made.decoder = tokenizers.decoders.Fuse()
    return made


def make_row(**changes) -> dict[str, torch.Tensor]:
    """Return four sequences of five positions, of which the first never counts and the last is padding."""
    row = {
        "query_ids": torch.tensor([1, 2, 3, 0]),
        "query_counts": COUNTED,
        "train": torch.tensor([70, 71, 72, 73]),
        "train_ids": torch.tensor([[5, 6, 7, 8, 0]] * 4),
        "train_counts": torch.tensor([[False, True, True, True, False]] * 4),
        "scores": torch.tensor([4.0, 3.0, -5.0, -1.0]),
        "token_scores": torch.arange(80.0).view(4, 4, 5) + 1,
    }
    return {name: value for name, value in (row | changes).items() if value is not None}


def test_the_first_half_is_helpful_and_the_second_harmful_in_their_order(tokenizer):
    method = make_passages("BIF", make_row(), RECORD, tokenizer)

    assert [(passage.index, passage.score) for passage in method.helpful] == [(70, 4.0), (71, 3.0)]
    assert [(passage.index, passage.score) for passage in method.harmful] == [(72, -5.0), (73, -1.0)]


def test_the_whole_query_is_the_sum_over_its_tokens_that_count_without_padding(tokenizer):
    row = make_row()

    passage = make_passages("BIF", row, RECORD, tokenizer).helpful[1]

    assert passage.whole.tolist() == (row["token_scores"][1, 1] + row["token_scores"][2, 1])[:4].tolist()
    assert passage.pieces == ("w5", "w6", "w7", "w8")
    assert passage.counted.tolist() == [False, True, True, True]
    assert passage.pairs.shape == (3, 4)


def test_a_method_for_whole_queries_has_no_pairs(tokenizer):
    whole = torch.tensor([[0.0, 1.0, -2.0, 0.5, 0.0]] * 4)

    method = make_passages("EK-FAC", make_row(token_scores=None, train_token_scores=whole), RECORD, tokenizer)

    assert not method.has_pairs
    assert method.helpful[0].whole.tolist() == [0.0, 1.0, -2.0, 0.5]
    assert method.helpful[0].pairs is None


def test_a_text_of_which_nothing_counts_is_shown_whole(tokenizer):
    row = make_row(train_counts=torch.zeros(4, 5, dtype=torch.bool))

    passage = make_passages("BIF", row, RECORD, tokenizer).helpful[0]

    assert passage.pieces == ("w5", "w6", "w7", "w8", "w0")
    assert not passage.counted.any()


def test_a_query_is_shown_without_its_padding(tokenizer):
    question = make_question(9, make_row(), tokenizer)

    assert question.pieces == ("w1", "w2", "w3")
    assert question.counted.tolist() == [False, True, True]


def test_a_method_is_summarised_by_its_estimate_draws_and_what_was_calibrated():
    asked = {"estimate": "covariance", "step_size": "auto", "burn_in": "auto", "chains": 4, "draws": 500}
    run = asked | {"step_size": 3e-5, "burn_in": 20, "friction": None}
    assert summarise_method(RECORD, has_pairs=False) == "A training token and the whole query."
    record = {"status": "ok; warning: few draws", "method": {"settings": asked}, "attributor": run}

    assert summarise_method(record, has_pairs=True) == (
        "Covariance of token losses (nats²), over 4 chains × 500 draws; calibrated: step size, burn in."
    )
    assert list_settings(record) == [
        ("estimate", "covariance"),
        ("step_size", "3e-05 (calibrated)"),
        ("burn_in", "20 (calibrated)"),
        ("chains", "4"),
        ("draws", "500"),
        ("status", "ok; warning: few draws"),
    ]
