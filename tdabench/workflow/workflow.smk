"""One rule a stage, one target an experiment. Touched when a stage is added, never for a method."""

import os
import sys

sys.path.insert(0, os.getcwd())  # plug-ins may lie beside the Snakefile

from tdabench.runtime.forkserver import start as start_forkserver
from tdabench.planning.needs import gpus_of, needs_of, scaling_needs_of
from tdabench.workflow import inputs
from tdabench.workflow.inputs import BENCH, CHECKPOINTS, SCORES, every, settings_of


wildcard_constraints:
    experiment="[a-z0-9_]+",
    method="[a-z0-9_]+",
    repeat="[0-9]+",
    train_size="[0-9]+",
    checkpoint="[0-9]+",
    shard="[0-9]+",
    chain="[0-9]+",
    point="[A-Za-z0-9_.+=,-]+",
    size="[A-Za-z0-9_.]+",


onstart:
    if workflow.is_main_process and workflow.local_exec and not workflow.touch:
        # All jobs of this machine have torch from one process.
        workflow.globals["forkserver"] = start_forkserver()


for name in inputs.experiment_names():

    rule:
        name:
            name
        default_target: name == "lds_digits"
        input:
            inputs.targets_of(name),


include: "truth.smk"
include: "methods.smk"
include: "questions.smk"
