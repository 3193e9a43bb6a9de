"""The plan of a large benchmark: what five repeats of twelve methods on 500 shards cost before any job runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _ratio import verdict

REPOSITORY = Path(__file__).parents[2]
REPEATS, SHARDS, SAMPLED, OTHERS, CHAINS = 5, 500, 4, 8, 4
# Two processes that share a core's caches take twice the processor time: run it with nothing beside it.
CPU_SECONDS, PEAK_GIB = 30, 2
EXPERIMENT = f"""\
seed: 0
repeats: {REPEATS}
checkpoints: 2
data: {{source: "tdabench.data.digits:Digits", train_sizes: [500], queries: 100, tuning_queries: 10}}
model: {{builder: "mine:Mine", width: 4}}
training: {{optimizer: adamw, epochs: 2, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}}
bank: {{subsets: {SHARDS}, fraction: 0.5, retrains: 2, shards: {SHARDS}}}
methods:
"""
# A process of its own, and small: what starts a command counts as the command's memory until that is loaded.
MEASURE = """
import os, subprocess, sys

process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)  # of this child alone
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""
# Files of one's own are hashed for the plan: neither short nor hashed once a job.
PLUG_IN = "class Mine:\n    pass\n" + "# A long file.\n" * 100_000


def main() -> None:
    """Plan a large experiment; count what would be made."""
    with tempfile.TemporaryDirectory() as folder:
        planned, cpu_seconds, peak_gib = _plan(_make_place(Path(folder)))
    cells = {"retrain": SHARDS, "sample": SAMPLED * CHAINS, "attribute": SAMPLED + OTHERS}
    assert {rule: _count(planned, rule) for rule in cells} == {rule: REPEATS * count for rule, count in cells.items()}
    verdict("CPU seconds of the plan", cpu_seconds, at_most=CPU_SECONDS)
    verdict("its peak of memory (GiB)", peak_gib, at_most=PEAK_GIB)


def _make_place(folder: Path) -> Path:
    shutil.copy(REPOSITORY / "Snakefile", folder)
    shutil.copytree(REPOSITORY / "profiles", folder / "profiles")
    (folder / "mine.py").write_text(PLUG_IN)
    (folder / "experiments").mkdir()
    bif = 'attributor: "tdabench.attributors.bif:BIF", step_size: auto, inverse_temperature: 100, localization: 1000'
    methods = [f"  bif_{place}: {{{bif}, chains: {CHAINS}, draws: 5}}\n" for place in range(SAMPLED)]
    methods += [f'  mine_{place}: {{attributor: "mine:Mine"}}\n' for place in range(OTHERS)]
    (folder / "experiments/many.yaml").write_text(EXPERIMENT + "".join(methods))
    return folder


def _plan(place: Path) -> tuple[str, float, float]:
    """Plan all jobs; return the account of them, processor seconds, and the peak of memory in GiB."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "SNAKEMAKE_PROFILE")
    }
    with (place / "plan.txt").open("w") as output:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, "snakemake", "-n", "many"],
            cwd=place, env={**environment, "PATH": path}, stdout=subprocess.PIPE, stderr=output, text=True, check=True,
        )  # fmt: skip
    status, cpu_seconds, peak_kib = measured.stdout.split()
    text = (place / "plan.txt").read_text()
    assert status == "0", text[-2000:]
    return text, float(cpu_seconds), float(peak_kib) / 2**20


def _count(planned: str, rule: str) -> int:
    return planned.count(f"\nrule {rule}:\n")


if __name__ == "__main__":
    main()
