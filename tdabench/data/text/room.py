"""Whether a language model has room for a tokenizer's tokens and for the longest row."""

from torch import nn

from tdabench.data.text.rows import TextData
from tdabench.data.text.tokenizers import restore_tokenizer
from tdabench.models.causal_lm import check_positions, check_vocabulary


def require_room_for(model: nn.Module, data: TextData) -> None:
    """Check that a model knows every token of the tokenizer, and has positions for the longest row or query.

    Raises:
        ValueError: If it does not.
    """
    give = getattr(model, "get_input_embeddings", None)  # transformers' models have it
    if give is None:
        return
    check_vocabulary(give().num_embeddings, restore_tokenizer(data.tokenizer).get_vocab_size())
    tokens = [values for name, values in data.tensors().items() if name.endswith("_tokens")]
    check_positions(model, max(values.shape[1] for values in tokens))
