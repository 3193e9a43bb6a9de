"""Where a cell's files lie, as stages and rules agree on it; and how a job ended, in words."""

from pathlib import Path

import pytest

import tdabench.workflow
from tdabench.experiment.read import load_experiment
from tdabench.storage.cell import Cell, cells_of, find_cell
from tdabench.storage.outcome import Outcome

CELL = Cell(Path("results/tiny"), 1, 250)
DIGITS = Path(__file__).parents[1] / "experiments" / "lds_digits.yaml"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (CELL.dataset, "dataset.safetensors"),
        (CELL.pretrained, "pretrained.safetensors"),
        (CELL.split, "{repeat}/split.safetensors"),
        (CELL.judgement, "{repeat}/{train_size}/judgement.json"),
        (CELL.kept, "{repeat}/{train_size}/keep/all.safetensors"),
        (CELL.checkpoint(7), "{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        (CELL.bank(8)[7], "{repeat}/{train_size}/bank/{shard}.safetensors"),
        (CELL.calibration("bif"), "{repeat}/{train_size}/calibrate/{method}.json"),
        (CELL.chains("bif", 8)[7], "{repeat}/{train_size}/chains/{method}-{chain}.safetensors"),
        (CELL.scores("bif"), "{repeat}/{train_size}/scores/{method}.safetensors"),
        (CELL.diagnosis("bif"), "{repeat}/{train_size}/diagnose/{method}.json"),
        (CELL.variations("bif"), "{repeat}/{train_size}/vary/{method}.safetensors"),
        (CELL.tokens("bif"), "{repeat}/{train_size}/tokens/{method}.safetensors"),
        (CELL.removal("bif"), "{repeat}/{train_size}/remove/{method}.safetensors"),
        (CELL.point("lr=1"), "{repeat}/{train_size}/sweep/{point}.safetensors"),
    ],
)
def test_a_stage_writes_where_its_rule_expects_it(path, pattern):
    rules = "".join(file.read_text() for file in Path(tdabench.workflow.__file__).parent.glob("*.smk"))
    numbers = {"checkpoint": 7, "shard": 7, "chain": 7, "method": "bif", "point": "lr=1"}

    assert path == Path("results/tiny") / pattern.format(repeat=1, train_size=250, **numbers)
    assert f'"results/{{experiment}}/{pattern}"' in rules


def test_scratch_lies_in_the_cell_and_checkpoints_begin_with_the_first():
    assert CELL.folder == Path("results/tiny/1/250")
    assert CELL.workspace("bif-0") == CELL.folder / "workspace/bif-0"
    assert CELL.traces("bif") == CELL.workspace("bif") / "traces.safetensors"
    assert CELL.checkpoints(2) == [CELL.checkpoint(0), CELL.checkpoint(1)]


def test_the_cells_of_an_experiment_are_those_that_can_be_found_in_it():
    experiment = load_experiment(DIGITS)
    root = Path("results/lds_digits")

    cells = list(cells_of(experiment, root))

    assert cells == [Cell(root, repeat, size) for repeat in range(3) for size in (250, 500)]
    assert cells == [find_cell(experiment, cell.repeat, cell.train_size) for cell in cells]
    assert list(cells_of(experiment, root, sizes=[500])) == [Cell(root, repeat, 500) for repeat in range(3)]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("ok", Outcome()),
        ("ok; warning: a chain diverged: do this.", Outcome.ok(["a chain diverged: do this."])),
        ("ok; warning: one; two; warning: three", Outcome.ok(["one; two", "three"])),
        ("unsupported: needs Linear: none", Outcome("unsupported", "needs Linear: none")),
        ("out of memory", Outcome("out of memory")),
        ("okay", Outcome("okay")),
    ],
)
def test_an_outcome_is_the_same_after_it_was_written_and_read(text, outcome):
    assert Outcome.parse(text) == Outcome.of({"status": text}) == outcome
    assert str(outcome) == text
    assert outcome.is_ok is (text == "ok" or text.startswith("ok; "))
