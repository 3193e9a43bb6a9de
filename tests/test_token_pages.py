"""The stage that makes the token pages, from files of token scores."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tdabench.experiment.read import load_experiment
from tdabench.experiment.sections import TokenSettings
from tdabench.questions.tokens.stage import pages
from tdabench.storage.cell import Cell
from tdabench.storage.records import save_tensors

tokenizers = pytest.importorskip("tokenizers")

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "lds_digits.yaml")
WORDS = ("a", "cat", "sat", "<b>dog</b>", "ran")
SETTINGS = {"estimate": "correlation", "chains": 2, "draws": 30}
OK = {"status": "ok", "method": {"settings": SETTINGS}, "attributor": SETTINGS}


def make_tensors(*, pairs: bool = True, queries: tuple[int, ...] = (41, 7)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = len(queries)
    scores = torch.randn(count, 3, 4, 5, generator=generator)
    scores[:, 0], scores[..., 0] = 0, 0
    tensors = {
        "queries": torch.tensor(queries),
        "query_ids": torch.tensor([[0, 1, 2]] * count),
        "query_counts": torch.tensor([[False, True, True]] * count),
        "train_counts": torch.arange(5).expand(count, 4, 5) > 0,
        "train": torch.arange(4).repeat(count, 1) + 300,
        "train_ids": torch.tensor([[[0, 3, 2, 1, 4]] * 4] * count),
        "scores": scores.sum((1, 3)),
    }
    return tensors | ({"token_scores": scores} if pairs else {"train_token_scores": scores.sum(1)})


@pytest.fixture
def cell(tmp_path) -> Cell:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: place for place, word in enumerate(WORDS)}, "a"))
    content = torch.tensor(list(made.to_str().encode()), dtype=torch.uint8)
    cell = Cell(tmp_path, 1, 250)
    save_tensors(cell.dataset, {"tokenizer": content}, {})
    save_tensors(cell.tokens("bif"), make_tensors(), OK)
    save_tensors(cell.tokens("ekfac"), make_tensors(pairs=False), OK)
    save_tensors(cell.tokens("trak"), {}, {"status": "unsupported: TRAK has no tokens"})
    return cell


def run(cell: Cell, *methods: str) -> Path:
    """Make the pages of methods; return their folder."""
    pages(dataclasses.replace(EXPERIMENT, tokens=TokenSettings(queries=2, top=2, methods=methods)), cell)
    return cell.root / "tokens" / "1-250"


def test_every_query_has_a_page_that_leads_to_the_next_and_one_leads_to_them_all(cell):
    folder = run(cell, "bif", "ekfac", "trak")

    assert sorted(path.name for path in folder.iterdir()) == ["41.html", "7.html", "index.html"]
    first, second, index = ((folder / f"{name}.html").read_text() for name in ("41", "7", "index"))
    assert 'href="7.html" rel="next"' in first
    assert 'href="41.html" rel="prev"' in second
    assert 'rel="next"' not in second
    assert index.index("41.html") < index.index('"7.html')
    assert "BIF, EK-FAC, TRAK" in index


def test_a_page_shows_every_method_with_its_words_scores_and_reason(cell):
    page = (run(cell, "bif", "ekfac", "trak") / "41.html").read_text()

    assert "Correlation of token losses, over 2 chains × 30 draws." in page
    assert "A training token and the whole query, over 2 chains × 30 draws." in page
    assert "TRAK has no tokens" in page
    assert "&lt;b&gt;dog&lt;/b&gt;" in page
    assert "<b>dog</b>" not in page
    assert "token scores of lds_digits, repeat 1, n&nbsp;=&nbsp;250" in page
    assert "training sequence 303" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": torch.tensor([41, 8])}, "bif and ekfac scored the tokens of different queries"),
        ({"query_ids": torch.tensor([[0, 1, 3]] * 2)}, "bif and ekfac have different tokens for query 41"),
    ],
)
def test_methods_that_disagree_about_the_queries_are_refused(cell, changes, message):
    save_tensors(cell.tokens("ekfac"), make_tensors(pairs=False) | changes, OK)

    with pytest.raises(ValueError, match=message):
        run(cell, "bif", "ekfac")


def test_methods_of_which_none_scored_tokens_are_refused_with_their_reasons(cell):
    with pytest.raises(ValueError, match=r"No method scored tokens \(TRAK has no tokens\)"):
        run(cell, "trak")


def test_a_dataset_of_images_is_refused(cell):
    save_tensors(cell.dataset, {"train_images": torch.zeros(1)}, {})

    with pytest.raises(ValueError, match="has no tokenizer: pages of tokens are for text"):
        run(cell, "bif")
