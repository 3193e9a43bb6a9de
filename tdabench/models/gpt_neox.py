"""Pythia: GPT-NeoX in the sizes of Biderman et al. (2023, arXiv:2304.01373)."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tdabench.experiment.settings import Count, settings
from tdabench.models.causal_lm import build_from_config
from tdabench.models.published import find_published, load_config, load_published


class Shape(NamedTuple):
    """What makes a size; the width of the MLP is four times ``hidden_size``."""

    hidden_size: int
    layers: int
    heads: int
    vocabulary: int = 50304
    positions: int = 2048


SIZES = {
    "14m": Shape(128, 6, 4),
    "31m": Shape(256, 6, 8),
    "70m": Shape(512, 6, 8),
    "160m": Shape(768, 12, 12),
    "410m": Shape(1024, 24, 16),
    "1b": Shape(2048, 16, 8),
    "1.4b": Shape(2048, 24, 16),
    "2.8b": Shape(2560, 32, 32),
    "6.9b": Shape(4096, 32, 32, vocabulary=50432),
    "12b": Shape(5120, 36, 40, vocabulary=50688),
}


@settings("model")
class Pythia:
    """Build a GPT-NeoX: rotary positions on a quarter of each head, attention and MLP in parallel, untied embeddings.

    Attributes:
        size: One of the published sizes, ``14m`` to ``12b``.
        weights: ``random``, ``hub`` (the size's own model there), another id on the hub, or a folder relative to the
            data root.
        revision: Branch, tag or commit on the hub, such as ``step45000``; ``null`` for the main one.
        dtype: Of the parameters.
        hidden_size: With random weights, instead of the size's: width of the residual stream; a multiple of ``heads``.
        layers: The same for the number of layers.
        heads: The same for the attention heads of a layer.
        vocabulary: The same for the rows of the embedding.
        positions: The same for the longest sequence.
    """

    size: Literal[tuple(SIZES)] = "14m"  # type: ignore[valid-type]
    weights: str = "random"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    hidden_size: Count | None = None
    layers: Count | None = None
    heads: Count | None = None
    vocabulary: Count | None = None
    positions: Count | None = None

    def __post_init__(self) -> None:
        own = [name for name in Shape._fields if getattr(self, name) is not None]
        if own and self.weights != "random":
            raise ValueError(
                f"model.{own[0]} is for random weights; with model.weights {self.weights!r} the shape is theirs."
            )
        if self.revision is not None and self.weights == "random":
            raise ValueError(f"model.revision {self.revision!r} is of published weights, and model.weights is random.")
        shape = self.shape
        if shape.hidden_size % (8 * shape.heads):  # else a quarter of a head has no pairs to rotate
            raise ValueError(
                f"model.hidden_size must be a multiple of 8 x model.heads ({8 * shape.heads}), got {shape.hidden_size}."
            )

    @property
    def shape(self) -> Shape:
        """The size's shape, with what is set here instead."""
        own = {name: getattr(self, name) for name in Shape._fields if getattr(self, name) is not None}
        return SIZES[self.size]._replace(**own)

    def config(self) -> Any:
        """Return the model's transformers config."""
        shape = self.shape
        return load_config(
            {
                "model_type": "gpt_neox",
                "architectures": ["GPTNeoXForCausalLM"],
                "hidden_size": shape.hidden_size,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "intermediate_size": 4 * shape.hidden_size,
                "vocab_size": shape.vocabulary,
                "max_position_embeddings": shape.positions,
                "rotary_pct": 0.25,
                "use_parallel_residual": True,
                "tie_word_embeddings": False,
                "bos_token_id": 0,
                "eos_token_id": 0,
            }
        )

    def build(self, inputs: Shaped[Tensor, "example *position"], *, generator: torch.Generator) -> nn.Module:
        """Build a freshly initialised model, in eval mode.

        Args:
            inputs: Tokens; nothing of them is used.
            generator: The stream of the initialisation.

        Raises:
            ValueError: If the inputs are no tokens.
        """
        if inputs.ndim != 2 or inputs.is_floating_point():
            raise ValueError(
                f"A Pythia reads rows of tokens, and these inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: "
                "choose a source of text (data.source), or a model of images."
            )
        return build_from_config(self.config(), dtype=self.dtype, generator=generator)

    def fetch(self, root: Path) -> nn.Module:
        """Load the published weights, in eval mode.

        Args:
            root: The folder that ``weights`` may be relative to.

        Raises:
            FileNotFoundError: If neither a folder nor the hub nor its cache has the model.
            ValueError: If ``weights`` is random, or what is there is damaged or of another size.
        """
        if self.weights == "random":
            raise ValueError(
                "'pretraining: published' needs published weights: set model.weights to hub, an id on the hub or a "
                "folder, got 'random'."
            )
        weights = f"EleutherAI/pythia-{self.size}" if self.weights == "hub" else self.weights
        model = load_published(find_published(weights, self.revision, root), dtype=self.dtype)
        expected = self.config().to_dict()
        for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            if getattr(model.config, key, None) != expected[key]:
                raise ValueError(
                    f"The model in {weights!r} is no Pythia {self.size}: its {key} is "
                    f"{getattr(model.config, key, None)}, not {expected[key]}. For other shapes there is "
                    "tdabench.models.causal_lm:CausalLM."
                )
        return model
