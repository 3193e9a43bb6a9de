import contextlib
import dataclasses
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_language import IGNORED, language_loss, make_language_problem, pad_problem
from torch import nn

from tdabench.attributors.adapters.kronfluence_layers import find_layers
from tdabench.attributors.adapters.kronfluence_task import make_task, sample_tokens
from tdabench.attributors.adapters.token_rows import predicting_tokens, real_tokens
from tdabench.attributors.base import Problem, Unsupported, copy_model, take
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.running.run import AttributionWarning, run_attributor
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import make_image_problem

pytestmark = pytest.mark.filterwarnings("ignore:the output embedding")


@pytest.fixture
def problem(tmp_path) -> Problem:
    whole = make_language_problem(tmp_path / "problem")
    rows = take(whole.train, slice(40))
    return dataclasses.replace(whole, train=rows, reference=rows)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_identity_gives_dot_products_of_the_tracked_layers_gradients(tmp_path, family, example_gradients):
    problem = make_language_problem(tmp_path / "problem", family=family)

    scores = _attribute(Kronfluence(strategy="identity"), problem)

    model = copy_model(problem.models[0])
    tracked = {f"{layer}.{kind}" for layer in find_layers(problem).tracked for kind in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in tracked)
    train, query = (example_gradients(model, language_loss, rows) for rows in (problem.train, problem.query))
    expected = query @ train.T
    # float32 sums of some 10,000 products.
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_the_output_embedding_is_left_out_whatever_its_name_and_a_warning_says_so(tmp_path, family):
    problem = make_language_problem(tmp_path / "problem", family=family)
    model = problem.models[0]
    model.words = model.get_output_embeddings()  # the same layer under another name
    del model.lm_head
    model.get_output_embeddings = lambda: model.words
    problem = dataclasses.replace(problem, loss=_mean_square)

    layers = find_layers(problem).tracked

    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert set(linear) - set(layers) == {"words"}
    with pytest.warns(AttributionWarning, match=re.escape("the output embedding (words) is left out")):
        Kronfluence(strategy="identity").attribute(
            dataclasses.replace(problem, train=take(problem.train, slice(8))),
            generator=make_generator(0, "kronfluence"),
        )


def _mean_square(model, examples):
    return model.base_model(input_ids=examples["input_ids"], use_cache=False).last_hidden_state.square().mean((1, 2))


def test_a_model_without_the_library_s_methods_is_known_by_the_layer_s_name(problem):
    inner = problem.models[0]
    # Without values no pass is made, which this model could not do.
    wrapped = nn.ModuleDict({"body": inner.gpt_neox, "embed_out": inner.lm_head}).to("meta")

    layers = find_layers(dataclasses.replace(problem, models=(wrapped,))).tracked

    assert len(layers) == 8
    assert all(name.startswith("body.") for name in layers)


def test_a_model_with_nothing_but_an_output_embedding_is_unsupported(problem):
    with isolated_random_state(make_generator(0, "model")):
        model = nn.ModuleDict({"embed": nn.Embedding(100, 8), "lm_head": nn.Linear(8, 100)})

    with pytest.raises(Unsupported, match=re.escape("besides the output embedding (lm_head)")):
        find_layers(dataclasses.replace(problem, models=(model,)))


def test_the_warning_is_in_the_attribution(problem):
    attribution = run_attributor(Kronfluence(strategy="kfac"), problem, generator=make_generator(0, "kronfluence"))

    assert attribution.warnings == ("the output embedding (lm_head) is left out of the layers",)


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal", "identity"])
def test_scores_depend_on_no_batch_size_and_on_no_padding(problem, tmp_path, strategy):
    whole = _attribute(Kronfluence(strategy=strategy, damping=1e-3), problem)

    sizes = {"fit_batch_size": 7, "train_batch_size": 9, "query_batch_size": 4}
    small = _attribute(Kronfluence(strategy=strategy, damping=1e-3, **sizes), problem, tmp_path / "small")
    padded = _attribute(Kronfluence(strategy=strategy, damping=1e-3), pad_problem(problem, tmp_path / "padded"))

    # float32 rounding of sums in another order, magnified by the damped factors; labels of the Fisher that were drawn
    # otherwise, or a padding token in a covariance, change the scores by more than 1 %.
    for other in (small, padded):
        torch.testing.assert_close(other, whole, rtol=0, atol=2e-3 * whole.abs().max().item())


