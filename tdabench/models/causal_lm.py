"""Causal language models of transformers: any architecture that the library itself knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tdabench.experiment.settings import settings
from tdabench.models.published import find_published, import_transformers, load_config, load_published
from tdabench.seeds import isolated_random_state


@settings("model")
class CausalLM:
    """Build any causal language model that transformers knows; code that comes with weights is never run.

    Attributes:
        weights: A folder with the model (relative to the data root), or its id on the Hugging Face hub.
        revision: Branch, tag or commit on the hub; ``null`` for the main one.
        dtype: Of the parameters.
    """

    weights: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, inputs: Int[Tensor, "example position"], *, generator: torch.Generator) -> nn.Module:
        """Refuse: the shape of the model is known only by its published weights.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"model.weights {self.weights!r} is a published model, which isn't trained from scratch here: set "
            "'pretraining: published', or choose tdabench.models.gpt_neox:Pythia for random weights."
        )

    def fetch(self, root: Path) -> nn.Module:
        """Load the published weights, in eval mode.

        Args:
            root: The folder that ``weights`` may be relative to.

        Raises:
            FileNotFoundError: If neither a folder nor the hub nor its cache has the model.
            ValueError: If what is there is no such model, or damaged.
        """
        return load_published(find_published(self.weights, self.revision, root), dtype=self.dtype)


def build_from_config(config: Any, *, dtype: str, generator: torch.Generator) -> nn.Module:
    """Build a model of a transformers config with random weights, in eval mode, without dropout.

    Args:
        config: A ``PreTrainedConfig``.
        dtype: Of the parameters, such as ``bfloat16``.
        generator: The stream of the initialisation.
    """
    with isolated_random_state(generator):
        return _from_config(config, dtype)


def rebuild(config: Mapping[str, Any]) -> nn.Module:
    """Build a model of the architecture that :func:`describe` gave, in eval mode; its weights are NaN
    until :func:`tdabench.models.states.write_state` loads them.

    Raises:
        ValueError: If the installed transformers has no such architecture.
    """
    loaded = load_config(config)
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = _from_config(loaded, config.get("dtype") or "float32")
    model.tie_weights()  # which is part of the initialisation
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return model


def _from_config(config: Any, dtype: str) -> nn.Module:
    transformers = import_transformers()
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=getattr(torch, dtype)
    )
    return model.eval()


def describe(model: nn.Module) -> dict[str, Any] | None:
    """Describe a model of transformers by its config, as JSON; ``None`` for a model that has none."""
    config = getattr(model, "config", None)
    as_json = getattr(config, "to_json_string", None)
    if as_json is None:
        return None
    described = json.loads(as_json(use_diff=False))
    described.pop("_name_or_path", None)  # a path of the machine that it was loaded on
    described["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    return described


def check_positions(model: nn.Module, positions: int) -> None:
    """Check that a model has positions for a row; one whose config names no limit has none.

    Raises:
        ValueError: If the row is longer.
    """
    config = getattr(model, "config", None)
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    limit = next((value for value in limits if isinstance(value, int) and value > 0), positions)
    if positions > limit:
        raise ValueError(
            f"The longest row or query has {positions:,} tokens and the model {limit:,} positions: lower "
            "data.options.length or prompt_length, or for random weights raise model.positions."
        )


def check_vocabulary(vocabulary: int, tokens: int) -> None:
    """Check that a model knows every token of a tokenizer; a vocabulary that is padded to more is fine.

    Args:
        vocabulary: Rows of the model's embedding.
        tokens: Tokens of the tokenizer, added ones included.

    Raises:
        ValueError: If the tokenizer has more.
    """
    if tokens > vocabulary:
        raise ValueError(
            f"The tokenizer has {tokens:,} tokens and the model's vocabulary {vocabulary:,}: they don't belong "
            "together. Choose the model's own tokenizer, or for random weights a larger model.vocabulary."
        )
