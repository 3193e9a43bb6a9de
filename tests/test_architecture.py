"""The house's rules, checked on the source: rooms apart, one writer of files, no hidden state, one name a stage."""

import argparse
import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tdabench import cli, stages
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.storage.records import save_tensors

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "tdabench"
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# Who may write: results and their folders; scratch of the public check; the folder of a socket; the peak of memory is
# reset through /proc.
WRITERS = {
    "storage/records.py",
    "storage/files.py",
    "storage/seals.py",
    "stages/attribution.py",
    "questions/scaling/stage.py",
    "testing.py",
    "cost.py",
    "runtime/devices.py",
    "forkserver.py",
}
WRITING_CALLS = {"write_text", "write_bytes", "savefig", "save_file", "mkdir", "unlink", "rmtree", "touch", "rename"}
WRITING_FUNCTIONS = {("os", "replace"), ("os", "remove"), ("torch", "save"), ("json", "dump"), ("yaml", "dump")}

ENVIRONMENT = {"environ", "environb", "getenv"}
COMMANDS_WITHOUT_RULE = {"plan", "methods", "check", "bank", "power"}


def _tree(source: str) -> ast.Module:
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Return every module that is imported, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import: write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _snakefile_rules() -> dict[str, str]:
    """Return the text of each rule with a name of its own."""
    text = (REPOSITORY / "Snakefile").read_text(encoding="utf-8")
    found = re.split(r"^(?:rule|checkpoint) (\w+):$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def _subcommands() -> set[str]:
    actions = cli.make_parser()._actions
    return set(next(action for action in actions if isinstance(action, argparse._SubParsersAction)).choices)


@pytest.mark.parametrize("source", [source for source in SOURCES if source.startswith("attributors/")])
def test_no_method_can_reach_the_truth(source):
    ours = {name.split(".")[1] for name in _imports(_tree(source)) if name.startswith("tdabench.")}

    assert not ours & {"bank", "training", "evaluation", "questions", "stages", "report"}


@pytest.mark.parametrize("source", SOURCES)
def test_peers_are_no_imports_of_the_package(source):
    imported = {name.split(".")[0] for name in _imports(_tree(source))}

    assert not imported & {"dattri", "devinterp", "quanda", "bergson", "pytest", "hypothesis", "beartype"}


# Files, output, environment


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in WRITERS])
def test_only_records_and_stages_write_files(source):
    found = []
    for call in _calls(_tree(source)):
        function = call.func
        if isinstance(function, ast.Name) and function.id == "open":
            found.append("open")
        elif isinstance(function, ast.Name) and function.id in WRITING_CALLS:
            found.append(function.id)
        elif isinstance(function, ast.Attribute):
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            to_file = function.attr.startswith("to_csv") and call.args
            if function.attr in WRITING_CALLS or (owner, function.attr) in WRITING_FUNCTIONS or to_file:
                found.append(function.attr)

    assert not found, f"{source} writes files with {found}: use tdabench.storage.records"


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_printed(source):
    names = [call.func.id for call in _calls(_tree(source)) if isinstance(call.func, ast.Name)]

    assert "print" not in names, f"{source} prints: log it, or write to sys.stdout in a stage"


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in ("parser.py", "forkserver.py")])
def test_no_environment_variable_is_read_outside_the_command_line(source):
    tree = _tree(source)

    read = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT]
    read += [name for name in _imports(tree) if name in ("os.environ", "os.getenv")]

    assert not read, f"{source} reads the environment with {read}"


# Hidden state