def test_fitting_samples_a_label_for_every_counted_token_and_no_other(problem, tmp_path):
    task, model = make_task(problem, find_layers(problem).tracked), problem.models[0]
    counted = int((problem.train["labels"][:, 1:] != IGNORED).sum())

    with isolated_random_state(make_generator(0, "labels")):
        losses = [task.compute_train_loss(problem.train, model, sample=True) for _ in range(60)]
        drawn = torch.rand(1)
    with isolated_random_state(make_generator(0, "labels")):
        assert torch.equal(torch.rand(60 * counted + 1)[-1:], drawn)

    # The mean of the sampled loss is the entropy of the model's predictions at counted positions.
    shares = model(input_ids=problem.train["input_ids"]).logits[:, :-1].double().log_softmax(dim=-1)
    entropy = -(shares.exp() * shares).sum(dim=-1)[problem.train["labels"][:, 1:] != IGNORED].sum().item()
    sampled = torch.stack(losses).double()
    assert sampled.mean().item() == pytest.approx(entropy, abs=4 * sampled.std().item() / 60**0.5)


def test_tokens_are_sampled_with_the_model_s_probabilities():
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    count = 20_000

    with isolated_random_state(make_generator(0, "tokens")):
        tokens = sample_tokens(shares.log().expand(count, 4))

    found = tokens.bincount(minlength=4) / count
    assert found[1] == 0
    torch.testing.assert_close(found, shares, rtol=0, atol=4 * (0.25 / count) ** 0.5)


def test_positions_are_known_by_the_last_token_that_counts():
    labels = torch.tensor([[1, IGNORED, 5, 5, IGNORED], [IGNORED] * 5, [3, 3, 3, 3, 3]])

    assert real_tokens(labels).tolist() == [[True] * 4 + [False], [False] * 5, [True] * 5]
    assert predicting_tokens(labels).tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 4 + [False]]


@pytest.mark.parametrize("strategy", ["ekfac", "identity"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_scores_of_train_tokens_add_up_to_those_of_the_rows(problem, tmp_path, strategy, low_memory):
    method = Kronfluence(strategy=strategy, damping=1e-3, low_memory=low_memory)

    rows = _attribute(method, problem)
    with _quietly():
        tokens = method.attribute_train_tokens(
            dataclasses.replace(problem, workspace=tmp_path / "tokens"), generator=make_generator(0, "kronfluence")
        )

    assert tokens.shape == (6, 40, 12)
    # Products in bfloat16 have 8 bits; those of float32 are summed in another order.
    share = 0.05 if low_memory else 1e-4
    torch.testing.assert_close(tokens.sum(dim=2), rows, rtol=0, atol=share * rows.abs().max().item())
    silent = ~predicting_tokens(problem.train["labels"])
    assert (tokens[:, silent] == 0).all()
    assert low_memory or (tokens[:, ~silent] != 0).all()


def test_low_memory_gives_nearly_the_scores_of_full_precision(problem, tmp_path):
    full, low = (
        _attribute(Kronfluence(strategy="ekfac", damping=1e-3, low_memory=low), problem, tmp_path / f"{low}")
        for low in (False, True)
    )

    assert not torch.equal(full, low)
    assert torch.corrcoef(torch.stack([full.flatten(), low.flatten()]))[0, 1] > 0.95


def test_scores_of_tokens_need_tokens_and_one_process(problem, tmp_path):
    with pytest.raises(Unsupported, match="need input_ids and labels, got image, label"):
        Kronfluence(strategy="ekfac").attribute_train_tokens(
            make_image_problem(tmp_path, num_train=8, num_query=2), generator=make_generator(0, "kronfluence")
        )
    with pytest.raises(Unsupported, match="set processes to 1, got 2"):
        Kronfluence(strategy="ekfac", processes=2).attribute_train_tokens(
            problem, generator=make_generator(0, "kronfluence")
        )


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal", "identity"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_the_disk_that_factors_need_is_known_before_they_are_fitted(problem, strategy, low_memory, monkeypatch):
    method = Kronfluence(strategy=strategy, damping=1e-3, low_memory=low_memory)
    run_attributor(method, problem, generator=make_generator(0, "kronfluence"))
    tensors = (path for path in problem.workspace.rglob("*.safetensors") if "scores" not in str(path.parent.name))
    written = sum(_payload(path) for path in tensors)

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=written // 2))
    refused = contextlib.nullcontext()
    if strategy != "identity":
        refused = pytest.raises(ValueError, match=rf"take .* \({written:,} bytes for 8 layers\).*\({written // 2:,} ")

    with refused:
        run_attributor(method, problem, generator=make_generator(0, "kronfluence"))


def _payload(path) -> int:
    """Count the bytes of a file's matrices and eigenvalues; the numbers of examples, of 8 bytes each, are left out."""
    from safetensors.torch import load_file

    if path.stem.startswith("num_"):
        return 0
    return sum(values.numel() * values.element_size() for values in load_file(path).values())


def _attribute(method: Kronfluence, problem: Problem, workspace=None) -> torch.Tensor:
    problem = dataclasses.replace(problem, workspace=workspace or problem.workspace)
    with _quietly():
        return method.attribute(problem, generator=make_generator(0, "kronfluence"))


def _quietly():
    return pytest.warns(AttributionWarning)
