"""Feed damaged files to the parsers: `python tests/fuzz.py --experiments 10000 --banks 2000` (minutes; not a test).

Only success or a clear error will do: one that the command line tells in one line, with a message that names the file.
Anything else that is raised, more than 5 CPU seconds or more than 2 GiB is a finding, whose input is kept with --keep.
"""

import argparse
import collections
import contextlib
import io
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz_banks import make_good_banks, spoil_bank
from fuzz_experiments import GOOD_EXPERIMENTS, spoil_experiment

from tdabench import cli
from tdabench.experiment.read import load_experiment

CLEAR = (ValueError, TypeError, OSError, ImportError)
SECONDS = 5
BYTES = 2 * 2**30
GOOD_OUTCOMES = ("read", "refused")
STAGES = (
    "dataset", "split", "train", "retrain", "keep", "remove", "judge", "contrast", "detect", "report", "sweep",
    "choose", "attribute", "sample", "calibrate", "vary", "properties",
)  # fmt: skip


class _TooSlow(BaseException):
    """Not an Exception, so that nobody takes it for a fault of the file."""


def fuzz_experiments(count: int, folder: Path, *, seed: int = 0) -> Iterator[tuple[str, str, Path]]:
    """Damage experiment files and plan with them: each one's kind of damage, how it ended, and the file."""
    chance = random.Random(seed)
    good = [path.read_text(encoding="utf-8") for path in GOOD_EXPERIMENTS]
    for index in range(count):
        path = folder / f"e{index}.yaml"
        kind, content = spoil_experiment(good, chance)
        path.write_bytes(content)
        yield kind, _judge(lambda path=path: _plan(path), path.stem), path


def fuzz_banks(count: int, folder: Path, *, seed: int = 0) -> Iterator[tuple[str, str, Path]]:
    """Damage banks and arrays, and import and show them: each one's kind of damage, how it ended, and its folder."""
    chance = random.Random(seed)
    good = make_good_banks(folder / "good")
    for index in range(count):
        place = folder / f"b{index}"
        place.mkdir()
        kind, arguments = spoil_bank(good, place, chance)
        yield kind, _judge(lambda arguments=arguments, place=place: _import(arguments, place), place.name), place


def _plan(path: Path) -> None:
    """Do what the workflow does with an experiment before its first job."""
    experiment = load_experiment(path)
    point = next(iter(experiment.sweep.points)) if experiment.sweep else None
    for stage in STAGES:
        experiment.stage_settings(stage, next(iter(experiment.methods)), point)
    for method in experiment.methods:
        range(experiment.num_chains(method))
        experiment.has_calibration(method)


def _import(arguments: list[str], place: Path) -> None:
    """Import a bank and show it as from the command line; raise what the command says where it fails."""
    output = place / "imported.safetensors"
    for command in (["import", *arguments, "--output", str(output)], ["show", str(output)]):
        said, shown = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            status = cli.main(["bank", *command])
        if status:
            raise ValueError(said.getvalue())


def _judge(call: Callable[[], None], name: str) -> str:
    """Say how a call ended: one of the good outcomes, or what is wrong."""
    started = time.process_time()
    try:
        with _at_most(SECONDS, BYTES):
            call()
        outcome = "read"
    except CLEAR as error:
        outcome = "refused" if name in str(error) else f"NAMELESS {type(error).__name__}: {str(error)[:200]}"
    except (Exception, _TooSlow) as error:
        outcome = f"UNCLEAR {type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - started
    return outcome if seconds <= SECONDS else f"SLOW ({outcome})"


@contextlib.contextmanager
def _at_most(seconds: float, more_bytes: int) -> Iterator[None]:
    """Interrupt the body after some CPU seconds, and refuse it more memory than this."""

    def stop(*_: object) -> None:
        raise _TooSlow

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--banks", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder in which the inputs that are findings stay")
    arguments = parser.parse_args()
    findings = _run("experiment files", fuzz_experiments, arguments.experiments, arguments)
    findings += _run("banks", fuzz_banks, arguments.banks, arguments)
    return 1 if findings else 0


def _run(name: str, fuzz: Callable[..., Iterator], count: int, arguments: argparse.Namespace) -> int:
    """Print every finding as it comes, and the count of each outcome; return the number of findings."""
    started, outcomes, findings = time.perf_counter(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, outcome, path in fuzz(count, Path(folder), seed=arguments.seed):
            clear = outcome in GOOD_OUTCOMES
            outcomes[f"{kind}: {outcome if clear else 'FINDING'}"] += 1
            if not clear:
                findings += 1
                print(f"FINDING {path.name} ({kind}): {outcome}", flush=True)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    shutil.move(path, arguments.keep / path.name)
                    continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{count:,} {name} in {time.perf_counter() - started:.0f} s, {findings} findings")
    for outcome, times in sorted(outcomes.items()):
        print(f"  {times:6,}  {outcome}")
    return findings


if __name__ == "__main__":
    raise SystemExit(_main())
