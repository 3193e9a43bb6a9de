import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench.attributors.estimates.blocks import GIB, KEPT_BYTES, block_side, estimate_losses, require_memory
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.seeds import make_generator

MEBIBYTE = 2**-10  # in GiB
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "estimators.py"


@pytest.mark.parametrize(("estimate", "function"), [("covariance", loss_covariance), ("correlation", loss_correlation)])
@pytest.mark.parametrize("memory_gib", [1e-9, 6e-6, 1e-5])
def test_an_estimate_in_blocks_equals_that_of_everything_at_once(tmp_path, estimate, function, memory_gib):
    query, train = _draw_losses()

    scores = _estimate(query, train, tmp_path, estimate=estimate, memory_gib=memory_gib)

    # Scores in blocks are float32.
    expected = function(query, train)
    torch.testing.assert_close(scores, expected.float(), rtol=1e-6, atol=1e-7)


def test_the_limits_of_these_tests_make_one_block_of_one_pair_and_several_larger_ones():
    sides = [block_side(memory_gib, draws=30) for memory_gib in (1e-9, 6e-6, 1e-5)]

    assert sides == [1, 2, 4]


@pytest.mark.parametrize("memory_gib", [None, 1.0])
def test_an_estimate_that_fits_is_float64_and_in_memory(tmp_path, memory_gib):
    query, train = _draw_losses()

    scores = _estimate(query, train, tmp_path, estimate="covariance", memory_gib=memory_gib)

    assert torch.equal(scores, loss_covariance(query, train))


def test_scores_that_do_not_fit_leave_nothing_in_the_workspace_and_stay_valid(tmp_path):
    query, train = _draw_losses()

    scores = _estimate(query, train, tmp_path, estimate="covariance", memory_gib=2e-6)

    assert list(tmp_path.iterdir()) == []
    maps = Path("/proc/self/maps")
    assert not maps.exists() or f"{tmp_path}/scores (deleted)" in maps.read_text()
    torch.testing.assert_close(scores, loss_covariance(query, train).float(), rtol=1e-6, atol=1e-7)


def test_a_disk_without_room_for_the_scores_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    query, train = _draw_losses()

    with pytest.raises(OSError, match=r"Can't make room for 280 bytes in .*No space left on device.* memory_gib"):
        _estimate(query, train, tmp_path, estimate="covariance", memory_gib=2e-6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_gib", [1 / 64, 0.25, 1.0, 16.0])
@pytest.mark.parametrize("draws", [2, 200, 500])
def test_a_block_takes_no_more_than_the_limit_and_wastes_little(memory_gib, draws):
    side = block_side(memory_gib, draws=draws)

    taken = 16 * side**2 + 32 * draws * side
    assert 0.8 * (memory_gib * GIB - KEPT_BYTES) < taken <= memory_gib * GIB
    assert taken > (0.8 if memory_gib >= 1 else 0.4) * memory_gib * GIB


@pytest.mark.parametrize("memory_gib", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_positive_number_is_an_error(memory_gib):
    with pytest.raises(ValueError, match=re.escape("memory_gib must be positive and finite, or null for no limit")):
        require_memory(memory_gib)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from /proc")
def test_the_memory_of_an_estimate_and_of_keeping_its_scores_stays_below_the_limit():
    # 20,000 x 5,000 scores: 400 MB as float32, with a limit of 0.125 GiB; in a process of its own.
    command = [sys.executable, str(BENCHMARK), "--train", "20000", "--query", "5000", "--memory-gib", "0.125"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok" in done.stdout


def _draw_losses() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw losses of 7 queries and 10 training examples over 2 chains of 30 draws."""
    generator = make_generator(0, "losses")
    query, train = (torch.randn(2, 30, count, generator=generator) for count in (7, 10))
    return query, train + query.mean(dim=2, keepdim=True)


def _estimate(query: torch.Tensor, train: torch.Tensor, workspace: Path, **settings: object) -> torch.Tensor:
    return estimate_losses(query.unbind(), train.unbind(), workspace=workspace, **settings)
