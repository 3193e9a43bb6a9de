"""A published ground truth (kronfluence's, GPT-2 on WikiText-2), against numbers that scipy gives."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tdabench import cli
from tdabench.bank.bank import load_bank
from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.experiment.sections import EvaluationSettings
from tdabench.seeds import make_generator

pytestmark = pytest.mark.data
# Scores that predict the even subsets by least squares, compared with the odd ones, and with all.
ON_ODD_SUBSETS = 0.077919
ON_ALL_SUBSETS = 0.638692


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """Import the published bank and its odd subsets; return the folder, where scores lie too."""
    place = tmp_path_factory.mktemp("golden")
    source = request.getfixturevalue("published")
    assert (
        cli.main(["bank", "import", str(source), "--format", "kronfluence", "--output", str(place / "all.safetensors")])
        == 0
    )
    masks, losses = np.load(source / "masks.npy"), np.load(source / "losses.npy")
    np.savez(place / "odd.npz", masks=masks[1::2], losses=losses[1::2])
    odd = ["bank", "import", str(place / "odd.npz"), "--format", "arrays", "--averaged", "5"]
    assert cli.main([*odd, "--output", str(place / "odd.safetensors")]) == 0
    kept, measured = masks[::2].astype(float), -losses[::2].astype(float)
    fitted = np.linalg.lstsq(kept - kept.mean(axis=0), measured - measured.mean(axis=0), rcond=1e-8)[0]
    np.save(place / "least_squares.npy", fitted.T)
    return place


@pytest.fixture(scope="module")
def published():
    found = Path(os.environ.get("TDABENCH_DATA", "")) / "lds-bank-wikitext"
    if not os.environ.get("TDABENCH_DATA") or not found.is_dir():
        pytest.skip("needs real data: TDABENCH_DATA has no folder lds-bank-wikitext")
    return found


def test_the_published_bank_has_the_sizes_that_its_makers_state(folder):
    bank = load_bank(folder / "all.safetensors")

    assert tuple(bank.masks.shape) == (100, 4656)
    assert tuple(bank.loss.shape) == (100, 1, 481)
    assert bank.masks.sum(dim=1).tolist() == [2328] * 100
    assert bank.record["averaged"] == 5
    assert bank.record["queries"] == {"scored": 481, "tuning": 0}
    assert set(bank.record["inputs"]) == {"masks.npy", "losses.npy"}
    assert bank.loss[0, 0, 0].item() == pytest.approx(1385.5238, abs=1e-4)


def test_the_description_counts_the_queries_with_ties(folder, capsys):
    assert cli.main(["bank", "show", str(folder / "all.safetensors")]) == 0

    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.count("|") == 3]
    described = {key.strip(): value.strip() for key, value in rows}
    assert described["subsets"] == "100 of 4656 training examples, fraction 0.5"
    assert described["queries with equal losses"] == "11, of which 0 constant"
    assert described["retrains"] == "1 a subset, each the mean of 5"


@pytest.mark.parametrize(("name", "pinned"), [("odd", ON_ODD_SUBSETS), ("all", ON_ALL_SUBSETS)])
def test_known_scores_have_the_lds_that_scipy_gives(folder, published, name, pinned):
    step = slice(1, None, 2) if name == "odd" else slice(None)
    masks, losses = np.load(published / "masks.npy")[step], np.load(published / "losses.npy")[step]
    scores = np.load(folder / "least_squares.npy")
    predicted = masks.astype(float) @ scores.T
    expected = [spearmanr(predicted[:, query], -losses[:, query]).statistic for query in range(481)]

    status = cli.main(
        ["bank", "score", str(folder / f"{name}.safetensors"), "--scores", str(folder / "least_squares.npy"),
         "--resamples", "100", "--output", str(folder / f"{name}.csv")]
    )  # fmt: skip

    assert status == 0
    with (folder / f"{name}.csv").open(newline="") as file:
        row, random = csv.DictReader(file)
    assert row["method"] == "least_squares"
    assert float(row["lds"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(row["lds"]) == pytest.approx(pinned, abs=1e-6)
    assert float(row["low"]) < pinned < float(row["high"])
    assert (row["queries"], row["nan_queries"], row["ceiling"]) == ("481", "0", "")
    # 481 queries share the subsets: random scores are within 4 standard errors of nothing.
    assert abs(float(random["lds"])) < 4 * float(random["standard_error"])


def test_every_querys_lds_is_scipys_also_where_losses_tie(folder, published):
    bank = load_bank(folder / "odd.safetensors")
    scores = torch.from_numpy(np.load(folder / "least_squares.npy"))
    losses = np.load(published / "losses.npy")[1::2]
    predicted = bank.masks.numpy().astype(float) @ scores.numpy().T

    result = evaluate_scores(
        scores, bank.masks, bank.loss, EvaluationSettings(resamples=100), num_scored=481,
        generator=make_generator(0, "bootstrap"),
    )  # fmt: skip

    expected = [spearmanr(predicted[:, query], -losses[:, query]).statistic for query in range(481)]
    assert sum(len(set(column)) < 50 for column in losses.T) > 0
    assert result["lds"] == pytest.approx(expected, abs=1e-9)
