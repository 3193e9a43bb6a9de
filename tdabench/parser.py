"""The command line: one subcommand a stage, and commands without a rule."""

import argparse
import os
from pathlib import Path


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="tdabench",
        description="Benchmark of training-data attribution, judged by retraining. The workflow calls these stages; "
        "type `snakemake lds_digits` to run them all.",
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    _add_making_stages(stages)
    _add_pretrain(stages)
    _add_judging_stages(stages)
    for command in (*_add_commands(stages), _add_plan(stages), _add_power(stages), *_add_bank_commands(stages)):
        command.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    return parser


def _add_making_stages(stages: argparse._SubParsersAction) -> None:
    """Describe the stages that train models, or run methods on them."""
    dataset = _add_stage(stages, "dataset", "load and check a dataset, and check every setting of the experiment")
    _add_data(dataset)
    measure = _add_stage(stages, "measure", "measure what jobs cost, on few examples")
    measure.add_argument("--dataset", type=Path, help="file of `dataset` (default: load the data)")
    _add_data(measure)
    _add_model(measure)
    _add_stage(stages, "split", "draw attribution set, queries and warm-up set", repeat=True)
    train = _add_stage(stages, "train", "train a checkpoint on the attribution set", repeat=True, model=True)
    train.add_argument("--checkpoint", type=int, required=True, help="which one, from 0")
    retrain = _add_stage(stages, "retrain", "retrain on the subsets of one shard", repeat=True, model=True)
    retrain.add_argument("--shard", type=int, required=True, help="which one, from 0")
    retrain.add_argument("--costs", type=Path, nargs="?", help="file of `measure`, if bank.shards says auto")
    attribute = _add_stage(stages, "attribute", "score with one method", repeat=True, model=True)
    sample = _add_stage(stages, "sample", "sample one chain of a method", repeat=True, model=True)
    vary = _add_stage(
        stages, "vary", "score once more: other checkpoints, other random numbers", repeat=True, model=True
    )
    tokens = _add_stage(
        stages,
        "tokens",
        "score tokens with one method, of a few queries and their top examples",
        repeat=True,
        model=True,
    )
    tokens.add_argument("--scores", type=Path, required=True, help="file of `attribute`: who is at the top")
    sweep = _add_stage(stages, "sweep", "score the tuning queries at one point of the sweep", repeat=True, model=True)
    sweep.add_argument("--point", required=True, help="its name: setting=value,... in alphabetical order")
    for stage in (attribute, sample, vary, tokens):
        stage.add_argument("--method", required=True, help="its key in the experiment file")
    for stage in (attribute, sample, vary, tokens, sweep):
        stage.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="files of `train`, in order")
        stage.add_argument("--calibration", type=Path, nargs="?", help="file of `calibrate`, if a setting says auto")
    attribute.add_argument("--chains", type=Path, nargs="*", default=[], help="files of `sample`, in order")
    sample.add_argument("--chain", type=int, required=True, help="which one, from 0")
    _add_calibrate(stages)
    _add_scale(stages)
    _add_stage(stages, "keep", "retrain on everything, with the seeds of `remove`", repeat=True, model=True)
    remove = _add_stage(stages, "remove", "retrain without the most helpful examples", repeat=True, model=True)
    remove.add_argument("--method", required=True, help="its key in the experiment file")
    remove.add_argument("--scores", type=Path, required=True)


def _add_scale(stages: argparse._SubParsersAction) -> None:
    scale = _add_stage(stages, "scale", "measure what a method costs at a size of the model")
    scale.add_argument("--method", required=True, help="its key in the experiment file")
    scale.add_argument("--size", required=True, help="of the model, one of scaling.sizes")
    scale.add_argument("--dataset", type=Path, required=True, help="file of `dataset`")
    scale.add_argument("--split", type=Path, required=True, help="file of `split`")
    _add_data(scale)
    _add_machine(scale)


def _add_pretrain(stages: argparse._SubParsersAction) -> None:
    pretrain = _add_stage(stages, "pretrain", "make the weights that every training starts from")
    pretrain.add_argument("--dataset", type=Path, required=True, help="file of `dataset`")
    _add_data(pretrain)
    _add_machine(pretrain)


