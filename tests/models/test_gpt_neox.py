import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tdabench.models.causal_lm import build_from_config
from tdabench.models.gpt_neox import SIZES, Pythia
from tdabench.seeds import make_generator

pytest.importorskip("transformers", reason="pip install 'tdabench[language]'")

TINY = Pythia(size="14m", hidden_size=32, layers=2, heads=2, vocabulary=61, positions=16)

# Of the published checkpoints.
PARAMETERS = {
    "14m": 14_067_712,
    "31m": 30_494_720,
    "70m": 70_426_624,
    "160m": 162_322_944,
    "410m": 405_334_016,
    "1b": 1_011_781_632,
    "1.4b": 1_414_647_808,
    "2.8b": 2_775_208_960,
    "6.9b": 6_857_302_016,
    "12b": 11_846_072_320,
}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_as_many_parameters_as_the_published_one(size):
    with torch.device("meta"):
        model = build_from_config(
            Pythia(size=size).config(), dtype="float32", generator=make_generator(0, "model", device="cpu")
        )

    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[size]


def test_the_config_is_that_of_the_published_model(data_root):
    import transformers

    published = transformers.GPTNeoXConfig.from_pretrained(data_root / "pythia-tokenizer").to_dict()

    ours = Pythia(size="410m").config().to_dict()

    of_files = {"_name_or_path", "dtype", "use_cache", "transformers_version"}
    unused = {"classifier_dropout"}
    assert {key for key in published if ours[key] != published[key]} <= of_files | unused


def test_a_shape_of_ones_own_takes_the_place_of_the_sizes():
    model = TINY.build(_draw_tokens(), generator=make_generator(0, "model"))

    attention, mlp = 4 * 32 * 32 + 4 * 32, 8 * 32 * 32 + 5 * 32
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == 2 * 61 * 32 + 2 * (attention + mlp + 4 * 32) + 2 * 32
    )
    assert model(input_ids=_draw_tokens(), use_cache=False).logits.shape == (3, 16, 61)


def test_a_token_sees_those_before_it_and_no_other():
    model = TINY.build(_draw_tokens(), generator=make_generator(0, "model"))
    tokens = _draw_tokens()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 61

    logits, of_changed = (model(input_ids=inputs, use_cache=False).logits for inputs in (tokens, changed))

    torch.testing.assert_close(of_changed[:, :9], logits[:, :9], rtol=0, atol=1e-6)
    assert (of_changed[:, 9:] - logits[:, 9:]).abs().amax(-1).min() > 1e-5


def test_the_initialisation_is_drawn_from_the_generator():
    first, again, other = (
        TINY.build(_draw_tokens(), generator=make_generator(0, "model", index)).get_output_embeddings().weight
        for index in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_have_the_asked_dtype(dtype):
    model = Pythia(size="14m", hidden_size=32, layers=1, heads=2, vocabulary=61, dtype=dtype).build(
        _draw_tokens(), generator=make_generator(0, "model")
    )

    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"size": "13m"},
            "model.size must be '14m', '31m', '70m', '160m', '410m', '1b', '1.4b', '2.8b', '6.9b' or",
        ),
        ({"weights": "hub", "layers": 2}, "model.layers is for random weights; with model.weights 'hub'"),
        ({"revision": "step45000"}, "model.revision 'step45000' is of published weights"),
        ({"layers": 0}, "model.layers must be at least 1 or null, got 0"),
        ({"hidden_size": 24, "heads": 4}, "model.hidden_size must be a multiple of 8 x model.heads (32), got 24"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_setting_out_of_range_is_an_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pythia(**settings)


def test_images_are_no_rows_of_tokens():
    with pytest.raises(ValueError, match=r"A Pythia reads rows of tokens.*torch.float32 of shape \(3, 1, 8, 8\)"):
        TINY.build(torch.zeros(3, 1, 8, 8), generator=make_generator(0, "model"))


def test_published_weights_are_not_to_be_had_of_a_random_model(tmp_path):
    with pytest.raises(ValueError, match="needs published weights: set model"):
        Pythia().fetch(tmp_path)


def test_published_weights_of_another_shape_are_an_error(tmp_path):
    _save(tmp_path / "tiny")

    with pytest.raises(ValueError, match="'tiny' is no Pythia 14m: its hidden_size is 32, not 128"):
        Pythia(size="14m", weights="tiny").fetch(tmp_path)


def _save(folder: Path) -> None:
    TINY.build(_draw_tokens(), generator=make_generator(0, "model")).save_pretrained(folder)


def _draw_tokens() -> Tensor:
    return torch.randint(61, (3, 16), generator=make_generator(0, "tokens"))
