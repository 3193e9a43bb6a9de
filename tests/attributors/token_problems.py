"""Problems with tokens: one with an exact law, and a small language model."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.base import Examples, Problem
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic

CHECKPOINT = torch.tensor([1.0, -2.0])
HESSIAN = torch.tensor([[1.1, 0.3], [0.3, 1.1]])


def quadratic_token_loss(model: nn.Module, examples: Examples) -> Tensor:
    """Return (w - c)^T H (w - c) / 2 for the centre and Hessian of every token."""
    distance = model(examples["centre"].flatten(0, 1)).view_as(examples["centre"])
    return torch.einsum("bpi,bpij,bpj->bp", distance, examples["hessian"], distance) / 2


def make_quadratic_tokens(workspace: Path) -> Problem:
    """Make three training examples of four tokens and two queries of three; the chain knows one token, at its centre.

    Without gradient noise the chain's stationary law is exact; its mean is the checkpoint.
    """
    generator = make_generator(0, "quadratic tokens")
    parts = [_draw_quadratics(count, positions, generator) for count, positions in ((3, 4), (2, 3))]
    return Problem(
        models=(Quadratic(CHECKPOINT).eval(),),
        loss=lambda model, examples: quadratic_token_loss(model, examples).sum(dim=1),
        token_loss=quadratic_token_loss,
        train=parts[0],
        query=parts[1],
        reference={"centre": CHECKPOINT[None, None], "hessian": HESSIAN[None, None]},
        workspace=workspace,
    )


def _draw_quadratics(count: int, positions: int, generator: torch.Generator) -> Examples:
    factors = 0.3 * torch.randn(count, positions, 2, 2, generator=generator)
    hessian = HESSIAN + factors + factors.mT
    gradient = torch.randn(count, positions, 2, generator=generator)
    return {"centre": CHECKPOINT - torch.linalg.solve(hessian, gradient), "hessian": hessian}


def next_token_loss(model: nn.Module, examples: Examples) -> Tensor:
    """Return the cross-entropy of every token given those before it; 0 where its label is -100, and for the first."""
    logits = model(input_ids=examples["input_ids"], use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.mT, examples["labels"][:, 1:], reduction="none", ignore_index=-100)
    return functional.pad(losses, (1, 0))


def make_language_problem(workspace: Path, *, num_train: int = 5, num_query: int = 3) -> Problem:
    """Make rows of 8 and queries of 6 random tokens for a random GPT-NeoX; a row is padded, a query prompted."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, attn_implementation="eager", bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with isolated_random_state(make_generator(0, "model")):
        model = GPTNeoXForCausalLM(config).eval()
    generator = make_generator(0, "tokens")
    train, query = (_draw_rows(*shape, generator) for shape in ((num_train, 8), (num_query, 6)))
    train["labels"][0, 5:] = -100
    query["labels"][0, :3] = -100
    return Problem(
        models=(model,),
        loss=lambda model, examples: next_token_loss(model, examples).sum(dim=1),
        token_loss=next_token_loss,
        train=train,
        query=query,
        reference=train,
        workspace=workspace,
    )


def _draw_rows(count: int, positions: int, generator: torch.Generator) -> Examples:
    tokens = torch.randint(100, (count, positions), generator=generator)
    return {"input_ids": tokens, "labels": tokens.clone()}
