import re

import pytest
import torch
from torch import nn

from tdabench.models.small_cnn import SmallCNN
from tdabench.models.states import read_state, write_state
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.storage.records import load_tensors, save_tensors


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_are_stored_once_and_survive_a_file(tmp_path):
    model, other = _build_tied(0), _build_tied(1)

    assert set(model.state_dict()) - set(read_state(model)) == {"head.weight"}
    save_tensors(tmp_path / "model.safetensors", read_state(model), {})
    write_state(other, load_tensors(tmp_path / "model.safetensors"))

    assert torch.equal(other.head.weight, model.head.weight)
    assert other.head.weight is other.embedding.weight


def test_a_model_without_ties_has_its_whole_state():
    model = SmallCNN().build(torch.zeros(1, 1, 8, 8), generator=make_generator(0, "model"))

    state = read_state(model)

    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_equal_tensors_that_are_not_tied_stay_apart():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))

    assert read_state(model).keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["embedding.weight", "norm.running_mean", "tail.weight"])
def test_a_missing_or_unknown_tensor_is_an_error(name):
    state = read_state(_build_tied(0)) | {"tail.weight": torch.zeros(1)}
    if name != "tail.weight":
        del state[name]

    with pytest.raises(RuntimeError, match=re.escape(name)):
        write_state(_build_tied(1), state)


def _build_tied(index: int) -> _Tied:
    with isolated_random_state(make_generator(0, "model", index)):
        return _Tied()