@pytest.mark.parametrize("source", SOURCES)
def test_no_module_has_state_that_changes(source):
    tree = _tree(source)
    mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    builders = {"list", "dict", "set", "defaultdict", "Counter", "deque", "OrderedDict"}

    found = [f"line {node.lineno}: global" for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        value = node.value
        built = isinstance(value, ast.Call) and getattr(value.func, "id", getattr(value.func, "attr", "")) in builders
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if (isinstance(value, mutable) or built) and any(name != name.upper() for name in names):
            found.append(f"line {node.lineno}: {', '.join(names)}")

    assert not found, f"{source} has state: {found}"


@pytest.mark.parametrize("source", SOURCES)
def test_no_default_of_an_argument_is_shared_and_mutable(source):
    functions = [node for node in ast.walk(_tree(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    shared = [
        f"{function.name}, line {function.lineno}"
        for function in functions
        for default in [*function.args.defaults, *function.args.kw_defaults]
        if isinstance(default, ast.List | ast.Dict | ast.Set)
    ]

    assert not shared


# A quick start


@pytest.mark.parametrize(
    "name",
    [
        "__init__",
        "experiment/read",
        "experiment/sections",
        "experiment/grids",
        "experiment/plug_ins",
        "experiment/settings",
        "experiment/complaints",
        "experiment/slices",
        "experiment/components",
        "cli",
        "parser",
        "storage/records",
        "storage/cell",
    ],
)
def test_what_planning_imports_has_no_torch_at_module_level(name):
    module = _tree(f"{name}.py")
    module.body = [node for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]

    heavy = [imported for imported in _imports(module) if re.match(r"(torch|tdabench\.stages)\b", imported)]

    assert not heavy


def test_what_planning_imports_imports_no_torch_by_way_of_others():
    modules = (
        "tdabench, tdabench.experiment.read, tdabench.experiment.components, tdabench.cli, tdabench.storage.records"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr or "torch was imported"


# One name a stage


def test_a_rule_is_a_subcommand_is_a_function():
    functions = [stages.load_stage(name) for names in stages.STAGES.values() for name in names]

    assert set(_snakefile_rules()) == _subcommands() - COMMANDS_WITHOUT_RULE
    assert sorted(function.__name__ for function in functions) == sorted(_subcommands())
    assert all(list(inspect.signature(function).parameters) == ["arguments"] for function in functions)


def test_a_method_without_draws_is_diagnosed_without_torch(tmp_path):
    save_tensors(tmp_path / "cell" / "scores" / "ekfac.safetensors", {"scores": torch.zeros(2, 3)}, {"status": "ok"})
    experiment, folder = REPOSITORY / "experiments" / "lds_digits.yaml", tmp_path / "cell"
    arguments = [str(experiment), "--scores", str(folder / "scores" / "ekfac.safetensors"), "--output"]
    code = (
        "import sys; from tdabench.cli import main;"
        f" status = main(['diagnose', *{arguments}, '{folder / 'diagnose' / 'ekfac.json'}']);"
        " sys.exit(status or 'torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr or "torch was imported"
    assert (folder / "diagnose" / "ekfac.json").is_file()
    assert (folder / "diagnose" / "ekfac.safetensors").is_file()


@pytest.mark.parametrize("rule", _snakefile_rules())
def test_a_rule_runs_its_stage_with_its_settings_and_keeps_a_log(rule):
    text = _snakefile_rules()[rule]

    assert re.search(rf'shell:\s+"tdabench {rule} ', text)
    assert f'settings=settings_of("{rule}")' in text
    assert re.search(r"\{log\}", text)
    assert 'experiment=ancient("experiments/{experiment}.yaml")' in text


@pytest.mark.parametrize("rule", _snakefile_rules())
def test_every_rule_has_settings_in_the_experiment(rule):
    experiment = load_experiment(REPOSITORY / "experiments" / "lds_digits.yaml")

    settings = stage_settings(experiment, rule, "random")

    assert settings.startswith("{")


def test_no_two_modules_of_tests_share_a_name():
    # Their folders are all on the path: of two, one is imported for both.
    names = [path.name for path in (REPOSITORY / "tests").rglob("*.py") if path.name != "conftest.py"]

    assert sorted(names) == sorted(set(names))


def test_the_snakefile_has_no_logic_and_names_no_method():
    text = (REPOSITORY / "Snakefile").read_text(encoding="utf-8")
    methods = load_experiment(REPOSITORY / "experiments" / "lds_digits.yaml").methods

    assert not re.search(r"^\s*(script|run|notebook):", text, re.MULTILINE)
    assert "import torch" not in text
    assert not [method for method in methods if re.search(rf"\b{method}\b", text)]
