"""A small GPT-NeoX on sequences of a Markov chain, as a problem of attribution and as devinterp's data."""

import dataclasses
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tdabench.attributors.base import Examples, Problem

VOCABULARY, LENGTH = 32, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Sequences to learn, those of them to attribute to, and others to ask about."""

    reference: Int[Tensor, "example position"]
    train: Int[Tensor, "example position"]
    query: Int[Tensor, "example position"]


def token_loss(model: nn.Module, input_ids: Int[Tensor, "example position"]) -> Float[Tensor, "example next"]:
    """Cross-entropy of each next token, in nats; the form of devinterp's ``loss_fn``."""
    logits = model(input_ids, return_dict=False, use_cache=False)[0][:, :-1]
    return functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")


def sequence_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Mean token loss of a sequence."""
    return token_loss(model, examples["input_ids"]).mean(dim=1)


def make_text(*, reference: int, train: int, query: int, generator: torch.Generator) -> Text:
    """Draw sequences of a Markov chain with few likely successors; the training sequences are the first to learn."""
    successors = torch.randn(VOCABULARY, VOCABULARY, generator=generator).mul(2).softmax(dim=1)
    tokens = [torch.randint(VOCABULARY, (reference + query,), generator=generator)]
    for _ in range(LENGTH - 1):
        tokens.append(torch.multinomial(successors[tokens[-1]], 1, generator=generator).squeeze(1))
    rows = torch.stack(tokens, dim=1)
    return Text(reference=rows[:reference], train=rows[:train], query=rows[reference:])


def train_gpt_neox(text: Text, *, width: int, layers: int, steps: int, generator: torch.Generator) -> nn.Module:
    """Train a GPT-NeoX for a few steps of Adam, in float32, with attention written out (no fused kernels)."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=LENGTH, attention_dropout=0.0, hidden_dropout=0.0,
        attn_implementation="eager", bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)  # transformers takes no generator
    model = GPTNeoXForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(text.reference), (32,), generator=generator)
        optimizer.zero_grad()
        token_loss(model, text.reference[rows]).mean().backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def make_problem(model: nn.Module, text: Text, *, workspace: Path) -> Problem:
    """Pose the attribution of the queries to the training sequences."""
    parts = {field.name: {"input_ids": getattr(text, field.name)} for field in dataclasses.fields(text)}
    return Problem(models=(model,), loss=sequence_loss, workspace=workspace, **parts)
