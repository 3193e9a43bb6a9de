"""The stage that makes the token pages, from files of token scores."""

from pathlib import Path

import pytest
import torch

from tdabench.cli import main
from tdabench.storage.records import save_tensors

tokenizers = pytest.importorskip("tokenizers")

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "lds_digits.yaml"
WORDS = ("a", "cat", "sat", "<b>dog</b>", "ran")
OK = {"status": "ok", "method": {"settings": {"estimate": "correlation", "chains": 2, "draws": 30}}}


def make_tensors(*, pairs: bool = True, queries: tuple[int, ...] = (41, 7)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = len(queries)
    scores = torch.randn(count, 3, 4, 5, generator=generator)
    scores[:, 0], scores[..., 0] = 0, 0
    tensors = {
        "queries": torch.tensor(queries),
        "query_ids": torch.tensor([[0, 1, 2]] * count),
        "train": torch.arange(4).repeat(count, 1) + 300,
        "train_ids": torch.tensor([[[0, 3, 2, 1, 4]] * 4] * count),
        "scores": scores.sum((1, 3)),
    }
    return tensors | ({"token_scores": scores} if pairs else {"train_token_scores": scores.sum(1)})


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: place for place, word in enumerate(WORDS)}, "a"))
    content = torch.tensor(list(made.to_str().encode()), dtype=torch.uint8)
    save_tensors(tmp_path / "dataset.safetensors", {"tokenizer": content}, {})
    save_tensors(tmp_path / "bif.safetensors", make_tensors(), OK)
    save_tensors(tmp_path / "ekfac.safetensors", make_tensors(pairs=False), {"status": "ok"})
    save_tensors(tmp_path / "trak.safetensors", {}, {"status": "unsupported: TRAK has no tokens"})
    return tmp_path


def run(folder: Path, *methods: str) -> int:
    files = [str(folder / f"{method}.safetensors") for method in methods]
    place = ["--repeat", "1", "--train-size", "400", "--dataset", str(folder / "dataset.safetensors")]
    return main(["pages", str(EXPERIMENT), *place, "--tokens", *files, "--output", str(folder / "pages")])


def test_every_query_has_a_page_that_leads_to_the_next_and_one_leads_to_them_all(folder):
    assert run(folder, "bif", "ekfac", "trak") == 0

    assert sorted(path.name for path in (folder / "pages").iterdir()) == ["41.html", "7.html", "index.html"]
    first, second, index = ((folder / "pages" / f"{name}.html").read_text() for name in ("41", "7", "index"))
    assert 'href="7.html" rel="next"' in first
    assert 'href="41.html" rel="prev"' in second
    assert 'rel="next"' not in second
    assert index.index("41.html") < index.index('"7.html')
    assert "BIF, EK-FAC, TRAK" in index


def test_a_page_shows_every_method_with_its_words_scores_and_reason(folder):
    run(folder, "bif", "ekfac", "trak")

    page = (folder / "pages" / "41.html").read_text()
    assert "Correlation of token losses, over 2 chains × 30 draws." in page
    assert "A training token and the whole query." in page
    assert "TRAK has no tokens" in page
    assert "&lt;b&gt;dog&lt;/b&gt;" in page
    assert "<b>dog</b>" not in page
    assert "token scores of lds_digits, repeat 1, n&nbsp;=&nbsp;400" in page
    assert "training sequence 303" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": torch.tensor([41, 8])}, "bif and ekfac scored the tokens of different queries"),
        ({"query_ids": torch.tensor([[0, 1, 3]] * 2)}, "bif and ekfac have different tokens for query 41"),
    ],
)
def test_methods_that_disagree_about_the_queries_are_refused(folder, capsys, changes, message):
    save_tensors(folder / "ekfac.safetensors", make_tensors(pairs=False) | changes, {"status": "ok"})

    assert run(folder, "bif", "ekfac") != 0

    assert message in capsys.readouterr().err


def test_methods_of_which_none_scored_tokens_are_refused_with_their_reasons(folder, capsys):
    assert run(folder, "trak") != 0

    assert "No method scored tokens (TRAK has no tokens)" in capsys.readouterr().err


def test_a_dataset_of_images_is_refused(folder, capsys):
    save_tensors(folder / "dataset.safetensors", {"train_images": torch.zeros(1)}, {})

    assert run(folder, "bif") != 0

    assert "has no tokenizer: pages of tokens are for text" in capsys.readouterr().err
