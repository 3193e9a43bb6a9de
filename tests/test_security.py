"""What others hand in stays data: no file is run, no name leaves its folder, and no link is followed."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_config import EXPERIMENT, _changed, _write

from tdabench.experiment.read import load_experiment
from tdabench.storage.cell import Cell
from tdabench.storage.files import check_place
from tdabench.storage.records import (
    create_mapped_tensor,
    load_tensors,
    save_figure,
    save_json,
    save_tensors,
    save_text,
)

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "tdabench"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Code


RUNNING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "pty"}
RUNNING_CALLS = {"eval", "exec", "compile", "__import__"}
SYSTEM_CALLS = {"system", "popen", "mktemp", "full_load", "unsafe_load", "load_all", "full_load_all"}


def _dangers(tree: ast.AST) -> Iterator[str]:
    """Return what could run the content of a file, or a text as a command."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in modules if name.split(".")[0] in RUNNING_MODULES)
        if isinstance(node, ast.Attribute) and node.attr in RUNNING_MODULES | SYSTEM_CALLS:
            yield node.attr
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if name in RUNNING_CALLS or options.get("shell") not in (None, "False"):
            yield name
        if name.endswith(("np.load", "numpy.load")) and options.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if name.startswith("torch.") and name.endswith((".load", "_url")) and options.get("weights_only") != "True":
            yield f"{name} without weights_only=True"
        if name == "YAML" and options.get("typ") != "'safe'":
            yield "YAML without typ='safe'"
        if name.endswith("read_pickle") or options.get("allow_pickle") == "True":
            yield name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_runs_what_a_file_or_a_text_holds(source):
    assert list(_dangers(ast.parse(source.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import marshal", "import shelve", "eval('1')", "exec(text)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)",
        "YAML()", "YAML(typ='unsafe')", "yaml.unsafe_load(text)", "os.system(text)", "pd.read_pickle(path)",
        "subprocess.run(text, shell=True)", "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_the_check_sees_what_would_run_something(code):
    assert list(_dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "YAML(typ='safe', pure=True)",
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_the_check_lets_pass_what_runs_nothing(code):
    assert not list(_dangers(ast.parse(code)))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_scratch_has_a_name_that_others_could_guess(source):
    texts = [
        node.value
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    assert not [text for text in texts if text.startswith(("/tmp", "/var/tmp", "/dev/shm"))]


# Names


NO_PATHS = (
    "../evil", "/etc/evil", "a/b", "a\\b", "a\0b", "a\nb", "a\n", "\na", "a;b", "a b", "$(touch ran)", "`touch ran`",
    "a'b", 'a"b', "a|b", "a&b", "a>b", "a*b", "a?b", "~", "{a}", "[a]", "é", "\u0661", "\uff41", "a\u202eb", "a" * 201,
)  # fmt: skip
NO_NAMES = (*NO_PATHS, ".hidden", "..", ".", "-rf", "--help", "A", "", "_", "a" * 101)


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_method_has_a_name_that_could_leave_its_folder_or_end_a_command(tmp_path, name):
    path = _write(tmp_path, _changed("methods", name, {"attributor": "tdabench.attributors.baselines:Random"}))

    with pytest.raises(ValueError, match=r"tiny\.yaml.*A name of a method has"):
        load_experiment(path)


@pytest.mark.parametrize(
    "name", [name for name in NO_NAMES if not set(name) & {"/", "\0"} and len(name) in range(1, 250)]
)
def test_no_experiment_has_such_a_name(tmp_path, name):
    with pytest.raises(ValueError, match="A name of a experiment has"):
        load_experiment(_write(tmp_path, EXPERIMENT, f"{name}.yaml"))


@pytest.mark.parametrize("name", NO_PATHS)
@pytest.mark.parametrize("part", ["setting", "value"])
def test_no_point_of_a_sweep_has_such_a_name(tmp_path, part, name):
    grid = {name: [1, 2]} if part == "setting" else {"step_size": [name, 1]}
    path = _write(tmp_path, _changed("sweep", {"method": "random", "grid": grid}))

    with pytest.raises(ValueError, match=r"tiny\.yaml.*(sweep\.grid|A point names a file)"):
        load_experiment(path)


def test_every_point_of_a_sweep_is_a_plain_file_name(tmp_path):
    values = ["..", ".", "-rf", "--help", ".hidden", 1e-300, -1, True, None, "A_b.c+d-e"]
    content = _changed("sweep", {"method": "random", "grid": {"a": values, "B_": [0]}})
    content["data"]["tuning_queries"] = 5

    points = list(load_experiment(_write(tmp_path, content)).sweep.points)

    assert len(points) == len(values)
    assert all(set(point) <= set("abcdefghijklmnopqrstuvwxyzABCDE_.+-=,0123456789") for point in points), points
    assert all(point.startswith("B_=0,a=") for point in points)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("repeats",), 10**9, "about .* jobs, more than could be planned"),
        (("checkpoints",), 10**9, "about .* jobs, more than could be planned"),
        (("methods", "random", "chains"), 10**9, "about .* jobs, more than could be planned"),
        (("sweep",), {"method": "random", "grid": {f"a{n}": [1, 2, 3, 4] for n in range(99)}}, "points, each a job"),
        (("sweep",), {"method": "random", "grid": {"a": ["x" * 300]}}, "at most 200 characters"),
    ],
)
@pytest.mark.timeout(20)
def test_what_could_never_be_planned_is_refused_at_once(tmp_path, place, value, message):
    with pytest.raises(ValueError, match=rf"tiny\.yaml: .*{message}"):
        load_experiment(_write(tmp_path, _changed(*place, value)))


@pytest.mark.slow
def test_a_file_with_an_odd_name_beside_the_experiments_harms_none_of_them(tmp_path):
    for name in ("Snakefile", "profiles", "experiments"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    experiments = tmp_path / "experiments"
    good = (experiments / "lds_digits.yaml").read_text()
    for name in ("(", ".*", "a b;$(touch ran)", "--help", "a'\"\nb", "[", "é"):
        (experiments / f"{name}.yaml").write_text(good)
    (experiments / "folder.yaml").mkdir()
    (experiments / "broken.yaml").symlink_to("nowhere")

    done = [_plan(tmp_path, target) for target in ("lds_digits", "a b;$(touch ran)", "results/x;touch ran/report.html")]

    assert [process.returncode == 0 for process in done] == [True, False, False], done[0].stdout + done[0].stderr
    assert "A name of a experiment has only" in done[1].stdout + done[1].stderr
    assert not list(tmp_path.rglob("ran"))


def _plan(folder: Path, target: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "--", target]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


# Links


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder beside one that nothing may be written to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


WRITERS = {
    "a.safetensors": lambda path: save_tensors(path, {"scores": torch.ones(2)}, {}),
    "a.json": lambda path: save_json(path, {}, {}),
    "a.csv": lambda path: save_text(path, "new"),
    "a.png": lambda path: save_figure(path, _figure()),
}


def _figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("link", ["results/tiny", "results/tiny/0", "results/tiny/0/100"])
def test_a_link_below_results_that_leads_out_of_it_is_not_written_through(here, name, link):
    Path(link).parent.mkdir(parents=True)
    Path(link).symlink_to(here.parent / "outside")

    with pytest.raises(ValueError, match=rf"results/tiny/0/100/{name} leads out of results/, to .*outside"):
        WRITERS[name](Path("results/tiny/0/100") / name)

    assert list((here.parent / "outside").iterdir()) == []


def test_a_path_that_climbs_out_of_results_is_refused(here):
    with pytest.raises(ValueError, match="leads out of results/"):
        save_text("results/../../outside/a.csv", "new")

    assert list((here.parent / "outside").iterdir()) == []


def test_results_may_be_a_link_to_another_disk_and_have_links_that_stay_inside(here):
    Path("results").symlink_to(here.parent / "outside")
    (here.parent / "outside" / "first").mkdir()
    Path("results/second").symlink_to("first")

    save_text("results/second/a.csv", "new")

    assert (here.parent / "outside" / "first" / "a.csv").read_text() == "new"


@pytest.mark.parametrize("path", ["{outside}/a.csv", "link/a.csv", "../outside/a.csv"])
def test_a_path_that_a_person_names_may_lead_anywhere(here, path):
    Path("link").symlink_to(here.parent / "outside")

    save_text(path.format(outside=here.parent / "outside"), "new")

    assert (here.parent / "outside" / "a.csv").read_text() == "new"


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_a_link_is_replaced_and_what_it_leads_to_is_left_alone(here, name):
    victim = here.parent / "outside" / "victim"
    victim.write_text("precious")
    Path("results").mkdir()
    (Path("results") / name).symlink_to(victim)

    WRITERS[name](Path("results") / name)

    assert victim.read_text() == "precious"
    assert [entry.name for entry in Path("results").iterdir()] == [name]
    assert not (Path("results") / name).is_symlink()
    if name == "a.safetensors":
        assert load_tensors(Path("results") / name)["scores"].tolist() == [1, 1]


def test_scratch_on_disk_follows_no_link_either(here):
    victim = here.parent / "outside" / "victim"
    victim.write_text("precious")
    Path("scores").symlink_to(victim)

    create_mapped_tensor(Path("scores"), (2, 3)).fill_(1)

    assert victim.read_text() == "precious"


def test_a_workspace_that_is_a_link_out_of_results_is_neither_emptied_nor_used(here):
    from tdabench.stages.trial import make_workspace

    cell = Cell(Path("results/tiny"), 0, 100)
    (here.parent / "outside" / "precious").write_text("precious")
    cell.workspace("bif").parent.mkdir(parents=True)
    cell.workspace("bif").symlink_to(here.parent / "outside")

    with pytest.raises(ValueError, match="workspace/bif/scores leads out of results/"):
        make_workspace(cell, "bif")

    assert (here.parent / "outside" / "precious").read_text() == "precious"
    check_place("elsewhere/scores")
