"""Methods that end in an error: what is a result, with a row and a reason, and what is a bug, with a place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.runtime.blame import find_blame, innermost_place, lacks_rule, one_line
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors

EXPERIMENT = """\
seed: 0
repeats: 1
data: {source: "tdabench.data.digits:Digits", train_sizes: [60], queries: 6, mislabelled: 0.1}
model: {builder: "modest:Modest"}
training: {optimizer: adamw, epochs: 1, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
removal: {queries: 2, counts: [5], retrains: 1}
methods:
  random: {attributor: "tdabench.attributors.baselines:Random"}
  independent: {attributor: "tdabench.attributors.baselines:QueryIndependent"}
  ruleless: {attributor: "faulty:Ruleless"}
  chained: {attributor: "faulty:ChainedRuleless", chains: 2}
  broken: {attributor: "faulty:Broken"}
"""
MODEL = """\
import dataclasses

import torch
from torch import nn

from tdabench.seeds import isolated_random_state


class Net(nn.Sequential):
    def __deepcopy__(self, memo):
        raise RuntimeError("this model holds a handle:\\nit has no copy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modest:
    def build(self, images, *, generator):
        with isolated_random_state(generator):
            return Net(nn.Flatten(), nn.Linear(images[0].numel(), 10))
"""
METHODS = """\
import dataclasses

import torch


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values * values


@dataclasses.dataclass(frozen=True)
class Ruleless:
    def attribute(self, problem, *, generator):
        ones = torch.ones(3)
        with torch.autograd.forward_ad.dual_level():
            return Square.apply(torch.autograd.forward_ad.make_dual(ones, ones))  # no rule


@dataclasses.dataclass(frozen=True)
class ChainedRuleless:
    chains: int

    def attribute(self, problem, *, generator):
        raise NotImplementedError

    def sample_chain(self, problem, chain, *, generator):
        raise NotImplementedError("the operator aten::mine has no rule")

    def score_chains(self, chains, problem):
        raise AssertionError("there is no chain")


@dataclasses.dataclass(frozen=True)
class Broken:
    fault: str = "library"

    def attribute(self, problem, *, generator):
        self._work(problem)

    def _work(self, problem):
        fault = {"key": lambda: {}["absent"], "index": lambda: [][1], "attribute": lambda: problem.absent,
                 "type": lambda: 1 + "1", "value": lambda: torch.zeros(2).reshape(3),
                 "library": lambda: torch.zeros(2) @ torch.zeros(3), "assert": lambda: _refuse()}
        fault[self.fault]()


def _refuse():
    assert False
"""
CELL, PLACE = Cell(Path("results/tiny"), 0, 60), ("--repeat", "0", "--train-size", "60")
LINES = {text.strip(): number for number, text in enumerate(METHODS.splitlines(), 1)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in a folder with a trained model that can't be copied, and with methods that have faults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/tiny.yaml").write_text(EXPERIMENT)
    Path("modest.py").write_text(MODEL)
    Path("faulty.py").write_text(METHODS)
    for words in ("dataset tiny", "split tiny --repeat 0", "train tiny --checkpoint 0 --repeat 0 --train-size 60"):
        assert cli.main(words.split()) == 0
    yield tmp_path
    for name in ("modest", "faulty"):
        sys.modules.pop(name, None)


def _run(*words: str) -> int:
    return cli.main([words[0], "tiny", *PLACE, *words[1:]])


def test_a_method_without_a_rule_or_a_copy_is_a_row_with_the_place_and_the_others_stand(here):
    methods = ("random", "independent", "ruleless", "chained")
    Path("experiments/tiny.yaml").write_text(re.sub(r"(?m)^  broken:.*\n", "", EXPERIMENT))
    for chain in ("0", "1"):
        assert _run("sample", "--method", "chained", "--chain", chain) == 0
    for method in methods:
        assert _run("attribute", "--method", method) == 0
        assert _run("remove", "--method", method) == 0
    assert _run("judge") == 0
    assert cli.main(["detect", "tiny"]) == 0

    statuses = load_json(CELL.judgement)["statuses"]
    assert statuses["random"] == "ok"
    assert statuses["independent"] == (
        "failed: QueryIndependent: RuntimeError: this model holds a handle: it has no copy (modest.py:11)"
    )
    assert re.fullmatch(
        r"failed: Ruleless: NotImplementedError: .*forward mode AD.* "
        rf"\(faulty\.py:{LINES['return Square.apply(torch.autograd.forward_ad.make_dual(ones, ones))  # no rule']}\)",
        statuses["ruleless"],
    )
    line = LINES['raise NotImplementedError("the operator aten::mine has no rule")']
    assert statuses["chained"] == (
        f"failed: ChainedRuleless: NotImplementedError: the operator aten::mine has no rule (faulty.py:{line})"
    )
    for method in methods[1:]:
        assert load_tensors(CELL.scores(method)) == load_tensors(CELL.removal(method)) == {}
        assert load_record(CELL.removal(method))["status"] == statuses[method]
    assert "failed: Ruleless: " in Path("results/tiny/tables/detection.csv").read_text()


@pytest.mark.parametrize(
    ("fault", "message", "line"),
    [
        ("key", "KeyError: 'absent'", "key"),
        ("index", "IndexError: list index out of range", "key"),
        ("attribute", "AttributeError: 'Problem' object has no attribute 'absent'", "key"),
        ("type", "TypeError: unsupported operand type", "type"),
        ("library", "RuntimeError: inconsistent tensor size", "library"),
        ("value", "RuntimeError: shape '[3]' is invalid for input of size 2", "type"),
        ("assert", "AssertionError", "assert False"),
    ],
)
def test_a_bug_of_a_plug_in_is_one_line_that_names_it_and_its_place(here, capsys, fault, message, line):
    text = Path("experiments/tiny.yaml").read_text()
    Path("experiments/tiny.yaml").write_text(text.replace('"faulty:Broken"', f'"faulty:Broken", fault: "{fault}"'))
    capsys.readouterr()

    assert _run("attribute", "--method", "broken") == 1

    (told,) = capsys.readouterr().err.splitlines()
    number = next(number for text, number in LINES.items() if f'"{line}": ' in text or text.startswith(line))
    assert told.startswith(f"tdabench attribute: {message}")
    assert told.endswith(f"(faulty:Broken, faulty.py:{number}; --traceback shows all of it)")
    assert not CELL.scores("broken").exists()
    with pytest.raises(Exception, match=re.escape(message.partition(": ")[2]) or "^$"):
        _run("attribute", "--method", "broken", "--traceback")


def test_a_bug_of_a_model_or_of_a_file_that_cannot_be_read_is_one_line_too(here, capsys):
    Path("modest.py").write_text(MODEL.replace("return Net(", "return absent("))
    sys.modules.pop("modest")
    capsys.readouterr()

    for expected in (
        "NameError: name 'absent' is not defined (modest:Modest, modest.py:18; --traceback shows all of it)",
        "SyntaxError: invalid syntax (modest.py, line 1) (modest, modest.py:1; --traceback shows all of it)",
    ):
        assert cli.main(["train", "tiny", *PLACE, "--checkpoint", "0"]) == 1
        assert capsys.readouterr().err.splitlines() == [f"tdabench train: {expected}"]
        sys.modules.pop("modest", None)
        Path("modest.py").write_text("class :\n")


def test_an_error_keeps_its_place_on_the_way_from_another_process(here):
    Path("other.py").write_text("def fail():\n    raise KeyError('absent')\n")
    code = (
        "import other\nfrom tdabench.runtime.limits import run_limited\nfrom tdabench.runtime.blame import find_blame\n"
        "if __name__ == '__main__':\n    try:\n        run_limited(other.fail, seconds=60)\n"
        "    except KeyError as error:\n        print(error.blame)"
    )
    Path("script.py").write_text(code)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, env=environment)

    assert done.stdout == "Blame(plug_in='other:fail', place='other.py:2')\n", done.stderr


def test_a_bug_of_ours_shows_its_traceback(here, monkeypatch):
    monkeypatch.setattr("tdabench.stages.attribution.make_workspace", lambda cell, name: cell.absent)
    monkeypatch.setattr("tdabench.runtime.blame.LIBRARIES", {Path(__file__).parent})  # the line above

    with pytest.raises(AttributeError, match="absent"):
        _run("attribute", "--method", "random")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotImplementedError("no rule"), True),
        (RuntimeError("Batching rule not implemented for aten::lstm"), True),
        (RuntimeError("vmap: It looks like you're calling .item() on a Tensor."), True),
        (RuntimeError("derivative for aten::_flash_attention_backward is not implemented"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (torch.OutOfMemoryError("CUDA out of memory while copying"), False),
        (TypeError("cannot pickle 'generator' object"), False),  # not in a copy
        (KeyError("vmap: "), False),
    ],
)
def test_an_operator_without_a_rule_is_told_from_a_bug(error, expected):
    assert lacks_rule(error) is expected


def test_a_long_message_of_several_lines_is_cut_to_one():
    text = one_line(RuntimeError("first\n  second" + 1000 * "x"))

    assert text.startswith("RuntimeError: first second")
    assert len(text) < 450
    assert one_line(NotImplementedError()) == "NotImplementedError"


def test_a_place_is_in_the_plug_ins_package_where_it_is_installed_and_in_ours_where_there_is_no_plug_in(here):
    site = here / "site-packages"
    site.mkdir()
    (site / "installed.py").write_text("import torch\n\ndef fail():\n    torch.zeros(2).reshape(3)\n")
    sys.path.insert(0, str(site))
    try:
        import installed

        with pytest.raises(RuntimeError, match="invalid for input") as caught:
            installed.fail()
    finally:
        sys.path.remove(str(site))
        sys.modules.pop("installed", None)

    assert find_blame(caught.value, ["installed"]).place == "site-packages/installed.py:4"
    assert innermost_place(caught.value, ["installed"]) == "site-packages/installed.py:4"
    assert find_blame(caught.value).place.startswith(str(Path(__file__)))
