"""A model's state as a file can hold it: each tensor once, though the model may know it by several names."""

from collections.abc import Mapping

from torch import Tensor, nn


def read_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state, each by its first name only: tied weights are one tensor."""
    first = _first_names(model)
    return {name: tensor for name, tensor in model.state_dict().items() if first[name] == name}


def write_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state of :func:`read_state`, or a whole ``state_dict``, into a model of the same architecture.

    Raises:
        RuntimeError: If a tensor is missing, unknown, or of another shape.
    """
    tied = {name: state[first] for name, first in _first_names(model).items() if name not in state and first in state}
    model.load_state_dict({**state, **tied})


def _first_names(model: nn.Module) -> dict[str, str]:
    """Map each name in the state to the first name of the same tensor."""
    named: dict[int, str] = {}
    return {name: named.setdefault(id(value), name) for name, value in model.state_dict(keep_vars=True).items()}
