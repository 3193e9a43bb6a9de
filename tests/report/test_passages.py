"""From a method's tensors and record to what a page shows."""

import pytest
import torch

from tdabench.questions.tokens.passages import (
    count_query_tokens,
    list_settings,
    make_passages,
    make_question,
    summarise_method,
)

tokenizers = pytest.importorskip("tokenizers")

RECORD = {"status": "ok", "method": {"settings": {}}}
COUNTED = torch.tensor([False, True, True, False])


@pytest.fixture(scope="module")
def tokenizer():
    words = [f"w{number}" for number in range(10)]
    return tokenizers.Tokenizer(tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, "w0"))


def make_row(**changes) -> dict[str, torch.Tensor]:
    """Return four sequences of five positions, of which the first never counts and the last is padding."""
    pairs = torch.arange(80.0).view(4, 4, 5) + 1
    pairs[~COUNTED] = 0
    pairs[:, :, [0, 4]] = 0
    row = {
        "query_ids": torch.tensor([1, 2, 3, 0]),
        "train": torch.tensor([70, 71, 72, 73]),
        "train_ids": torch.tensor([[5, 6, 7, 8, 0]] * 4),
        "scores": torch.tensor([4.0, 3.0, -5.0, -1.0]),
        "token_scores": pairs,
    }
    return {name: value for name, value in (row | changes).items() if value is not None}


def test_the_first_half_is_helpful_and_the_second_harmful_in_their_order(tokenizer):
    method = make_passages("BIF", make_row(), COUNTED, RECORD, tokenizer)

    assert [(passage.index, passage.score) for passage in method.helpful] == [(70, 4.0), (71, 3.0)]
    assert [(passage.index, passage.score) for passage in method.harmful] == [(72, -5.0), (73, -1.0)]


def test_the_whole_query_is_the_sum_over_its_tokens_that_count(tokenizer):
    row = make_row()
    row["token_scores"][0, :, 1:4] = 1000.0  # of a prompt, whatever it may be

    passage = make_passages("BIF", row, COUNTED, RECORD, tokenizer).helpful[1]

    assert passage.whole.tolist() == (row["token_scores"][1, 1] + row["token_scores"][2, 1])[:4].tolist()


def test_padding_is_left_out_and_what_has_no_loss_does_not_count(tokenizer):
    passage = make_passages("BIF", make_row(), COUNTED, RECORD, tokenizer).helpful[0]

    assert passage.pieces == ("w5", "w6", "w7", "w8")
    assert passage.counted.tolist() == [False, True, True, True]
    assert passage.pairs.shape == (3, 4)


def test_a_file_may_say_which_training_tokens_count(tokenizer):
    counts = torch.tensor([[False, False, True, False, False]] * 4)

    passage = make_passages("BIF", make_row(train_counts=counts), COUNTED, RECORD, tokenizer).helpful[0]

    assert passage.pieces == ("w5", "w6", "w7")
    assert passage.counted.tolist() == [False, False, True]


def test_a_method_for_whole_queries_has_no_pairs(tokenizer):
    whole = torch.tensor([[0.0, 1.0, -2.0, 0.5, 0.0]] * 4)
    row = make_row(token_scores=None, train_token_scores=whole)

    method = make_passages("EK-FAC", row, COUNTED, RECORD, tokenizer)

    assert not method.has_pairs
    assert method.helpful[0].whole.tolist() == [0.0, 1.0, -2.0, 0.5]
    assert method.helpful[0].pairs is None


def test_a_text_of_which_nothing_counts_is_shown_whole(tokenizer):
    row = make_row(token_scores=torch.zeros(4, 4, 5))

    passage = make_passages("BIF", row, COUNTED, RECORD, tokenizer).helpful[0]

    assert passage.pieces == ("w5", "w6", "w7", "w8", "w0")
    assert not passage.counted.any()


def test_a_query_is_shown_without_its_padding(tokenizer):
    question = make_question(9, torch.tensor([1, 2, 3, 0]), COUNTED, tokenizer)

    assert question.pieces == ("w1", "w2", "w3")
    assert question.counted.tolist() == [False, True, True]


def test_which_query_tokens_count_is_what_a_file_says_then_what_has_scores_then_all_but_the_first():
    said, scored = torch.tensor([False, False, True, False]), make_row()
    whole = make_row(token_scores=None, train_token_scores=torch.ones(4, 5))

    assert count_query_tokens([scored, whole | {"query_counts": said}]).tolist() == said.tolist()
    assert count_query_tokens([whole, scored]).tolist() == COUNTED.tolist()
    assert count_query_tokens([whole]).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": None}, "token scores of BIF have no train:"),
        ({"token_scores": None}, "have no token_scores or train_token_scores"),
        ({"scores": torch.zeros(3)}, r"scores of BIF has the shape \(3,\), not \(4,\)"),
        ({"token_scores": torch.zeros(3, 4, 5)}, r"token_scores of BIF has the shape \(3, 4, 5\), not \(4, 4, 5\)"),
        (
            {"token_scores": None, "train_token_scores": torch.zeros(4, 6)},
            r"train_token_scores of BIF has the shape \(4, 6\), not \(4, 5\)",
        ),
    ],
)
def test_a_row_that_lacks_something_or_has_another_shape_is_refused(tokenizer, changes, message):
    with pytest.raises(ValueError, match=message):
        make_passages("BIF", make_row(**changes), COUNTED, RECORD, tokenizer)


def test_an_odd_number_of_sequences_is_refused(tokenizer):
    row = {
        name: value[:, :3] if name == "token_scores" else value if name == "query_ids" else value[:3]
        for name, value in make_row().items()
    }

    with pytest.raises(ValueError, match="names 3 sequences"):
        make_passages("BIF", row, COUNTED, RECORD, tokenizer)


def test_a_method_is_summarised_by_its_estimate_draws_and_what_was_calibrated():
    asked = {"estimate": "covariance", "step_size": "auto", "burn_in": "auto", "chains": 4, "draws": 500}
    run = asked | {"step_size": 3e-5, "burn_in": 20, "friction": None}
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


def test_a_correlation_is_said_to_be_one_and_a_method_without_draws_names_none():
    correlation = {"status": "ok", "method": {"settings": {"estimate": "correlation"}}}

    assert summarise_method(correlation, has_pairs=True) == "Correlation of token losses."
    assert summarise_method(RECORD, has_pairs=False) == "A training token and the whole query."
