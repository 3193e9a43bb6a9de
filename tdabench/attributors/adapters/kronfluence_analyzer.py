"""kronfluence's analyzer for a problem: its model, its files, and how it gets batches."""

import contextlib
import gc
from collections.abc import Iterator

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import nn
from torch.utils.data import Dataset

from tdabench.attributors.adapters.kronfluence_task import make_task
from tdabench.attributors.base import Examples, Problem, copy_model, num_examples, take
from tdabench.seeds import isolated_random_state


@contextlib.contextmanager
def make_analyzer(problem: Problem, *, processes: int, generator: torch.Generator) -> Iterator[Analyzer]:
    """Return kronfluence's analyzer, whose files lie in the workspace; the body's random numbers are its own."""
    task = make_task(problem)
    device = next(iter(problem.train.values())).device
    with isolated_random_state(generator), _heap_passed_over():
        model = prepare_model(copy_model(problem.models[0]), task)
        alone = processes == 1
        if not alone:
            model = nn.parallel.DistributedDataParallel(model)
        options = {"cpu": device.type == "cpu" and alone, "disable_tqdm": False, "output_dir": str(problem.workspace)}
        analyzer = Analyzer("kronfluence", model, task, **options)
        # The data lie on the device as tensors: a batch is one indexing, with no collation by example.
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda batch: batch, num_workers=0))
        yield analyzer


@contextlib.contextmanager
def _heap_passed_over() -> Iterator[None]:
    """Let the garbage collector pass over what exists: kronfluence collects at every step, which else takes 0.2 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class ExampleDataset(Dataset):
    """Examples as a dataset that gives whole batches."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """Count the examples."""
        return num_examples(self.examples)

    def __getitems__(self, indices: list[int]) -> Examples:
        """Return a batch."""
        device = next(iter(self.examples.values())).device
        return take(self.examples, torch.tensor(indices, device=device))
