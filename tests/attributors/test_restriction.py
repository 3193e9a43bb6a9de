import dataclasses
import re

import pytest
import torch
from torch import nn

from tdabench.attributors.bif import BIF
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.sampling.restriction import restrict_model
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.storage.records import load_tensors
from tdabench.testing import check_attributor, make_image_problem

METHODS = {
    "sgld": BIF(step_size=1e-3, inverse_temperature=10.0, localization=100.0, chains=1, draws=4),
    "laplace": LaplaceBIF(draws=4),
}
ATTENTION = ("attention.query_key_value", "attention.dense")
MLP = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
NORMS = ("input_layernorm", "post_attention_layernorm")


@pytest.mark.parametrize(
    ("patterns", "modules"),
    [
        (["attention"], {f"gpt_neox.layers.{layer}.{part}" for layer in (0, 1) for part in ATTENTION}),
        (["mlp"], {f"gpt_neox.layers.{layer}.{part}" for layer in (0, 1) for part in MLP}),
        (["attention", "mlp"], {f"gpt_neox.layers.{layer}.{part}" for layer in (0, 1) for part in ATTENTION + MLP}),
        (["gpt_neox.layers.1"], {f"gpt_neox.layers.1.{part}" for part in ATTENTION + MLP + NORMS}),
        (["*.1.attention", "embed_out"], {"embed_out", *(f"gpt_neox.layers.1.{part}" for part in ATTENTION)}),
        (["*dense_h_to_4h.weight"], {f"gpt_neox.layers.{layer}.mlp.dense_h_to_4h" for layer in (0, 1)}),
        (["gpt_neox.embed_i?"], {"gpt_neox.embed_in"}),
    ],
)
def test_words_and_names_choose_what_they_mean_in_a_gpt_neox(patterns, modules):
    model = restrict_model(_make_gpt_neox(), patterns)

    assert {name.rpartition(".")[0] for name in _moving(model)} == modules


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("attention", "transformer.h.0.attn.c_attn.weight"),
        ("attention", "model.layers.0.self_attn.q_proj.weight"),
        ("attention", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        ("attention", "decoder.block.0.layer.0.SelfAttention.q.weight"),
        ("attention", "decoder.block.0.layer.1.EncDecAttention.q.weight"),
        ("mlp", "transformer.h.0.mlp.c_fc.weight"),
        ("mlp", "transformer.layer.0.ffn.lin1.weight"),
        ("mlp", "layers.0.feed_forward.w1.weight"),
        ("mlp", "encoder.block.0.layer.1.DenseReluDense.wi.weight"),
    ],
)
def test_words_know_the_names_of_other_transformers(word, name):
    model = _make_tree(name, "embedding.weight", "layers.0.post_attention_layernorm.weight", "layers.0.mlp_norm.weight")

    assert _moving(restrict_model(model, [word])) == {name}


def test_all_parameters_that_match_any_pattern_move_and_frozen_ones_never():
    model = _make_tree("first.weight", "first.bias", "second.weight", "second.bias", "third.weight")
    model.get_parameter("second.bias").requires_grad_(False)

    assert _moving(restrict_model(model, ["*.bias", "third"])) == {"first.bias", "third.weight"}


def test_a_tied_parameter_is_chosen_by_any_of_its_names():
    model = _make_tree("embedding.weight", "head.weight", "middle.weight")
    model.get_submodule("head").weight = model.get_submodule("embedding").weight

    assert _moving(restrict_model(model, ["head"])) == {"embedding.weight"}


def test_without_patterns_the_model_itself_comes_back_and_with_them_it_is_left_as_it_was():
    model = _make_gpt_neox()
    before = _moving(model)

    assert restrict_model(model, None) is model
    assert restrict_model(model, ["mlp"]) is not model
    assert _moving(model) == before


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_only_the_parameters_that_match_move(tmp_path, method):
    problem, seen = _watched_problem(tmp_path)
    checkpoint = {name: value.clone() for name, value in problem.models[0].state_dict().items()}

    method = dataclasses.replace(method, restrict=("0", "*.bias"))
    method.attribute(problem, generator=make_generator(0, "bif"))

    moved = {name for state in seen for name, value in state.items() if not torch.equal(value, checkpoint[name])}
    assert moved == {"0.weight", "0.bias", "4.bias"}
    assert all(torch.equal(value, checkpoint[name]) for name, value in problem.models[0].state_dict().items())
    assert _moving(problem.models[0]) == {"0.weight", "0.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_patterns_that_match_everything_restrict_nothing(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)

    traces = []
    for patterns in (None, ("*",)):
        dataclasses.replace(method, restrict=patterns).attribute(problem, generator=make_generator(0, "bif"))
        traces.append(load_tensors(tmp_path / "traces.safetensors")["train"])

    assert torch.equal(traces[0], traces[1])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_restricted_method_keeps_the_public_contract(method):
    check_attributor(dataclasses.replace(method, restrict=("4",), draws=24, chains=1, batch_size=32))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_pattern_without_a_match_is_an_error_that_names_it_and_the_modules(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)
    method = dataclasses.replace(method, restrict=("0", "attention"))

    message = (
        "restrict: 'attention' matches no parameter that requires a gradient. The model's modules are 0, 4; give a "
        "name of a module or parameter, a glob of them (as *.bias), or attention or mlp."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        method.attribute(problem, generator=make_generator(0, "bif"))


def test_an_error_lists_the_first_modules_of_a_large_model():
    with pytest.raises(
        ValueError, match=r"modules are gpt_neox, gpt_neox\.embed_in, gpt_neox\.layers, .*, \.\.\.; give"
    ):
        restrict_model(_make_gpt_neox(), ["layer.1"])


@pytest.mark.parametrize("patterns", ["attention", (), ("",), (3,)])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_patterns_that_are_no_list_of_texts_are_an_error(method, patterns, unchecked_types):
    message = f"restrict must be a list of patterns of names, or null, got {patterns!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(method, restrict=patterns)


def _moving(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def _make_tree(*names: str) -> nn.Module:
    """Make modules with parameters of these dotted names."""
    model = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        module = model
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(last, nn.Parameter(torch.zeros(2)))
    return model


def _make_gpt_neox() -> nn.Module:
    """Make modules with the names of a GPT-NeoX of two layers."""
    layers = [f"gpt_neox.layers.{layer}.{part}" for layer in (0, 1) for part in (*NORMS, *ATTENTION, *MLP)]
    modules = ["gpt_neox.embed_in", *layers, "gpt_neox.final_layer_norm"]
    weights_and_biases = [f"{module}.{kind}" for module in modules[1:] for kind in ("weight", "bias")]
    return _make_tree("gpt_neox.embed_in.weight", *weights_and_biases, "embed_out.weight")


def _watched_problem(workspace):
    """Make an image problem that keeps the model's parameters and buffers whenever its loss is computed."""
    problem = make_image_problem(workspace, num_train=12, num_query=4, num_models=1)
    with isolated_random_state(make_generator(0, "model")):
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 4)
        model = nn.Sequential(*layers).eval()
    seen = []

    def loss(model, examples):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return problem.loss(model, examples)

    return dataclasses.replace(problem, models=(model,), loss=loss), seen
