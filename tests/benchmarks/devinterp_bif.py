r"""BIF against devinterp 2.0.1: the same matrix, the same estimate from its traces, and the time of both.

Both sides take the same checkpoint, sequences, chains, draws, burn-in, steps, batches and loss. The settings are the
same numbers: devinterp's update (``devinterp.optim.sgmcmc.SGMCMC.step`` with the prior of ``SGMCMC.sgld``) is

.. math:: w' = w - \tfrac{\mathrm{lr}}{2} (\mathrm{nbeta} \nabla L_B(w) + \mathrm{localization} (w - w^*))
    + \sqrt{\mathrm{lr}}\, \xi

with :math:`L_B` the mean over the tokens of the minibatch, which for sequences of one length is our mean over
sequences of the mean token loss; so ``step_size = lr``, ``inverse_temperature = n_beta`` and the localizations are
equal (``noise_level`` 1 and ``llc_weight_decay`` 0, the defaults). Four things differ and are settled as follows:

- devinterp draws before it has taken the steps between draws, at the steps ``burn_in + 1 + k * between`` instead of
  ``burn_in + (k + 1) * between``: for the comparison of matrices its burn-in is longer by ``between - 1``.
- Its minibatches are one partition of the data, gone through again and again; ours are drawn anew at each step. On few
  sequences that is another noise (32 in batches of 16, so two batches in turn: the losses' deviations then differed
  with p = 0.007): the reference has so many that a chain sees hardly any twice.
- Its chains see the same minibatches unless told otherwise (``match_sampling_input_ids_across_chains``).
- It pools the draws of all chains before it centres; we centre in each chain, so that the distance between chains
  isn't read as covariance. Pooled, our estimator is theirs: the draws of all chains are given as one chain.

It runs as fast as it can be made to: a list of tensors instead of a ``datasets.Dataset``, one batch for its initial
loss, no metrics, no progress bar, and the same loss function as ours. Both write their traces to disk.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before devinterp makes its bars

import torch
import xarray as xr
from _language import Text, make_problem, make_text, token_loss, train_gpt_neox
from _permutation import permutation_test
from _ratio import compare, verdict
from devinterp.slt.bif import bif, compute_bif
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from tdabench.attributors.bif import BIF
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance

REFERENCE, TRAIN, QUERY = 4096, 32, 16
METHOD = BIF(
    step_size=2e-5, inverse_temperature=1000, localization=1e4, chains=8, draws=80, burn_in=30,
    steps_between_draws=3, batch_size=16, loss_batch_size=16, estimate="correlation",
)  # fmt: skip
TIMED = dataclasses.replace(METHOD, chains=2, draws=40, steps_between_draws=5)
WRONG = {
    "n*beta doubled": dataclasses.replace(METHOD, inverse_temperature=2 * METHOD.inverse_temperature),
    "localization off": dataclasses.replace(METHOD, localization=0),
}


def run_devinterp(model: nn.Module, text: Text, method: BIF, *, seed: int, shift: int, folder: Path) -> xr.Dataset:
    """Sample and correlate with devinterp, from the settings of ours."""
    train, query, reference = (
        [{"input_ids": row} for row in rows] for rows in (text.train, text.query, text.reference)
    )
    return bif(
        model,
        reference,
        {"train": (train, TRAIN // method.batch_size), "query": (query, QUERY // method.batch_size)},
        lr=method.step_size,
        n_beta=method.inverse_temperature,
        localization=method.localization,
        num_chains=method.chains,
        num_draws=method.draws,
        num_burnin_steps=method.burn_in + shift,
        num_steps_bw_draws=method.steps_between_draws,
        batch_size=method.batch_size,
        num_init_loss_batches=1,
        init_seed=seed,
        match_sampling_input_ids_across_chains=False,
        correlation_method="sequence",
        loss_fn=token_loss,
        device="cpu",
        output_path=folder / "samples.zarr",
    )


def sample_ours(model: nn.Module, text: Text, method: BIF, *, seed: int) -> dict[str, Tensor]:
    """Sample with BIF and read the traces that it keeps."""
    with tempfile.TemporaryDirectory() as folder:
        problem = make_problem(model, text, workspace=Path(folder))
        scores = method.attribute(problem, generator=torch.Generator().manual_seed(seed))
        return {"scores": scores, **load_file(Path(folder) / "traces.safetensors")}


def read_devinterp(folder: Path, text: Text) -> dict[str, Float[Tensor, "chain draw example"]]:
    """Read devinterp's stored traces, in our order of examples (it shuffles them)."""
    stored = xr.open_datatree(str(folder / "samples.zarr"), engine="zarr", consolidated=False).dataset
    traces = {}
    for name in ("train", "query"):
        losses = torch.from_numpy(stored[f"loss_{name}"].mean("token_pos").values)
        traces[name] = losses[..., find_rows(getattr(text, name), stored[f"input_ids_{name}"].values)]
    return traces


