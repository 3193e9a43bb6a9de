"""Several processes share kronfluence's work: on the CPU by Gloo, where kronfluence is told that there are GPUs."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from tdabench.attributors.adapters.kronfluence_processes import data_parallel
from tdabench.attributors.base import Problem, Unsupported
from tdabench.attributors.kronfluence import Kronfluence, attribute_part
from tdabench.models.small_cnn import SmallCNN
from tdabench.training.losses import image_loss

SIZES = {"fit_batch_size": 4, "train_batch_size": 4, "query_batch_size": 4}


@contextlib.contextmanager
def as_if_on_gpus() -> Iterator[None]:
    """Let kronfluence join what its processes have: it does so only where CUDA is, and stacked, which Gloo can't."""
    gather = torch.distributed.all_gather_into_tensor

    def gather_stacked(output_tensor: torch.Tensor, input_tensor: torch.Tensor) -> None:
        gather(output_tensor.flatten(0, 1), input_tensor)

    with (
        mock.patch("torch.distributed.all_gather_into_tensor", gather_stacked),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.synchronize"),
        mock.patch("torch.Tensor.cuda", lambda tensor: tensor),
    ):
        yield


def attribute_there(attributor: Kronfluence, problem: Problem, generator: torch.Generator) -> torch.Tensor:
    with as_if_on_gpus():
        return attribute_part(attributor, problem, generator)


def fail_there(attributor: Kronfluence, problem: Problem, generator: torch.Generator) -> None:
    raise RuntimeError("the second process has a fault")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*all_gather_into_tensor:FutureWarning")
@pytest.mark.parametrize(("strategy", "tolerance"), [("identity", 1e-4), ("ekfac", None)])
def test_two_processes_give_the_scores_of_one(tmp_path, strategy, tolerance):
    alone = Kronfluence(strategy=strategy, **SIZES).attribute(_problem(tmp_path / "one"), generator=_generator())
    attributor = Kronfluence(strategy=strategy, processes=2, **SIZES)
    problem = _problem(tmp_path / "two")

    with data_parallel(attribute_there, attributor, problem, processes=2, generator=_generator()):
        scores = attribute_there(attributor, problem, _generator())

    assert scores.shape == (9, 21)  # neither is a multiple of two
    assert scores.isfinite().all()
    if tolerance is not None:  # no labels are sampled
        torch.testing.assert_close(scores, alone, rtol=tolerance, atol=tolerance * alone.abs().max().item())
    else:
        assert torch.corrcoef(torch.stack([scores.flatten(), alone.flatten()]))[0, 1] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fault_of_the_second_process_ends_the_first(tmp_path):
    attributor = Kronfluence(strategy="identity", processes=2, **SIZES)
    problem = _problem(tmp_path / "fault")

    with (
        pytest.raises((RuntimeError, torch.multiprocessing.ProcessRaisedException)),
        data_parallel(fail_there, attributor, problem, processes=2, generator=_generator()),
    ):
        attribute_there(attributor, problem, _generator())

    assert not torch.distributed.is_initialized()


def test_several_processes_without_a_gpu_are_unsupported(tmp_path):
    attributor = Kronfluence(strategy="identity", processes=2)

    with pytest.raises(Unsupported, match="2 processes share kronfluence's work on GPUs only"):
        attributor.attribute(_problem(tmp_path / "cpu"), generator=_generator())


def _problem(workspace) -> Problem:
    workspace.mkdir()
    generator = torch.Generator().manual_seed(5)
    train, query = (
        {"image": torch.rand(count, 1, 8, 8, generator=generator), "label": torch.arange(count) % 10}
        for count in (21, 9)
    )
    model = SmallCNN(width=4).build(train["image"], generator=generator).eval()
    return Problem(models=(model,), loss=image_loss, train=train, query=query, reference=train, workspace=workspace)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
