"""The commands: one function a stage, whose signature is its command line. Load, call one function of a room, save."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where a command's function is, and what it does.

    Attributes:
        path: ``module:function`` below ``tdabench``.
        summary: In half a line.
        positional: Parameters that are given without their name.
    """

    path: str
    summary: str
    positional: tuple[str, ...] = ()


# A module is imported when one of its stages is asked for.
STAGES = {
    "dataset": Stage("stages.truth:dataset", "load and check a dataset, and check every setting of the experiment"),
    "measure": Stage("stages.measure:measure", "measure what jobs cost, on few examples"),
    "pretrain": Stage("stages.pretraining:pretrain", "make the weights that every training starts from"),
    "split": Stage("stages.truth:split", "draw attribution set, queries and warm-up set"),
    "train": Stage("stages.truth:train", "train a checkpoint on the attribution set"),
    "retrain": Stage("stages.truth:retrain", "retrain on the subsets of one shard"),
    "calibrate": Stage("stages.calibration:calibrate", "find a sampler's step size, steps between draws and burn-in"),
    "sample": Stage("stages.attribution:sample", "sample one chain of a method"),
    "attribute": Stage("stages.attribution:attribute", "score with one method, and say how well it drew"),
    "vary": Stage("stages.attribution:vary", "score once more: other checkpoints, other random numbers"),
    "judge": Stage("questions.lds.stage:judge", "compare every method's scores with the bank and with each other"),
    "properties": Stage("questions.properties.stage:properties", "find a method's properties on made-up problems"),
    "keep": Stage("questions.removal.stage:keep", "retrain on everything, with the seeds of `remove`"),
    "remove": Stage("questions.removal.stage:remove", "retrain without the most helpful examples"),
    "contrast": Stage("questions.removal.stage:contrast", "compare removals with matched random ones"),
    "detect": Stage("questions.detection.stage:detect", "find the planted wrong labels"),
    "sweep": Stage("questions.sweep.stage:sweep", "score the tuning queries at one point of the sweep"),
    "choose": Stage("questions.sweep.stage:choose", "judge the points of the sweep on the tuning queries"),
    "tokens": Stage("questions.tokens.stage:tokens", "score tokens with one method, of a few queries"),
    "pages": Stage("questions.tokens.stage:pages", "make a page a query of how its tokens were helped"),
    "scale": Stage("questions.scaling.stage:scale", "measure what a method costs at a size of the model"),
    "project": Stage("questions.scaling.stage:project", "fit cost against size, and predict it"),
    "report": Stage("report.stage:report", "make tables and figures of an experiment's results"),
    "methods": Stage("stages.commands:methods", "list the built-in methods"),
    "check": Stage("stages.commands:check", "check a method against the public contract", ("path",)),
    "plan": Stage("stages.plan:plan", "say what a run takes: jobs, time, memory and disk"),
    "power": Stage("stages.plan:power", "say how many subsets and retrains a wished precision needs", ("pilot",)),
    "bank export": Stage("stages.bank:export", "make one file of an experiment's shards", ("shards",)),
    "bank import": Stage("stages.bank:import_", "make a bank of others' arrays, or put one in place", ("sources",)),
    "bank show": Stage("stages.bank:show", "describe a bank", ("bank",)),
    "bank score": Stage("stages.bank:score", "compare scores with a bank: LDS, interval, ceiling", ("bank",)),
}
