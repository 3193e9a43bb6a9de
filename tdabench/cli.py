"""The command ``tdabench <stage>``: parse, load, call one function, save."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage; give the exit status."""
    # Plug-ins are found in the folder that the command is run from, as with python -m.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    parsed = make_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    from tdabench import stages

    run = getattr(stages, parsed.stage)
    try:
        run(parsed)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if parsed.traceback:
            raise
        sys.stderr.write(f"tdabench {parsed.stage}: {error}\n")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="tdabench",
        description="Benchmark of training-data attribution, judged by retraining. The workflow calls these stages; "
        "type `snakemake lds_digits` to run them all.",
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    dataset = _add_stage(stages, "dataset", "load and check a dataset, and check every setting of the experiment")
    dataset.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("TDABENCH_DATA", "data")),
        help="folder of the data (default: $TDABENCH_DATA, else data/)",
    )
    _add_stage(stages, "split", "draw attribution set, queries and warm-up set", repeat=True)
    train = _add_stage(stages, "train", "train a checkpoint on the attribution set", repeat=True, model=True)
    train.add_argument("--checkpoint", type=int, required=True, help="which one, from 0")
    retrain = _add_stage(stages, "retrain", "retrain on the subsets of one shard", repeat=True, model=True)
    retrain.add_argument("--shard", type=int, required=True, help="which one, from 0")
    attribute = _add_stage(stages, "attribute", "score with one method", repeat=True, model=True)
    attribute.add_argument("--method", required=True, help="its key in the experiment file")
    attribute.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="files of `train`, in order")
    vary = _add_stage(
        stages, "vary", "score once more: other checkpoints, other random numbers", repeat=True, model=True
    )
    vary.add_argument("--method", required=True, help="its key in the experiment file")
    vary.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="files of `train`, in order")
    evaluate = _add_stage(stages, "evaluate", "compare scores with the bank", repeat=True)
    evaluate.add_argument("--train-size", type=int, required=True)
    evaluate.add_argument("--scores", type=Path, required=True)
    evaluate.add_argument("--bank", type=Path, nargs="+", required=True, help="every shard, in order")
    compare = _add_stage(stages, "compare", "compare every two methods, and the bank with itself", repeat=True)
    compare.add_argument("--train-size", type=int, required=True)
    compare.add_argument("--scores", type=Path, nargs="+", required=True, help="one file a method")
    compare.add_argument("--bank", type=Path, nargs="+", required=True, help="every shard, in order")
    compare.add_argument("--varied", type=Path, nargs="*", default=[], help="files of `vary`")
    _add_stage(stages, "report", "make tables and figures of an experiment's results; --output is its folder")

    methods = stages.add_parser("methods", help="list the built-in methods")
    check = stages.add_parser("check", help="check a method (package.module:Class) against the public contract")
    check.add_argument("path")
    check.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in YAML; may stand several times"
    )
    check.add_argument(
        "--uninformative", action="store_true", help="skip the test that self-influence is positive (for baselines)"
    )
    power = _add_power(stages)
    for stage in (methods, check, power):
        stage.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    return parser


def _add_power(stages: argparse._SubParsersAction) -> argparse.ArgumentParser:
    power = stages.add_parser("power", help="say how many subsets and retrains a wished precision needs")
    power.add_argument("pilot", type=Path, nargs="?", help="a comparison.json; without one, give the planning values")
    power.add_argument("--half-width", type=float, required=True, help="of the interval of an LDS or a difference")
    power.add_argument("--method", help="of the pilot (default: its best)")
    power.add_argument("--against", help="plan for the difference to this method (without a pilot: to any)")
    power.add_argument("--agreement", type=float, help="expected rank correlation of two retrains")
    power.add_argument("--lds", type=float, help="expected LDS against the mean of very many retrains")
    power.add_argument("--queries", type=int, help="scored queries (default: the pilot's)")
    power.add_argument("--shared", type=float, default=0.3, help="share of variance that queries have in common (0.3)")
    power.add_argument("--query-spread", type=float, default=0.1, help="standard deviation of LDS over queries (0.1)")
    power.add_argument("--confidence", type=float, default=0.95, help="of the interval (0.95)")
    power.add_argument("--subsets", type=int, nargs="+", default=[25, 50, 100, 200, 400, 800], metavar="N")
    power.add_argument("--retrains", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    return power


def _add_stage(
    stages: argparse._SubParsersAction, name: str, summary: str, *, repeat: bool = False, model: bool = False
) -> argparse.ArgumentParser:
    stage = stages.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    stage.add_argument("experiment", type=Path, help="the experiment's YAML file")
    stage.add_argument("--output", type=Path, required=True, help="file to write, whole or not at all")
    stage.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    if repeat:
        stage.add_argument("--repeat", type=int, required=True, help="which repetition, from 0")
    if repeat and name != "split":
        stage.add_argument("--split", type=Path, required=True, help="file of `split`")
    if name == "split" or model:
        stage.add_argument("--dataset", type=Path, required=True, help="file of `dataset`")
    if model:
        stage.add_argument("--train-size", type=int, required=True, help="size of the attribution set")
        stage.add_argument("--device", default="auto", help="torch device (default: a GPU if there is one)")
        stage.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return stage
