"""One repeat and size of an experiment: where its files lie. The only place that knows. Imports no torch."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One repeat and size of the attribution set.

    Attributes:
        root: The experiment's folder of results.
        repeat: Which repetition, from 0.
        train_size: Size of the attribution set.

    Example:
        >>> Cell(Path("results/lds_digits"), 0, 250).scores("bif").as_posix()
        'results/lds_digits/0/250/scores/bif.safetensors'
    """

    root: Path
    repeat: int
    train_size: int

    @property
    def folder(self) -> Path:
        """The folder of this repeat and size."""
        return self.root / str(self.repeat) / str(self.train_size)

    @property
    def dataset(self) -> Path:
        """The data, of every cell."""
        return self.root / "dataset.safetensors"

    @property
    def pretrained(self) -> Path:
        """The weights that every training starts from, if there is pretraining."""
        return self.root / "pretrained.safetensors"

    @property
    def split(self) -> Path:
        """The pool, the queries and the warm-up set, of every size of this repeat."""
        return self.root / str(self.repeat) / "split.safetensors"

    @property
    def judgement(self) -> Path:
        """What the bank says of every method."""
        return self.folder / "judgement.json"

    @property
    def kept(self) -> Path:
        """Losses of the models that were retrained on everything, with the seeds of ``removal``."""
        return self.folder / "keep" / "all.safetensors"

    def checkpoint(self, index: int) -> Path:
        """Return the file of a model that was trained on the whole attribution set."""
        return self.folder / "checkpoints" / f"{index}.safetensors"

    def checkpoints(self, count: int) -> list[Path]:
        """Return the files of the first checkpoints; the first one is attributed."""
        return [self.checkpoint(index) for index in range(count)]

    def bank(self, shards: int) -> list[Path]:
        """Return the files of a bank's shards."""
        return [self.folder / "bank" / f"{shard}.safetensors" for shard in range(shards)]

    def calibration(self, method: str) -> Path:
        """Return the file with what a method's settings that say ``auto`` are."""
        return self.folder / "calibrate" / f"{method}.json"

    def chains(self, method: str, count: int) -> list[Path]:
        """Return the files of a method's chains that are jobs of their own."""
        return [self.folder / "chains" / f"{method}-{chain}.safetensors" for chain in range(count)]

    def scores(self, method: str) -> Path:
        """Return the file of a method's scores."""
        return self.folder / "scores" / f"{method}.safetensors"

    def diagnosis(self, method: str) -> Path:
        """Return the file that says how well a method drew."""
        return self.folder / "diagnose" / f"{method}.json"

    def variations(self, method: str) -> Path:
        """Return the file of a method's scores for other checkpoints and with other random numbers."""
        return self.folder / "vary" / f"{method}.safetensors"

    def tokens(self, method: str) -> Path:
        """Return the file of a method's scores of tokens."""
        return self.folder / "tokens" / f"{method}.safetensors"

    def removal(self, method: str) -> Path:
        """Return the file of losses after a method's most helpful examples were removed."""
        return self.folder / "remove" / f"{method}.safetensors"

    def point(self, name: str) -> Path:
        """Return the file of a point of the sweep."""
        return self.folder / "sweep" / f"{name}.safetensors"

    def workspace(self, name: str) -> Path:
        """Return the folder of a job's scratch; a sampler's traces stay there."""
        return self.folder / "workspace" / name

    def traces(self, method: str) -> Path:
        """Return the file of the losses that a method recorded at its draws."""
        return self.workspace(method) / "traces.safetensors"


def find_cell(experiment: "Experiment", repeat: int, train_size: int) -> Cell:
    """Return the cell that is named, in the folder of the workflow.

    Raises:
        ValueError: If the experiment has no such repeat or size.
    """
    sizes = experiment.data.train_sizes
    if train_size not in sizes:
        known = ", ".join(map(str, sizes))
        raise ValueError(f"There is no train_size {train_size} in {experiment.name}; there are {known}.")
    if not 0 <= repeat < experiment.repeats:
        raise ValueError(f"{experiment.name} has the repeats 0 to {experiment.repeats - 1}, got {repeat}.")
    return Cell(root_of(experiment), repeat, train_size)


def root_of(experiment: "Experiment") -> Path:
    """Return an experiment's folder of results."""
    return Path("results") / experiment.name


def cells_of(experiment: "Experiment", root: Path, sizes: Iterable[int] | None = None) -> Iterator[Cell]:
    """Yield every cell of an experiment, repeat by repeat.

    Args:
        root: The experiment's folder of results.
        sizes: Those to look at, if not all.
    """
    for repeat in range(experiment.repeats):
        for train_size in experiment.data.train_sizes if sizes is None else sizes:
            yield Cell(root, repeat, train_size)
