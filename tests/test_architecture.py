"""The house's rules that no linter can say: who writes files, what planning loads, one name a stage.

Ruff and import-linter (pyproject.toml) check the others.
"""

import re
import subprocess
import sys
from pathlib import Path

from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.stages import STAGES
from tdabench.stages.command_line import load_stage

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "tdabench"
WORKFLOW = "\n".join(
    path.read_text(encoding="utf-8") for path in (REPOSITORY / "Snakefile", *sorted(PACKAGE.glob("workflow/*.smk")))
)
RULES = dict(zip(*[iter(re.split(r"^(?:rule|checkpoint) (\w+):$", WORKFLOW, flags=re.MULTILINE)[1:])] * 2, strict=True))

WRITING = re.compile(
    r"\.(write_text|write_bytes|savefig|mkdir|unlink|rmdir|rmtree|touch|rename)\(|\b(torch\.save|json\.dump|save_file)\("
    r"|\bos\.(replace|remove)\(|(?<![.\w])open\(|\.to_csv\((?!\w+=|\))"
)
# Results, and their folders; the scratch of a method; of the public check; the folder of a socket; /proc.
WRITERS = re.compile(
    r"(storage/.*|stages/trial|questions/scaling/stage|testing|cost|runtime/devices|runtime/forkserver)\.py"
)
COMMANDS_WITHOUT_RULE = {
    "plan", "methods", "check", "power", "bank export", "bank import", "bank show", "bank score",
}  # fmt: skip


def test_only_storage_and_stages_write_files():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

    found = {name: hit[0] for name, text in sources.items() if (hit := WRITING.search(text))}

    assert not [name for name in found if not WRITERS.fullmatch(name)], found


def test_the_commands_start_without_torch():
    code = (
        "import sys, tdabench, tdabench.cli, tdabench.experiment.read, tdabench.storage.records;"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, "torch was imported"


def test_a_rule_is_a_subcommand_is_a_function():
    functions = {name: load_stage(name).__name__.rstrip("_") for name in STAGES}

    assert set(RULES) == set(STAGES) - COMMANDS_WITHOUT_RULE
    assert functions == {name: name.split()[-1] for name in STAGES}


def test_a_rule_runs_its_stage_with_its_slice_of_the_settings_and_keeps_a_log():
    experiment = load_experiment(REPOSITORY / "experiments" / "lds_digits.yaml")

    for rule, text in RULES.items():
        assert re.search(rf'shell:\s+"tdabench {rule} ', text), rule
        assert re.search(rf'settings=settings_of\("{rule}"', text), rule
        assert "{log}" in text, rule
        assert 'experiment=ancient("experiments/{experiment}.yaml")' in text or "**BENCH" in text, rule
        assert "--planned {params.settings}" in text, rule
        assert stage_settings(experiment, rule, "random").startswith("{"), rule


def test_the_workflow_has_no_logic_and_names_no_method():
    methods = load_experiment(REPOSITORY / "experiments" / "lds_digits.yaml").methods

    assert not re.search(r"^\s*(script|run|notebook):", WORKFLOW, re.MULTILINE)
    assert "import torch" not in WORKFLOW
    assert not [method for method in methods if re.search(rf"\b{method}\b", WORKFLOW)]


def test_no_two_modules_of_tests_share_a_name():
    # Their folders are all on the path: of two, one is imported for both.
    names = [path.name for path in (REPOSITORY / "tests").rglob("*.py") if path.name != "conftest.py"]

    assert sorted(names) == sorted(set(names))


def test_judging_and_reporting_load_no_methods_library():
    code = (
        "import sys, tdabench.questions.lds.stage, tdabench.report.stage;"
        "sys.exit(any(name in sys.modules for name in ('kronfluence', 'trak', 'transformers')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
