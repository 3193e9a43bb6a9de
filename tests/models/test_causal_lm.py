import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tdabench.models.causal_lm import CausalLM, check_positions, check_vocabulary, describe, rebuild
from tdabench.models.states import read_state, write_state
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.storage.records import load_record, load_tensors, save_tensors

transformers = pytest.importorskip("transformers", reason="pip install 'tdabench[language]'")

TINY = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def _make(kind: str, **settings: object) -> nn.Module:
    """Make a tiny model of another library's config, in its own defaults."""
    config = transformers.CONFIG_MAPPING[kind](bos_token_id=0, eos_token_id=0, **settings)
    with isolated_random_state(make_generator(0, "model")):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt_neox", TINY),
        ("llama", {**TINY, "tie_word_embeddings": True}),
        ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16}),
    ],
)
def test_a_model_is_rebuilt_from_its_record_alone(tmp_path, kind, settings, dtype):
    _make(kind, **settings).save_pretrained(tmp_path / "published")
    model = CausalLM(weights="published", dtype=dtype).fetch(tmp_path)

    save_tensors(tmp_path / "model.safetensors", read_state(model), {"model": describe(model)})
    rebuilt = rebuild(load_record(tmp_path / "model.safetensors")["model"])
    write_state(rebuilt, load_tensors(tmp_path / "model.safetensors"))

    assert {parameter.dtype for parameter in rebuilt.parameters()} == {getattr(torch, dtype)}
    assert torch.equal(_logits(rebuilt), _logits(model))
    assert describe(rebuilt) == describe(model)


def test_a_rebuilt_model_has_no_weights_until_they_are_loaded():
    rebuilt = rebuild(describe(_make("llama", **TINY, tie_word_embeddings=True)))

    assert all(parameter.isnan().all() for parameter in rebuilt.parameters())
    assert rebuilt.lm_head.weight is rebuilt.model.embed_tokens.weight


@pytest.mark.parametrize("way", ["fetched", "rebuilt"])
def test_a_model_is_in_eval_mode_with_math_attention_and_no_dropout(tmp_path, way):
    _make("gpt2", vocab_size=61, n_embd=32, n_layer=1, n_head=2).save_pretrained(tmp_path / "published")

    model = CausalLM(weights="published").fetch(tmp_path)
    model = rebuild(describe(model)) if way == "rebuilt" else model

    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == "eager"
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert (model.config.attn_pdrop, model.config.use_cache) == (0.0, False)


def test_the_description_is_json_without_a_path_of_this_machine(tmp_path):
    _make("gpt_neox", **TINY).save_pretrained(tmp_path / "published")

    described = describe(CausalLM(weights="published", dtype="bfloat16").fetch(tmp_path))

    assert str(tmp_path) not in json.dumps(described)
    assert (described["model_type"], described["dtype"]) == ("gpt_neox", "bfloat16")


def test_a_published_model_is_not_built_with_random_weights():
    with pytest.raises(ValueError, match=r"'gpt2' is a published model.*set 'pretraining: published'"):
        CausalLM(weights="gpt2").build(torch.zeros(1, 2, dtype=torch.long), generator=make_generator(0))


def test_a_tokenizer_with_more_tokens_than_the_vocabulary_is_an_error_and_one_with_less_is_none():
    check_vocabulary(50304, 50277)
    with pytest.raises(ValueError, match="tokenizer has 50,277 tokens and the model's vocabulary 50,276"):
        check_vocabulary(50276, 50277)


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_a_row_that_is_longer_than_the_models_positions_is_an_error(name):
    model = nn.Module()
    assert describe(model) is None
    check_positions(model, 10**6)  # without a limit

    model.config = SimpleNamespace(**{name: 16})

    check_positions(model, 16)
    with pytest.raises(ValueError, match="row or query has 17 tokens and the model 16 positions"):
        check_positions(model, 17)


@pytest.mark.data
def test_stories260k_is_a_language_model_of_its_text(data_root, tmp_path):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(data_root / "stories260K" / "tokenizer.json"))
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    tokens = torch.tensor([tokenizer(text)["input_ids"]])

    model = CausalLM(weights="stories260K").fetch(data_root)

    assert sum(parameter.numel() for parameter in model.parameters()) == 260_032
    check_vocabulary(model.get_input_embeddings().num_embeddings, len(tokenizer))
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
    assert loss < 2.0  # of log(512) = 6.2 without any knowledge
    assert len(read_state(model)) == len(model.state_dict()) - 1  # the embeddings are tied


def _logits(model: nn.Module) -> Tensor:
    tokens = torch.randint(61, (2, 12), generator=make_generator(0, "tokens"))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits
