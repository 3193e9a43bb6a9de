"""A language problem for tests: a GPT-NeoX or Llama of 2 layers, rows of up to 12 tokens, queries trained on."""

import dataclasses
import functools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.base import Examples, Problem, copy_model, take
from tdabench.seeds import isolated_random_state, make_generator

VOCABULARY, POSITIONS, IGNORED = 100, 12, -100
NUM_TRAIN, NUM_QUERY = 120, 6


def token_loss(model: nn.Module, examples: Examples) -> Float[Tensor, "example position"]:
    """Return the loss of each token given those before it, in nats; 0 where it doesn't count."""
    logits = model(input_ids=examples["input_ids"], use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.mT, examples["labels"][:, 1:], ignore_index=IGNORED, reduction="none")
    return functional.pad(losses, (1, 0))


def language_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Return the loss of each row: the sum over its tokens."""
    return token_loss(model, examples).sum(dim=1)


def make_language_problem(workspace: Path, *, family: str = "gpt_neox", num_models: int = 1) -> Problem:
    """Make a problem whose query j is training row j; rows have 7 to 12 tokens, every third begins with a prompt."""
    train = _draw_rows(NUM_TRAIN)
    workspace.mkdir(exist_ok=True)
    return Problem(
        models=tuple(copy_model(_train(family, index)) for index in range(num_models)),
        loss=language_loss,
        token_loss=token_loss,
        train=train,
        query=take(train, slice(NUM_QUERY)),
        reference=train,
        workspace=workspace,
    )


def pad_problem(problem: Problem, workspace: Path, *, more: int = 5, token: int = 7) -> Problem:
    """Return the same problem with longer rows and other padding tokens."""
    roles = {role: _pad(getattr(problem, role), more, token) for role in ("train", "query", "reference")}
    workspace.mkdir(exist_ok=True)
    return dataclasses.replace(problem, workspace=workspace, **roles)


def _pad(examples: Examples, more: int, token: int) -> Examples:
    tokens = functional.pad(examples["input_ids"], (0, more))
    labels = functional.pad(examples["labels"], (0, more), value=IGNORED)
    after = (labels != IGNORED).flip(1).cumsum(dim=1).flip(1) == 0
    return {"input_ids": tokens.masked_fill(after, token), "labels": labels}


def _draw_rows(count: int) -> Examples:
    generator = make_generator(0, "tiny language")
    tokens = torch.randint(1, VOCABULARY, (count, POSITIONS), generator=generator)
    lengths = torch.randint(7, POSITIONS + 1, (count, 1), generator=generator)
    lengths[:2] = POSITIONS  # one unpadded row with a prompt, and one without
    position = torch.arange(POSITIONS)
    tokens = tokens.masked_fill(position >= lengths, 0)
    prompt = (torch.arange(count) % 3 == 0)[:, None] & (position < 4)
    return {"input_ids": tokens, "labels": tokens.masked_fill((position >= lengths) | prompt, IGNORED)}


@functools.cache
def _train(family: str, index: int) -> nn.Module:
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = {"gpt_neox": GPTNeoXConfig, "llama": LlamaConfig}[family]
    with isolated_random_state(make_generator(0, "tiny language", family, index)):
        settings = config(vocab_size=VOCABULARY, max_position_embeddings=32, **shape)
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
    rows, optimizer = _draw_rows(NUM_TRAIN), torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (language_loss(model, rows).sum() / (rows["labels"] != IGNORED).sum()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model