def _add_calibrate(stages: argparse._SubParsersAction) -> None:
    """Describe the stage that a person may run too: whatever the workflow names has a default then."""
    summary = "find a sampler's step size, steps between draws and burn-in"
    calibrate = stages.add_parser("calibrate", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    calibrate.add_argument("experiment", type=Path, help="the experiment's YAML file")
    calibrate.add_argument("--method", required=True, help="its key in the experiment file")
    calibrate.add_argument("--repeat", type=int, default=0, help="which repetition (default: 0)")
    calibrate.add_argument("--train-size", type=int, help="size of the attribution set (default: the first)")
    calibrate.add_argument("--dataset", type=Path, help="file of `dataset` (default: that in results/NAME)")
    calibrate.add_argument("--split", type=Path, help="file of `split` (default: that in results/NAME)")
    calibrate.add_argument("--checkpoints", type=Path, nargs="+", help="files of `train` (default: in results/NAME)")
    calibrate.add_argument(
        "--output", type=Path, help="file to write, for settings that say auto (default: print what all could be)"
    )
    _add_model(calibrate)
    calibrate.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def _add_judging_stages(stages: argparse._SubParsersAction) -> None:
    """Describe the stages that judge what the others made."""
    evaluate = _add_stage(stages, "evaluate", "compare scores with the bank", repeat=True)
    evaluate.add_argument("--train-size", type=int, required=True)
    evaluate.add_argument("--scores", type=Path, required=True)
    evaluate.add_argument("--bank", type=Path, nargs="+", required=True, help="every shard, in order")
    compare = _add_stage(stages, "compare", "compare every two methods, and the bank with itself", repeat=True)
    compare.add_argument("--train-size", type=int, required=True)
    compare.add_argument("--scores", type=Path, nargs="+", required=True, help="one file a method")
    compare.add_argument("--bank", type=Path, nargs="+", required=True, help="every shard, in order")
    compare.add_argument("--varied", type=Path, nargs="*", default=[], help="files of `vary`")
    agree = _add_stage(stages, "agree", "compare every two methods' scores", repeat=True)
    agree.add_argument("--train-size", type=int, required=True)
    agree.add_argument("--scores", type=Path, nargs="+", required=True, help="every method's, named by its key")
    diagnose = _add_stage(stages, "diagnose", "say how well a method drew, from the traces that it kept")
    diagnose.add_argument("--scores", type=Path, required=True, help="its traces lie in workspace/ beside its folder")
    grow = _add_stage(stages, "grow", "say how the LDS grows with a method's draws, and where it ends", repeat=True)
    grow.add_argument("--train-size", type=int, required=True)
    grow.add_argument("--scores", type=Path, required=True, help="its traces lie in workspace/ beside its folder")
    grow.add_argument("--bank", type=Path, nargs="+", required=True, help="every shard, in order")
    properties = _add_stage(stages, "properties", "find a method's properties by running it on made-up problems")
    properties.add_argument("--method", required=True, help="its key in the experiment file")
    pages = _add_stage(stages, "pages", "make a page a query of how its tokens were helped; --output is their folder")
    pages.add_argument("--repeat", type=int, required=True, help="which repetition, from 0")
    pages.add_argument("--train-size", type=int, required=True, help="size of the attribution set")
    pages.add_argument("--dataset", type=Path, required=True, help="file of `dataset`, for its tokenizer")
    pages.add_argument("--tokens", type=Path, nargs="+", required=True, help="token scores, one file a method")
    _add_stage(stages, "contrast", "compare removals with matched random ones; --output is the experiment's folder")
    _add_stage(stages, "detect", "find the planted wrong labels; --output is the experiment's folder")
    _add_stage(stages, "choose", "judge the points of the sweep on the tuning queries; --output is its folder")
    project = _add_stage(
        stages, "project", "fit cost against size, and predict it; --output is the experiment's folder"
    )
    project.add_argument("--dataset", type=Path, required=True, help="file of `dataset`")
    _add_stage(stages, "report", "make tables and figures of an experiment's results; --output is its folder")


def _add_commands(stages: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Describe the commands for authors of a method."""
    methods = stages.add_parser("methods", help="list the built-in methods")
    check = stages.add_parser("check", help="check a method (package.module:Class) against the public contract")
    check.add_argument("path")
    check.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in YAML; may stand several times"
    )
    check.add_argument("--text", action="store_true", help="on a small language model instead of small images")
    check.add_argument(
        "--uninformative", action="store_true", help="skip the test that self-influence is positive (for baselines)"
    )
    return [methods, check]


def _add_plan(stages: argparse._SubParsersAction) -> argparse.ArgumentParser:
    summary = "say what a run takes: jobs, time, memory and disk, from costs measured here"
    plan = stages.add_parser("plan", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    plan.add_argument("experiment", help="its name, or its YAML file")
    plan.add_argument("--cores", type=int, help="of the machine that it will run on (default: this one's)")
    plan.add_argument("--again", action="store_true", help="measure again, though there is a measurement")
    plan.add_argument("--dataset", type=Path, help="file of `dataset` (default: load the data)")
    _add_data(plan)
    _add_model(plan)
    return plan


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


def _add_bank_commands(stages: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Describe `tdabench bank`: banks as files that others can use."""
    summary = "export, import or show a bank of retrained models, or score against it"
    group = stages.add_parser("bank", help=summary).add_subparsers(dest="action", required=True, metavar="COMMAND")
    export = group.add_parser("export", help="make one file of an experiment's shards")
    export.add_argument("shards", type=Path, nargs="+", help="every shard: results/NAME/REPEAT/SIZE/bank/*.safetensors")
    fetch = group.add_parser("import", help="make a bank of others' arrays, or put a bank into an experiment's results")
    fetch.add_argument("sources", type=Path, nargs="+", help="a bank, kronfluence's folder, or files with arrays")
    fetch.add_argument("--format", choices=("tdabench", "kronfluence", "arrays"), default="tdabench")
    fetch.add_argument("--masks", default="masks", help="arrays: name of the masks, (subset, train) (default: masks)")
    fetch.add_argument("--losses", default="losses", help="arrays: name of the losses, (subset[, retrain], query)")
    fetch.add_argument("--num-train", type=int, help="arrays: masks are lists of indices into so many examples")
    fetch.add_argument("--averaged", type=int, help="retrains whose mean each loss is (kronfluence: 5, arrays: 1)")
    fetch.add_argument("--tuning-queries", type=int, default=0, help="the last so many queries are not scored")
    fetch.add_argument("--into", type=Path, help="put the bank into results/NAME/REPEAT/SIZE instead")
    fetch.add_argument("--experiment", type=Path, help="with --into: the YAML file, whose settings must agree")
    for command in (export, fetch):
        command.add_argument("--output", type=Path, required=command is export, help="bank to write, never overwritten")
        command.add_argument("--dataset", type=Path, help="file of `dataset` (default: the one of the results)")
        command.add_argument("--split", type=Path, help="file of `split` (default: the one of the results)")
    show = group.add_parser("show", help="describe a bank")
    score = group.add_parser("score", help="compare scores with a bank: LDS, interval, ceiling")
    for command in (show, score):
        command.add_argument("bank", type=Path)
    score.add_argument("--scores", type=Path, nargs="+", action="extend", required=True, help=".npy, .safetensors, ...")
    score.add_argument("--name", default="scores", help="array to take of a file with several (default: scores)")
    score.add_argument("--negate", action="store_true", help="the scores are positive where an example harms")
    score.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: 1000)")
    score.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: 0.95)")
    score.add_argument("--seed", type=int, help="of the bootstrap and the random scores (default: the bank's, or 0)")
    score.add_argument("--output", type=Path, help="table to write, as CSV")
    return [export, fetch, show, score]


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
        _add_model(stage)
    return stage


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("TDABENCH_DATA", "data")),
        help="folder of the data (default: $TDABENCH_DATA, else data/)",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pretrained", type=Path, nargs="?", help="file of `pretrain`, if there is pretraining")
    _add_machine(command)


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="torch device (default: a GPU if there is one)")
    command.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
