"""Break the package in one place at a time: the tests must notice (`python tests/benchmarks/mutants.py [WORD ...]`).

The tree is copied, a mutant replaces one piece of text that stands once in the package, wherever that is, and the tests
that have to catch it are run. Exit status 1 if a mutant survives, or if its text or its tests are no longer there.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COPIED = ("tdabench", "tests", "experiments", "pyproject.toml")
SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mistake that somebody could make.

    Attributes:
        text: A regular expression of what is replaced, found once in the package.
        by: What stands there then.
        tests: Names of files of tests, one of which must fail; those that are there are run.
        only: Which of their tests, as of ``pytest -k``.
        where: A regular expression of the file's path, if the text stands in others too.
    """

    text: str
    by: str
    tests: str
    only: str = ""
    where: str = ""


SGLD = "test_samplers test_record_chain"
MUTANTS = {
    # The LDS
    "sign: a low loss counts as bad": Mutant(
        r"predicted\), -losses\.double\(\)", "predicted), losses.double()", "test_lds"
    ),
    "ties: equal values get their lowest rank": Mutant(
        r"\(first \+ after \+ 1\)\.double\(\) / 2", "(first + 1).double()", "test_lds"
    ),
    "mean for sum over a subset": Mutant(
        r"masks\.double\(\)\.T\b",
        "(masks.double() / masks.double().sum(dim=1, keepdim=True)).T",
        "test_lds",
        where="evaluation/lds",
    ),
    # Statistics
    "Spearman-Brown: the ceiling of one retrain": Mutant(
        r"retrains \* agreement / \(1 \+ \(retrains - 1\) \* agreement\)", "agreement", "test_reliability"
    ),
    "Holm: every p-value times all of them": Mutant(r"\(len\(tested\) - rank\) \*", "len(tested) *", "test_pairs"),
    "bootstrap's shift: draws stay where they fell": Mutant(
        r"\(both - both\[kept\]\.mean\(\)\)", "(both - seen.mean())", "test_intervals"
    ),
    "bootstrap's scale: single cells count three times": Mutant(
        r"math\.sqrt\(variance / two_way\)", "1.0", "test_intervals"
    ),
    # SGLD and its estimates
    "noise: its deviation is the step size": Mutant(
        r"std=((self\.)?step_size)\*\*0\.5", r"std=\1", f"{SGLD} test_bif", where="sampling/sgld"
    ),
    "drift: twice as strong": Mutant(
        r"(-(self\.)?step_size \* (self\.)?inverse_temperature) / 2\b", r"\1", SGLD, where="sampling/sgld"
    ),
    "pull: half the localization": Mutant(
        r"(step_size \* (self\.)?localization) / 2\b", r"\1 / 4", f"{SGLD} test_bif", where="sampling/sgld"
    ),
    "pull of the other samplers: half the localization": Mutant(
        r"alpha=localization\)", "alpha=localization / 2)", "test_samplers"
    ),
    "generator: the noise is drawn from the global state": Mutant(
        r"(noise\.normal_\(std=[^,]*step_size\*\*0\.5), generator=[\w.]+\)", r"\1)", SGLD, where="sampling/sgld"
    ),
    "centring: about the mean of all chains": Mutant(
        r"losses - losses\.mean\(dim=1, keepdim=True\)",
        "losses - losses.mean(dim=(0, 1), keepdim=True)",
        "test_estimators",
        where="estimates/",
    ),
    "covariance: biased": Mutant(r"chains \* \(draws - 1\)", "chains * draws", "test_estimators"),
    # Other methods
    "TRAK's sign": Mutant(r"finalize_scores\(\"queries\"\)\)\.T\b", 'finalize_scores("queries")).neg().T', "test_trak"),
    "damping: left to kronfluence": Mutant(
        r"ScoreArguments\(damping_factor=[\w.]+\)", "ScoreArguments()", "test_kronfluence"
    ),
    "sampled labels: the most likely ones": Mutant(
        r"torch\.multinomial\((logits\.softmax\(dim=-1\)), num_samples=1\)", r"\1.argmax(dim=-1)", "test_kronfluence"
    ),
    # What a result depends on
    "retrain streams: every retrain is the first": Mutant(
        r"(\"subset\", subset, \"retrain\"), index\)", r"\1, 0)", "test_bank"
    ),
    "stale slices: another bank retrains nothing": Mutant(
        r"\"bank\": [^\n{}]*experiment\.bank\)[^\n{}]*\}", '"bank": None}', "test_config", where="experiment/slices"
    ),
}


def main() -> int:
    """Print a table of mutants; return 1 if one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="words of the mutants' names; without any, all")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    arguments = parser.parse_args()
    chosen = {name: one for name, one in MUTANTS.items() if not arguments.names or {*arguments.names} & {*_words(name)}}
    sys.stdout.write(f"{'unchanged':52}")
    tests = sorted({file for one in chosen.values() for file in one.tests.split()})
    found = {"": _judge(Mutant("", "", " ".join(tests)))}
    sys.stdout.write(f"{found['']}\n")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for name, outcome in zip(chosen, pool.map(_judge, chosen.values()), strict=True):
            sys.stdout.write(f"{name:52}{outcome}\n")
            sys.stdout.flush()
            found[name] = outcome
    good = found.pop("").startswith("survived") and all(outcome.startswith("caught") for outcome in found.values())
    sys.stdout.write(f"{sum(outcome.startswith('caught') for outcome in found.values())} of {len(found)} caught\n")
    return 0 if good else 1


def _words(name: str) -> list[str]:
    return re.findall(r"\w+", name)


def _judge(mutant: Mutant) -> str:
    """Say whether the tests caught it, or what is wrong with the mutant."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        try:
            place = _break(tree / "tdabench", mutant) if mutant.text else ""
            files = _find_tests(tree, mutant.tests.split())
        except LookupError as error:
            return f"ERROR: {error}"
        status, told = _run(tree, files, mutant.only)
    outcome = {0: "survived", 1: "caught"}.get(status, f"ERROR: pytest ended with {status}: {told[-500:]}")
    return f"{outcome:10}{time.perf_counter() - started:6.0f} s  {place}"


def _break(package: Path, mutant: Mutant) -> str:
    """Replace the text where it stands; return where that is."""
    paths = [path for path in sorted(package.rglob("*.py")) if re.search(mutant.where, path.as_posix())]
    hits = [(path, hit) for path in paths for hit in re.finditer(mutant.text, path.read_text(encoding="utf-8"))]
    if len(hits) != 1:
        raise LookupError(f"{mutant.text} stands {len(hits)} times in the package: mend the mutant")
    path, hit = hits[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: hit.start()] + hit.expand(mutant.by) + text[hit.end() :], encoding="utf-8")
    return f"{path.relative_to(package)}:{text.count(chr(10), 0, hit.start()) + 1}"


def _find_tests(tree: Path, names: list[str]) -> list[str]:
    found = [str(path) for name in names for path in (tree / "tests").rglob(f"{name}.py")]
    if not found:
        raise LookupError(f"there is no file {'.py, '.join(names)}.py in tests: mend the mutant")
    return found


def _run(tree: Path, files: list[str], only: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
        *(["-k", only] if only else []),
    ]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return 1, ""  # what never ends is noticed
    return done.returncode, done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