def find_rows(wanted: Tensor, rows: object) -> Tensor:
    """Return the place of each wanted sequence among rows."""
    same = (wanted[:, None] == torch.as_tensor(rows)[None]).all(dim=2)
    assert (same.sum(dim=1) == 1).all(), "every sequence must appear once"
    return same.int().argmax(dim=1)


def as_query_by_train(found: xr.Dataset, text: Text) -> Float[Tensor, "query train"]:
    """Cut devinterp's matrix of all examples to ours."""
    rows = found["input_ids"].values
    matrix = torch.from_numpy(found["influences"].values)
    return matrix[find_rows(text.query, rows)][:, find_rows(text.train, rows)]


def summarise_chains(traces: dict[str, Tensor]) -> dict[str, Float[Tensor, "chain value"]]:
    """Return every chain's correlations as Fisher's z, whose errors are alike; its mean losses; its log deviations."""
    pairs = zip(traces["query"].split(1), traces["train"].split(1), strict=True)
    losses = torch.cat([traces["query"], traces["train"]], dim=2).double()
    return {
        "correlations": torch.stack([loss_correlation(*chain).atanh().flatten() for chain in pairs]),
        "mean losses": losses.mean(dim=1),
        "deviations": losses.std(dim=1).log(),
    }


def compare_chains(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Return the p-value of each summary."""
    summaries, p_values = [summarise_chains(side) for side in (ours, theirs)], {}
    for name in summaries[0]:
        found, chance, p_values[name] = permutation_test(*(side[name] for side in summaries))
        sys.stdout.write(f"  {name}: root mean square difference {found:.4f}; by chance alone {chance:.4f}\n")
    return p_values


def check_estimator(theirs: xr.Dataset, traces: dict[str, Tensor], folder: Path, text: Text) -> None:
    """Compare our estimators with devinterp's on the traces that devinterp stored."""
    query, train = (traces[name].flatten(0, 1)[None] for name in ("query", "train"))
    pooled = loss_correlation(query, train)
    difference = (pooled - as_query_by_train(theirs, text)).abs().max().item()
    verdict("(b) correlation, pooled: largest difference", difference, at_most=1e-5)
    stored = xr.open_datatree(str(folder / "samples.zarr"), engine="zarr", consolidated=False)
    chains = [
        as_query_by_train(
            compute_bif(
                xr.DataTree(stored.dataset.isel(chain=[chain])), correlation_method="sequence", compute_covariance=True
            ),
            text,
        )
        for chain in range(METHOD.chains)
    ]
    covariance = loss_covariance(traces["query"], traces["train"])
    difference = (covariance - torch.stack(chains).mean(dim=0)).abs().max() / covariance.abs().max()
    verdict("(b) covariance, mean of devinterp's a chain: largest relative difference", difference.item(), at_most=1e-5)
    centred = loss_correlation(traces["query"], traces["train"])
    sys.stdout.write(f"  centring: largest difference, in each chain or pooled: {(centred - pooled).abs().max():.3f}\n")


def check_matrices(model: nn.Module, text: Text, theirs: dict[str, Tensor]) -> None:
    """Compare the chains of both sides, and see that wrong settings are found out."""
    for name, p_value in compare_chains(sample_ours(model, text, METHOD, seed=1), theirs).items():
        verdict(f"(a) same {name}: p-value", p_value, at_least=0.01)
    for wrong, method in WRONG.items():
        p_values = compare_chains(sample_ours(model, text, method, seed=1), theirs)
        sys.stdout.write(f"  p-values: {', '.join(f'{name} {value:.2g}' for name, value in p_values.items())}\n")
        verdict(f"(a) {wrong} is found out: least p-value", min(p_values.values()), at_most=0.001)


def check_time(model: nn.Module, text: Text) -> None:
    """Time both sides on the same work: equal steps, and losses of the same examples at equally many draws."""

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_devinterp(model, text, TIMED, seed=1, shift=0, folder=Path(folder))

    ratio = compare(lambda: sample_ours(model, text, TIMED, seed=1), theirs, repeats=4)
    verdict("(c) time, BIF / devinterp", ratio, at_most=1.0)


def main() -> None:
    """Run the three checks on a GPT-NeoX of two layers."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    text = make_text(reference=REFERENCE, train=TRAIN, query=QUERY, generator=generator)
    model = train_gpt_neox(text, width=32, layers=2, steps=100, generator=generator)
    check_time(model, text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = run_devinterp(model, text, METHOD, seed=100, shift=METHOD.steps_between_draws - 1, folder=folder)
        traces = read_devinterp(folder, text)
        check_estimator(theirs, traces, folder, text)
        check_matrices(model, text, traces)


if __name__ == "__main__":
    main()
