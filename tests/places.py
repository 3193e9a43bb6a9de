"""A small experiment in a folder of its own, as a user has one; what the tests of workflows share."""

import csv
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
METHODS = ("gradsim", "random", "bif")
EXPERIMENT = """\
# Real digits, as few as possible.
seed: 0
repeats: 1
checkpoints: 1
data: {source: "tdabench.data.digits:Digits", train_sizes: [120], queries: 30, tuning_queries: 10}
model: {builder: "pausing:PausingCNN", width: 4}
training: {optimizer: adamw, epochs: 2, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: 2}
methods:
  gradsim: {attributor: "tdabench.attributors.kronfluence:Kronfluence", strategy: identity}
  random: {attributor: "tdabench.attributors.baselines:Random"}
  bif:
    attributor: "tdabench.attributors.bif:BIF"
    step_size: 1e-4
    inverse_temperature: 100
    localization: 1000
    chains: 2
    draws: 5
evaluation: {resamples: 100}
"""
# The model above, where nothing is to be stopped.
PLAIN = ("pausing:PausingCNN", "tdabench.models.small_cnn:SmallCNN")
# All that can happen in one run: retrains that diverge, a method that can't run, a chain that diverges, a method that
# keeps its chains to itself, and one that is scored with other random numbers.
RICH = EXPERIMENT
for _old, _new in {
    "width: 4": "width: 4, broken: 0.2",
    "retrains: 1": "retrains: 2",
    "methods:\n": """\
methods:
  trak: {attributor: "tdabench.attributors.trak:TRAK", proj_dim: 512}
  chained: {attributor: "chained:Chained", chains: 2, fault: diverge}
  whole: {attributor: "whole:Whole", chains: 2}
""",
    "evaluation: {": "variance: {checkpoints: 1, runs: 3, methods: [random]}\nevaluation: {",
}.items():
    assert EXPERIMENT.count(_old) == 1
    RICH = RICH.replace(_old, _new)
# A model of one's own. It waits in mid-bank as long as there is a file PAUSE, so that a test can stop a job right
# there; a share of the models starts as NaN, as training runs diverge now and then.
PAUSING = """\
import dataclasses
import os
import time
from pathlib import Path

import torch

from tdabench.models.small_cnn import SmallCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class PausingCNN:
    width: int
    broken: float = 0.0

    def build(self, images, *, generator):
        done = Path(f"built-by-{os.getpid()}")
        deadline = time.monotonic() + 60
        while Path("PAUSE").exists() and done.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if Path("PAUSE").exists():
            done.touch()
        model = SmallCNN(width=self.width).build(images, generator=generator)
        if self.broken and torch.rand((), generator=generator) < self.broken:
            torch.nn.init.constant_(model[0].weight, torch.nan)
        return model
"""
MINE = """\
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    "Similar images of one class help each other."
    scale: float = 1.0

    def attribute(self, problem, *, generator):
        query, train = (part["image"].flatten(1) for part in (problem.query, problem.train))
        same = problem.query["label"][:, None] == problem.train["label"]
        return self.scale * (query @ train.T) * same
"""
# A method with chains, the second of which diverges, or kills its process until there is a file MENDED.
CHAINED = """\
import dataclasses
import os
import signal
from pathlib import Path

from tdabench.attributors.bif import BIF
from tdabench.attributors.base import chain_generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chained:
    chains: int
    fault: str

    def attribute(self, problem, *, generator):
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem, chain, *, generator):
        if chain == 1 and self.fault == "kill" and not Path("MENDED").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        step_size = 1e9 if chain == 1 and self.fault == "diverge" else 1e-4
        return self._bif(step_size).sample_chain(problem, chain, generator=generator)

    def score_chains(self, chains, problem):
        return self._bif(1e-4).score_chains(chains, problem)

    def _bif(self, step_size):
        settings = {"inverse_temperature": 100.0, "localization": 1000.0, "chains": self.chains, "draws": 5}
        return BIF(step_size=step_size, **settings)
"""
# A method with a number of chains that are no business of the workflow's.
WHOLE = """\
import dataclasses

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    chains: int

    def attribute(self, problem, *, generator):
        shape = self.chains, len(problem.query["label"]), len(problem.train["label"])
        return torch.rand(shape, generator=generator).mean(dim=0)
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with the Snakefile, the profiles and an experiment."""

    path: Path

    @property
    def results(self) -> Path:
        return self.path / "results" / "tiny"

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")

    def change(self, old: str, new: str, name: str = "experiments/tiny.yaml") -> None:
        text = self.read(name)
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def copy(self, path: Path) -> "Place":
        shutil.copytree(self.path, path)
        return Place(path)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["snakemake", *arguments], cwd=self.path, env=environment(), capture_output=True, text=True, check=False
        )

    def plan(self) -> set[str]:
        """Return the jobs that would run now."""
        planned = self.snakemake("-n", "tiny")
        assert planned.returncode == 0, planned.stderr
        return jobs(planned.stdout)

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.results / "tables" / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def rows(self, method: str, table: str = "lds.csv") -> list[dict[str, str]]:
        return [row for row in self.table(table) if row["method"] == method]


def make_place(path: Path, experiment: str = EXPERIMENT) -> Place:
    path.mkdir()
    shutil.copy(REPOSITORY / "Snakefile", path)
    shutil.copytree(REPOSITORY / "profiles", path / "profiles")
    place = Place(path)
    place.write("experiments/tiny.yaml", experiment)
    for name, text in (("pausing", PAUSING), ("chained", CHAINED), ("whole", WHOLE)):
        place.write(f"{name}.py", text)
    return place


def jobs(output: str) -> set[str]:
    """Read Snakemake's account of its jobs: ``retrain 2``, ``attribute bif``; a size other than 120 is named too."""
    found = set()
    for rule, text in re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?:    .*\n)*)", output, re.MULTILINE):
        wildcards = dict(re.findall(r"(\w+)=(\w+)", "".join(re.findall(r"    wildcards: (.*)\n", text))))
        values = [v for k, v in wildcards.items() if k not in ("experiment", "repeat") and (k, v) != SIZE]
        found.add(" ".join([rule, *values]))
    return found - {"tiny"}


SIZE = ("train_size", "120")


def environment() -> dict[str, str]:
    """Return what a user has who activated the virtual environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    for name in ("PYTHONWARNINGS", "TDABENCH_DATA", "SNAKEMAKE_PROFILE"):
        environment.pop(name, None)
    return environment
