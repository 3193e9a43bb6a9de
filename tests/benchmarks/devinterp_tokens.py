r"""Scores of tokens against devinterp 2.0.1's ``compute_bif``, on the traces that devinterp sampled and stored.

devinterp gives ``(batch_1, batch_2, target_position, target_position_T)`` without the first position, which it has no
loss for: here ``batch_1`` are the queries, and our first position is 0. What it offers is compared one by one:

- covariance and correlation of every pair of tokens. It pools the draws of all chains before it centres; we centre in
  each chain. Pooled, the draws of all chains are given to ours as one chain; centred, its covariance is taken of one
  chain at a time, and those are averaged.
- ``average_tokenwise_bif``: the mean over all pairs of positions; ours is the sum (``level: token``, the paper's
  implementation B).
- ``correlation_method="sequence"``: of the mean token loss; ours is of the sum (``level: sequence``, implementation A).
- ``reduce_chain_dimension_method="mean"``: of the losses averaged over chains, which are given to ours as one chain.

Both of our ways, draws kept and draws added up, are compared.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # before devinterp makes its bars

import torch
import xarray as xr
from _language import make_text, train_gpt_neox
from _ratio import verdict
from devinterp.slt.bif import compute_bif
from devinterp_bif import METHOD, REFERENCE, find_rows, run_devinterp
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tdabench.attributors.base import Problem
from tdabench.attributors.bif import BIF
from tdabench.attributors.estimates.tokens import make_recorder

TRAIN, QUERY = 32, 16
SAMPLED = dataclasses.replace(METHOD, chains=4, draws=60)
AT_MOST = 1e-5

Losses = dict[str, Float[Tensor, "chain draw example position"]]


def read_tokens(folder: Path, text: Any) -> Losses:
    """Read devinterp's stored traces, in our order of examples and with our first position."""
    stored = xr.open_datatree(str(folder / "samples.zarr"), engine="zarr", consolidated=False).dataset
    losses = {}
    for name in ("train", "query"):
        values = torch.from_numpy(stored[f"loss_{name}"].transpose("chain", "draw", ..., "token_pos").values)
        rows = find_rows(getattr(text, name), stored[f"input_ids_{name}"].values)
        losses[name] = functional.pad(values[:, :, rows], (1, 0))
    return losses


def theirs(stored: xr.DataTree, text: Any, **settings: Any) -> Tensor:
    """Ask devinterp, and put its answer into our order: queries first, positions beside their sequence."""
    found = compute_bif(stored, **settings)
    rows = found["input_ids"].values
    matrix = torch.from_numpy(found["influences"].values)
    matrix = matrix[find_rows(text.query, rows)][:, find_rows(text.train, rows)]
    return functional.pad(matrix, (1, 0, 1, 0)).transpose(1, 2) if matrix.ndim == 4 else matrix


def ours(losses: Losses, ask: str, **settings: Any) -> Tensor:
    """Ask BIF, for the scores of tokens or of sequences, as if its chains had given these losses."""
    chains, draws = losses["query"].shape[:2]
    method: BIF = dataclasses.replace(SAMPLED, chains=chains, draws=draws, **settings)
    recorded = [record(method, {name: values[chain] for name, values in losses.items()}) for chain in range(chains)]
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(models=(), loss=None, train={}, query={}, reference={}, workspace=Path(folder))
        return getattr(method, ask)(recorded, problem)


def record(method: BIF, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a chain's draws to the recorder, as losses of a model that is a draw's number."""
    problem = Problem(
        models=(),
        loss=None,
        token_loss=lambda draw, examples: examples["losses"][:, draw],
        train={"losses": losses["train"].transpose(0, 1)},
        query={"losses": losses["query"].transpose(0, 1)},
        reference={},
        workspace=Path(),
    )
    recorder = make_recorder(method, problem)
    recorder.measure(0, None)
    sequences = torch.stack([recorder.measure(draw, draw) for draw in range(method.draws)])
    count = losses["train"].shape[1]
    return {"train": sequences[:, :count], "query": sequences[:, count:], **recorder.tensors()}


def check(what: str, found: Tensor, expected: Tensor) -> None:
    """Compare, relative to the largest."""
    difference = (found - expected).abs().max() / expected.abs().max()
    verdict(f"{what}: largest difference, relative to the largest", difference.item(), at_most=AT_MOST)


def check_tokens(stored: xr.DataTree, losses: Losses, text: Any) -> None:
    """Compare the scores of every pair of tokens."""
    one_chain = {name: values.flatten(0, 1)[None] for name, values in losses.items()}
    mean_chain = {name: values.mean(dim=0)[None] for name, values in losses.items()}
    for estimate in ("covariance", "correlation"):
        settings = {"estimate": estimate}
        covariance = estimate == "covariance"
        pooled = ours(one_chain, "score_token_chains", **settings)
        check(f"{estimate}, pooled", pooled, theirs(stored, text, compute_covariance=covariance))
        reduced = theirs(stored, text, compute_covariance=covariance, reduce_chain_dimension_method="mean")
        check(f"{estimate}, mean chain", ours(mean_chain, "score_token_chains", **settings), reduced)
        averaged = theirs(stored, text, compute_covariance=covariance, average_tokenwise_bif=True)
        positions = losses["query"].shape[-1] - 1
        summed = ours(one_chain, "score_chains", level="token", **settings)
        check(f"{estimate}, averaged over tokens (B)", summed / positions**2, averaged)
    chains = [
        theirs(xr.DataTree(stored.dataset.isel(chain=[chain])), text, compute_covariance=True)
        for chain in range(SAMPLED.chains)
    ]
    centred = ours(losses, "score_token_chains", estimate="covariance")
    check("covariance, mean of devinterp's a chain", centred, torch.stack(chains).mean(dim=0))


def check_sequences(stored: xr.DataTree, losses: Losses, text: Any) -> None:
    """Compare sequences, whose loss is ours to sum and theirs to average."""
    one_chain = {name: values.flatten(0, 1)[None] for name, values in losses.items()}
    positions = losses["query"].shape[-1] - 1
    for estimate, scale in (("covariance", positions**2), ("correlation", 1)):
        expected = theirs(stored, text, correlation_method="sequence", compute_covariance=estimate == "covariance")
        check(f"{estimate} of sequences (A)", ours(one_chain, "score_chains", estimate=estimate) / scale, expected)


def main() -> None:
    """Sample once with devinterp, on a GPT-NeoX of two layers, and compare what both make of its traces."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    text = make_text(reference=REFERENCE, train=TRAIN, query=QUERY, generator=generator)
    model = train_gpt_neox(text, width=32, layers=2, steps=100, generator=generator)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_devinterp(model, text, SAMPLED, seed=100, shift=0, folder=folder)
        losses = read_tokens(folder, text)
        stored = xr.open_datatree(str(folder / "samples.zarr"), engine="zarr", consolidated=False)
        check_tokens(stored, losses, text)
        check_sequences(stored, losses, text)
    sys.stdout.write("compared on devinterp's own traces\n")


if __name__ == "__main__":
    main()
