"""What the workflow adds: start-up, planning, and `snakemake lds_digits` against the seconds that its jobs report."""

import subprocess
import time

import pandas as pd
from _ratio import verdict


def main() -> None:
    """Time the commands; the last one redoes lds_digits in this folder."""
    verdict("tdabench --help (s)", min(_seconds("tdabench", "--help") for _ in range(3)), at_most=0.7)
    plan = min(_seconds("snakemake", "lds_digits", "--forceall", "-n", "--quiet", "all") for _ in range(3))
    verdict("snakemake -n lds_digits (s)", plan, at_most=4)
    wall = _seconds("snakemake", "--forceall", "lds_digits")
    jobs = pd.read_csv("results/lds_digits/tables/cost.csv")["seconds"].sum()
    verdict(f"snakemake lds_digits ({wall:.0f} s) / its jobs ({jobs:.0f} s)", wall / jobs, at_most=1.6)
    verdict("snakemake lds_digits (minutes)", wall / 60, at_most=6)


def _seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
