"""``tdabench plan`` and ``measure``, on real digits."""

import sys
from pathlib import Path

import pytest

from tdabench import cli
from tdabench.experiment.read import load_experiment
from tdabench.planning.costs import Size, load_costs
from tdabench.planning.jobs import list_jobs

EXPERIMENT = """\
seed: 0
data: {source: "tdabench.data.digits:Digits", train_sizes: [60, 120], queries: 30}
model: {builder: "tdabench.models.small_cnn:SmallCNN", width: 4}
training: {optimizer: adamw, epochs: 2, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: auto}
methods:
  slow: {attributor: "burning:Burning", seconds_a_pair: 2.0e-5}
  picky: {attributor: "burning:Picky"}
  bif:
    attributor: "tdabench.attributors.bif:BIF"
    step_size: auto
    inverse_temperature: 100
    localization: 1000
    chains: 2
    draws: 20
"""
BURNING = """\
import dataclasses
import time

import torch

from tdabench.attributors.base import Unsupported


@dataclasses.dataclass(frozen=True, kw_only=True)
class Burning:
    "Takes so much CPU time a pair, whatever else the machine does."
    seconds_a_pair: float

    def attribute(self, problem, *, generator):
        shape = len(problem.query["label"]), len(problem.train["label"])
        end = time.process_time() + self.seconds_a_pair * shape[0] * shape[1]
        while time.process_time() < end:
            pass
        return torch.rand(shape, generator=generator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picky:
    def attribute(self, problem, *, generator):
        raise Unsupported("it likes no problem")
"""
CUT = """
import dataclasses
from pathlib import Path

import torch


@dataclasses.dataclass
class Counted:
    scale: float = 1.0

    def attribute(self, problem, *, generator):
        with Path("calls").open("a") as calls:
            calls.write("+")
        return self.scale * torch.zeros(len(problem.query["label"]), len(problem.train["label"]))


class Cut:
    def attribute(self, problem, *, generator):
        if not Path("go").exists():
            raise KeyboardInterrupt
        return torch.zeros(len(problem.query["label"]), len(problem.train["label"]))
"""
COSTS = "results/tiny/measure/costs.json"


def _enter(place: Path, patch: pytest.MonkeyPatch, experiment: str, name: str, plug_in: str) -> None:
    """Work in a folder with an experiment and a plug-in."""
    (place / "experiments").mkdir()
    (place / "experiments" / "tiny.yaml").write_text(experiment)
    (place / f"{name}.py").write_text(plug_in)
    patch.delitem(sys.modules, name, raising=False)
    patch.chdir(place)
    patch.syspath_prepend(str(place))


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    place = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        _enter(place, patch, EXPERIMENT, "burning", BURNING)
        assert cli.main(["plan", "tiny", "--cores", "2"]) == 0
        yield place


@pytest.mark.slow
def test_every_kind_of_job_is_measured_and_told_at_other_sizes_and_a_method_that_can_not_run_is_named(planned):
    costs = load_costs(planned / COSTS)

    found = costs.predict("attribute:slow", Size(train=2000, query=500, reference=2000))

    assert found["seconds"] == pytest.approx(2e-5 * 2000 * 500, rel=0.25)
    assert set(costs.coefficients) >= {
        "train",
        "loss",
        "attribute:slow",
        "calibrate:bif",
        "sample:bif",
        "attribute:bif",
    }
    assert costs.problems == {"picky": "Unsupported: it likes no problem"}
    assert costs.predict("train", Size(train=120))["disk_bytes"] > 1000  # the checkpoint


@pytest.mark.slow
def test_a_second_plan_measures_nothing_and_accepts_the_file_too(planned, capsys):
    before = (planned / COSTS).stat().st_mtime_ns

    assert cli.main(["plan", "experiments/tiny.yaml", "--cores", "4"]) == 0

    printed = capsys.readouterr()
    jobs = list(list_jobs(load_experiment("experiments/tiny.yaml"), load_costs(planned / COSTS)))
    assert (planned / COSTS).stat().st_mtime_ns == before
    assert "on 4 cores" in printed.out
    assert "picky could not be measured: Unsupported: it likes no problem" in printed.out
    assert "attribute picky, 120" in printed.out.split("Not measured, and not in the sums:")[1]
    assert {job.count for job in jobs if job.rule == "retrain"} == {1}  # it takes less than ten minutes
    assert cli.main(["plan", "nothing"]) == 1
    assert "There is no experiment file experiments/nothing.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["nothing", "settings", "file"])
def test_an_interrupted_measurement_goes_on_and_measures_anew_only_what_was_changed(tmp_path, monkeypatch, changed):
    methods = '  first: {{attributor: "cut:Counted", scale: {}}}\n  second: {{attributor: "cut:Cut"}}\n'
    before, after = (EXPERIMENT.split("  slow:")[0] + methods.format(scale) for scale in (1, 2))
    _enter(tmp_path, monkeypatch, before, "cut", CUT)

    with pytest.raises(KeyboardInterrupt):
        cli.main(["plan", "tiny"])
    once = (tmp_path / "calls").read_text()
    (tmp_path / "go").touch()
    if changed == "settings":
        (tmp_path / "experiments" / "tiny.yaml").write_text(after)
    elif changed == "file":
        (tmp_path / "cut.py").write_text(CUT + "# mended\n")
    assert cli.main(["plan", "tiny"]) == 0

    assert len(once) == 5  # sizes
    assert (tmp_path / "calls").read_text() == (1 if changed == "nothing" else 2) * once
    assert {"attribute:first", "attribute:second"} <= set(load_costs(tmp_path / COSTS).coefficients)
    assert [path.name for path in (tmp_path / COSTS).parent.iterdir()] == ["costs.json"]
