import dataclasses

import pytest
import torch
from tiny_language import IGNORED, NUM_QUERY, NUM_TRAIN, make_language_problem, pad_problem
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors import trak
from tdabench.attributors.adapters import traker_margins as margins
from tdabench.attributors.base import Examples, Problem, copy_model, take
from tdabench.attributors.trak import TRAK
from tdabench.seeds import make_generator


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_scores_equal_the_written_out_formula(tmp_path, family, example_gradients):
    problem = make_language_problem(tmp_path / "problem", family=family, num_models=2)

    scores = _attribute(TRAK(proj_dim=110, regularization=1.0), problem)

    expected = _score_by_formula(problem, example_gradients)
    # float32, and the inverse of a Gram matrix whose condition number the ridge bounds.
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_a_query_that_was_trained_on_is_most_helped_by_its_twin(tmp_path):
    problem = make_language_problem(tmp_path / "problem")

    scores = _attribute(TRAK(proj_dim=110), problem)

    assert scores.argmax(dim=1).tolist() == list(range(NUM_QUERY))
    assert (scores.diagonal() > 0).all()


def test_scores_depend_on_no_batch_size_and_on_no_padding(tmp_path, monkeypatch):
    problem = make_language_problem(tmp_path / "problem")
    method = TRAK(proj_dim=110, regularization=1.0)

    whole = _attribute(method, problem)
    small = _attribute(dataclasses.replace(method, batch_size=33), _elsewhere(problem, tmp_path / "small"))
    padded = _attribute(method, pad_problem(problem, tmp_path / "padded"))
    monkeypatch.setattr(trak, "BATCH_TOKENS", 7 * 12)
    chunked = _attribute(method, _elsewhere(problem, tmp_path / "chunked"))

    # float32 rounding, magnified by the inverse; one padding token that counts changes scores by more than 1 %.
    for other in (small, padded, chunked):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-3 * whole.abs().max().item())


def test_rows_go_through_the_model_in_chunks_of_2048_tokens(tmp_path, monkeypatch):
    problem = make_language_problem(tmp_path / "problem")
    monkeypatch.setattr(trak, "BATCH_TOKENS", 7 * 12)
    sizes = []
    true_gradients = margins.FunctionalGradientComputer.compute_per_sample_grad

    def watch(self, batch):
        sizes.append(len(batch[0]))
        return true_gradients(self, batch)

    monkeypatch.setattr(margins.FunctionalGradientComputer, "compute_per_sample_grad", watch)
    _attribute(TRAK(proj_dim=110, batch_size=100), problem)

    assert max(sizes) == 7
    assert sum(sizes) == NUM_TRAIN + NUM_QUERY
    assert len(sizes) == 15 + 3 + 1


@pytest.mark.parametrize(
    ("restrict", "left_out"), [(None, {"gpt_neox.embed_in.weight", "lm_head.weight"}), (("*",), set())]
)
def test_embeddings_have_no_gradients_unless_asked_for(tmp_path, restrict, left_out):
    problem = make_language_problem(tmp_path / "problem")
    model = problem.models[0]
    names = {name for name, _ in model.named_parameters()}

    restricted = TRAK(restrict=restrict)._restrict(problem)

    assert {name for name, _ in restricted.named_parameters()} == names - left_out
    assert restricted.state_dict().keys() == model.state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_restriction_by_patterns_changes_the_scores(tmp_path):
    problem = make_language_problem(tmp_path / "problem")

    default, attention = (
        _attribute(TRAK(proj_dim=110, restrict=patterns), _elsewhere(problem, tmp_path / name))
        for name, patterns in {"default": None, "attention": ("attention",)}.items()
    )

    assert not torch.equal(default, attention)
    with pytest.raises(ValueError, match="'convolution' matches no parameter"):
        _attribute(TRAK(proj_dim=110, restrict=("convolution",)), problem)


def test_a_row_without_a_token_that_counts_scores_zero(tmp_path):
    problem = make_language_problem(tmp_path / "problem")
    labels = problem.train["labels"].clone()
    labels[9] = IGNORED

    scores = _attribute(TRAK(proj_dim=110), dataclasses.replace(problem, train={**problem.train, "labels": labels}))

    assert scores.isfinite().all()
    assert (scores[:, 9] == 0).all()


def _elsewhere(problem: Problem, workspace) -> Problem:
    return dataclasses.replace(problem, workspace=workspace)


def _attribute(method: TRAK, problem: Problem) -> Tensor:
    return method.attribute(problem, generator=make_generator(0, "trak"))


def _shares(model: nn.Module, examples: Examples) -> Tensor:
    logits = model(input_ids=examples["input_ids"], use_cache=False).logits[:, :-1]
    return logits.double().softmax(dim=-1)


def _margins(model: nn.Module, examples: Examples) -> Tensor:
    """Sum log(p / (1 - p)) over the tokens that count, as it is written."""
    labels = examples["labels"][:, 1:]
    share = _shares(model, examples).gather(2, labels.clamp_min(0)[:, :, None]).squeeze(2)
    return torch.where(labels != IGNORED, share.log() - (1 - share).log(), 0.0).sum(dim=1)


def _score_by_formula(problem: Problem, example_gradients) -> Tensor:
    """Compute mean_c(q_c^T (X_c^T X_c + I)^-1 X_c^T) * mean_c(Q_c), as traker scales it; see test_trak."""
    from test_trak import _project

    seed = int(torch.randint(2**20, (), generator=make_generator(0, "trak")).item())
    products, doubts = [], []
    for index, original in enumerate(problem.models):
        model = copy_model(original)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("embed" not in name and "lm_head" not in name)
        train, query = (
            _project(example_gradients(model, _margins, rows), 110, seed, index)
            for rows in (problem.train, problem.query)
        )
        inverse = (train.T @ train + torch.eye(110, dtype=torch.float64)).inverse()
        products.append(query @ (inverse / inverse.abs().mean()) @ train.T)
        doubts.append(
            torch.stack([_doubt(model, take(problem.train, slice(row, row + 1))) for row in range(NUM_TRAIN)])
        )
    return torch.stack(products).mean(dim=0) * torch.stack(doubts).mean(dim=0)


def _doubt(model: nn.Module, row: Examples) -> Tensor:
    """Return a row's mean of 1 - p over the tokens that count."""
    labels = row["labels"][0, 1:]
    counted = labels != IGNORED
    hits = functional.one_hot(labels[counted], 100)
    with torch.no_grad():
        return (1 - (_shares(model, row)[0][counted] * hits).sum(dim=1)).mean()
