"""One rule a stage, one target an experiment. Touched when a stage is added, never for a method."""

import contextlib
import functools
import itertools
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, os.getcwd())  # plug-ins may lie beside the Snakefile

from tdabench.experiment.read import load_experiment
from tdabench.storage.files import hash_named_files
from tdabench.forkserver import start as start_forkserver
from tdabench.planning.jobs import num_shards
from tdabench.planning.needs import gpus_of, measured_costs, needs_of, scaling_needs_of
from tdabench.storage.records import load_record

load_experiment = functools.cache(load_experiment)  # every job of the plan asks for it
EXPERIMENTS = sorted(path.stem for path in Path("experiments").glob("*.yaml"))


def settings_of(stage):
    """Make a params function: a change of what it gives reruns the rule's jobs."""

    @functools.cache  # a plug-in's file is hashed once a plan, not once a job
    def settings_for(name, method, point, shards, size):
        experiment = load_experiment(f"experiments/{name}.yaml")
        if shards:
            experiment = replace(experiment, bank=replace(experiment.bank, shards=shards))
        return experiment.stage_settings(stage, method, point, size)

    def settings(wildcards):
        method, point, size = (wildcards.get(key) for key in ("method", "point", "size"))
        experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
        shards = count_shards(experiment, int(wildcards.train_size)) if stage == "retrain" else None
        return settings_for(wildcards.experiment, method, point, shards, size)

    return settings


def named_files(wildcards):
    """Return the hashes of the files that the data's settings name: an edited text is tokenised anew.

    A file that is not there is no change: its hash is the one that the dataset was made from.
    """
    source = load_experiment(f"experiments/{wildcards.experiment}.yaml").data.component
    made = Path("results", wildcards.experiment, "dataset.safetensors")
    known = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # not made yet, or damaged: its readers say so
        known = load_record(made).get("files", {})
    return hash_named_files(source.settings, Path(os.environ.get("TDABENCH_DATA", "data")), known)


def every(pattern, methods=None, when=None):
    """Make an input function: all paths of a pattern, over what the job's wildcards leave open.

    ``methods`` and ``when`` are functions of the experiment: which methods, and whether there are any such files.
    """

    def paths(wildcards):
        experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
        if when is not None and not when(experiment):
            return []
        values = {
            "repeat": range(experiment.repeats),
            "train_size": experiment.data.train_sizes,
            "checkpoint": range(experiment.checkpoints),
            "method": methods(experiment) if methods else list(experiment.methods),
            "point": list(experiment.sweep.points) if experiment.sweep else [],
            "size": experiment.scaling.names if experiment.scaling else [],
        }
        return expand(pattern, **values | {key: [value] for key, value in wildcards.items()})

    return paths


def count_shards(experiment, train_size):
    """Return the number of shards of a bank; where that is left to what is measured, once it is."""
    if experiment.bank and experiment.bank.shards == "auto":
        checkpoints.measure.get(experiment=experiment.name)
    return num_shards(experiment, measured_costs(experiment.name), train_size)


def bank_of(wildcards):
    """Return all files of a bank, or of all banks where the job is about all of them."""
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    cells = {"repeat": range(experiment.repeats), "train_size": experiment.data.train_sizes}
    cells |= {name: [value] for name, value in wildcards.items()}
    return [
        f"results/{experiment.name}/{repeat}/{train_size}/bank/{shard}.safetensors"
        for repeat, train_size in itertools.product(cells["repeat"], cells["train_size"])
        for shard in range(count_shards(experiment, int(train_size)))
    ]


def costs_of(wildcards):
    """Return the file of measured costs where jobs are cut by it: they wait for it, and ask for what it says."""
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    if experiment.bank is None or experiment.bank.shards != "auto":
        return []
    return ancient(f"results/{experiment.name}/measure/costs.json")


def chains_of(wildcards):
    """Return the files of the chains that are jobs of their own."""
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    return expand(
        "results/{experiment}/{repeat}/{train_size}/chains/{method}-{chain}.safetensors",
        **wildcards,
        chain=range(experiment.num_chains(wildcards.method)),
    )


def calibration_of(wildcards):
    """Return the file with what a method's settings that say auto are."""
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    if not experiment.has_calibration(wildcards.method):
        return []
    return expand("results/{experiment}/{repeat}/{train_size}/calibrate/{method}.json", **wildcards)


def pretrained_of(wildcards):
    """Return the file of the weights that training starts from, if there is pretraining."""
    if load_experiment(f"experiments/{wildcards.experiment}.yaml").pretraining is None:
        return []
    return f"results/{wildcards.experiment}/pretrained.safetensors"


def has_bank(experiment):
    return experiment.bank is not None


def has_removal(experiment):
    return experiment.removal is not None


def has_mislabelled(experiment):
    return experiment.data.mislabelled > 0


def has_sweep(experiment):
    return experiment.sweep is not None


def has_scaling(experiment):
    return experiment.scaling is not None


def tables_of(name):
    """Make an input function: the tables of what an experiment asks, every score behind them, and the pages of tokens.

    Tables may come with a clone, from git; scores never do: without them the experiment is run.
    """

    def tables(wildcards):
        experiment = load_experiment(f"experiments/{name}.yaml")
        asked = {
            "lds": experiment.bank,
            "removal": experiment.removal,
            "detection": experiment.data.mislabelled,
            "sweep": experiment.sweep,
            "scaling": experiment.scaling,
            "cost": experiment.is_scored,
        }
        names = [*(table for table, question in asked.items() if question)]
        scores = expand(
            "results/{name}/{repeat}/{train_size}/scores/{method}.safetensors",
            name=name,
            repeat=range(experiment.repeats),
            train_size=experiment.data.train_sizes,
            method=list(experiment.methods) if experiment.is_scored else [],
        )
        tokens = expand(
            "results/{name}/tokens/{repeat}-{train_size}",
            name=name,
            repeat=range(experiment.repeats) if experiment.token_methods else [],
            train_size=experiment.data.train_sizes,
        )
        tables = [f"results/{name}/tables/{table}.csv" for table in names]
        return [f"results/{name}/report.html", *tables, *scores, *tokens]

    return tables


def names_of(bank, scored=True):
    """Return a pattern of the experiments with a bank, or without one; a faulty file only fails when it is asked for.

    ``scored`` says whether methods are asked for scores; else only their cost is measured.
    """

    def answers(name):
        try:
            experiment = load_experiment(f"experiments/{name}.yaml")
            return experiment.bank is not None, experiment.is_scored
        except (ValueError, OSError):
            return True, True

    # Snakemake takes an empty pattern for none at all; this one matches nothing.
    return "|".join(re.escape(name) for name in EXPERIMENTS if answers(name) == (bank, scored)) or "(?!)"


# Used with --software-deployment-method apptainer only; profiles/container.def says how to build it.
container: "tdabench.sif"


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


for name in EXPERIMENTS:

    rule:
        name:
            name
        default_target: name == "lds_digits"
        input:
            tables_of(name),


rule dataset:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
    output:
        "results/{experiment}/dataset.safetensors",
    log:
        "results/{experiment}/logs/dataset.log",
    resources:
        mem_mb=needs_of("dataset", "mem_mb"),
        runtime=needs_of("dataset", "runtime"),
    params:
        settings=settings_of("dataset"),
        files=named_files,
    shell:
        "tdabench dataset {input.experiment} --output {output} 2>&1 | tee {log}"


checkpoint measure:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
    output:
        "results/{experiment}/measure/costs.json",
    log:
        "results/{experiment}/logs/measure.log",
    resources:
        gpu=1,
        mem_mb=needs_of("measure", "mem_mb"),
        runtime=needs_of("measure", "runtime"),
    params:
        settings=settings_of("measure"),
    shell:
        "tdabench measure {input.experiment} --dataset {input.dataset} --pretrained {input.pretrained} --threads {threads}"
        " --output {output} > {log} 2>&1"


rule pretrain:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
    output:
        "results/{experiment}/pretrained.safetensors",
    log:
        "results/{experiment}/logs/pretrain.log",
    resources:
        gpu=1,
        mem_mb=needs_of("pretrain", "mem_mb"),
        runtime=needs_of("pretrain", "runtime"),
    params:
        settings=settings_of("pretrain"),
    shell:
        "tdabench pretrain {input.experiment} --dataset {input.dataset} --threads {threads}"
        " --output {output} > {log} 2>&1"


rule split:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
    output:
        "results/{experiment}/{repeat}/split.safetensors",
    log:
        "results/{experiment}/{repeat}/logs/split.log",
    resources:
        mem_mb=needs_of("split", "mem_mb"),
        runtime=needs_of("split", "runtime"),
    params:
        settings=settings_of("split"),
    shell:
        "tdabench split {input.experiment} --repeat {wildcards.repeat}"
        " --dataset {input.dataset} --output {output} > {log} 2>&1"


rule train:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/train-{checkpoint}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("train", "mem_mb"),
        runtime=needs_of("train", "runtime"),
    params:
        settings=settings_of("train"),
    shell:
        "tdabench train {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --checkpoint {wildcards.checkpoint} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule retrain:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/bank/{shard}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/retrain-{shard}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("retrain", "mem_mb"),
        runtime=needs_of("retrain", "runtime"),
    params:
        settings=settings_of("retrain"),
    shell:
        "tdabench retrain {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --shard {wildcards.shard} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split} --costs {input.costs}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule calibrate:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/calibrate/{method}.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/calibrate-{method}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("calibrate", "mem_mb"),
        runtime=needs_of("calibrate", "runtime"),
    params:
        settings=settings_of("calibrate"),
    shell:
        "tdabench calibrate {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --threads {threads} --output {output} > {log} 2>&1"


rule sample:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        calibration=calibration_of,
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/chains/{method}-{chain}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/sample-{method}-{chain}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("sample", "mem_mb"),
        runtime=needs_of("sample", "runtime"),
    params:
        settings=settings_of("sample"),
    shell:
        "tdabench sample {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --chain {wildcards.chain} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --calibration {input.calibration} --threads {threads}"
        " --output {output} > {log} 2>&1"


rule attribute:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        calibration=calibration_of,
        chains=chains_of,
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/attribute-{method}.log",
    resources:
        gpu=gpus_of,
        mem_mb=needs_of("attribute", "mem_mb"),
        runtime=needs_of("attribute", "runtime"),
    params:
        settings=settings_of("attribute"),
    shell:
        "tdabench attribute {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --chains {input.chains} --calibration {input.calibration}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule vary:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        calibration=calibration_of,
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/vary/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/vary-{method}.log",
    resources:
        gpu=gpus_of,
        mem_mb=needs_of("vary", "mem_mb"),
        runtime=needs_of("vary", "runtime"),
    params:
        settings=settings_of("vary"),
    shell:
        "tdabench vary {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --calibration {input.calibration} --threads {threads}"
        " --output {output} > {log} 2>&1"


rule tokens:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        calibration=calibration_of,
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/tokens/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/tokens-{method}.log",
    resources:
        gpu=gpus_of,
        mem_mb=needs_of("tokens", "mem_mb"),
        runtime=needs_of("tokens", "runtime"),
    params:
        settings=settings_of("tokens"),
    shell:
        "tdabench tokens {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --calibration {input.calibration} --scores {input.scores}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule compare:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores=every("results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors"),
        bank=bank_of,
        varied=every(
            "results/{experiment}/{repeat}/{train_size}/vary/{method}.safetensors",
            methods=lambda experiment: experiment.varied_methods,
        ),
    output:
        "results/{experiment}/{repeat}/{train_size}/compare/comparison.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/compare.log",
    resources:
        mem_mb=needs_of("compare", "mem_mb"),
        runtime=needs_of("compare", "runtime"),
    params:
        settings=settings_of("compare"),
    shell:
        "tdabench compare {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --bank {input.bank} --varied {input.varied}"
        " --output {output} > {log} 2>&1"


rule evaluate:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
        bank=bank_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/lds/{method}.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/evaluate-{method}.log",
    resources:
        mem_mb=needs_of("evaluate", "mem_mb"),
        runtime=needs_of("evaluate", "runtime"),
    params:
        settings=settings_of("evaluate"),
    shell:
        "tdabench evaluate {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --bank {input.bank} --output {output} > {log} 2>&1"


rule agree:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores=every("results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors"),
    output:
        "results/{experiment}/{repeat}/{train_size}/agree/agreement.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/agree.log",
    resources:
        mem_mb=needs_of("agree", "mem_mb"),
        runtime=needs_of("agree", "runtime"),
    params:
        settings=settings_of("agree"),
    shell:
        "tdabench agree {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --output {output} > {log} 2>&1"


rule diagnose:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
    output:
        summary="results/{experiment}/{repeat}/{train_size}/diagnose/{method}.json",
        by_example="results/{experiment}/{repeat}/{train_size}/diagnose/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/diagnose-{method}.log",
    resources:
        mem_mb=needs_of("diagnose", "mem_mb"),
        runtime=needs_of("diagnose", "runtime"),
    params:
        settings=settings_of("diagnose"),
    shell:
        "tdabench diagnose {input.experiment} --scores {input.scores} --output {output.summary} > {log} 2>&1"


rule grow:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
        bank=bank_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/growth/{method}.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/grow-{method}.log",
    resources:
        mem_mb=needs_of("grow", "mem_mb"),
        runtime=needs_of("grow", "runtime"),
    params:
        settings=settings_of("grow"),
    shell:
        "tdabench grow {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --bank {input.bank} --output {output} > {log} 2>&1"


rule properties:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        settings_are_checked=ancient("results/{experiment}/dataset.safetensors"),
    output:
        "results/{experiment}/properties/{method}.json",
    log:
        "results/{experiment}/logs/properties-{method}.log",
    resources:
        mem_mb=needs_of("properties", "mem_mb"),
        runtime=needs_of("properties", "runtime"),
    params:
        settings=settings_of("properties"),
    shell:
        "tdabench properties {input.experiment} --method {wildcards.method} --output {output} > {log} 2>&1"


rule keep:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/keep/all.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/keep.log",
    resources:
        gpu=1,
        mem_mb=needs_of("keep", "mem_mb"),
        runtime=needs_of("keep", "runtime"),
    params:
        settings=settings_of("keep"),
    shell:
        "tdabench keep {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split} --threads {threads} --output {output} > {log} 2>&1"


rule remove:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/remove/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/remove-{method}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("remove", "mem_mb"),
        runtime=needs_of("remove", "runtime"),
    params:
        settings=settings_of("remove"),
    shell:
        "tdabench remove {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split} --scores {input.scores}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule pages:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        tokens=every(
            "results/{experiment}/{repeat}/{train_size}/tokens/{method}.safetensors",
            methods=lambda experiment: experiment.token_methods,
        ),
    output:
        directory("results/{experiment}/tokens/{repeat}-{train_size}"),
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/pages.log",
    resources:
        mem_mb=needs_of("pages", "mem_mb"),
        runtime=needs_of("pages", "runtime"),
    params:
        settings=settings_of("pages"),
    shell:
        "tdabench pages {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --dataset {input.dataset} --tokens {input.tokens} --output {output} > {log} 2>&1"


rule contrast:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        keep=every("results/{experiment}/{repeat}/{train_size}/keep/all.safetensors", when=has_removal),
        removals=every(
            "results/{experiment}/{repeat}/{train_size}/remove/{method}.safetensors",
            methods=lambda experiment: experiment.removal_methods,
        ),
    output:
        "results/{experiment}/tables/removal.csv",
    log:
        "results/{experiment}/logs/contrast.log",
    resources:
        mem_mb=needs_of("contrast", "mem_mb"),
        runtime=needs_of("contrast", "runtime"),
    params:
        settings=settings_of("contrast"),
    shell:
        "tdabench contrast {input.experiment} --output results/{wildcards.experiment} 2> {log}"


rule detect:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        scores=every("results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors"),
    output:
        "results/{experiment}/tables/detection.csv",
    log:
        "results/{experiment}/logs/detect.log",
    resources:
        mem_mb=needs_of("detect", "mem_mb"),
        runtime=needs_of("detect", "runtime"),
    params:
        settings=settings_of("detect"),
    shell:
        "tdabench detect {input.experiment} --output results/{wildcards.experiment} 2> {log}"


rule sweep:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=pretrained_of,
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors"),
        costs=costs_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/sweep/{point}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/sweep-{point}.log",
    resources:
        gpu=1,
        mem_mb=needs_of("sweep", "mem_mb"),
        runtime=needs_of("sweep", "runtime"),
    params:
        settings=settings_of("sweep"),
    shell:
        "tdabench sweep {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --point {wildcards.point} --dataset {input.dataset} --pretrained {input.pretrained} --split {input.split}"
        " --checkpoints {input.checkpoints} --threads {threads} --output {output} > {log} 2>&1"


rule choose:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split=every("results/{experiment}/{repeat}/split.safetensors"),
        points=every("results/{experiment}/{repeat}/{train_size}/sweep/{point}.safetensors"),
        bank=bank_of,
    output:
        table="results/{experiment}/tables/sweep.csv",
        lds_figure=report(
            "results/{experiment}/figures/sweep_lds.png",
            caption="tdabench/report/captions/sweep_lds.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "sweep: LDS"},
        ),
        traces_figure=report(
            "results/{experiment}/figures/sweep_traces.png",
            caption="tdabench/report/captions/sweep_traces.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "sweep: loss traces"},
        ),
    log:
        "results/{experiment}/logs/choose.log",
    resources:
        mem_mb=needs_of("choose", "mem_mb"),
        runtime=needs_of("choose", "runtime"),
    params:
        settings=settings_of("choose"),
    shell:
        "tdabench choose {input.experiment} --output results/{wildcards.experiment} 2> {log}"


rule scale:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/0/split.safetensors",
    output:
        "results/{experiment}/scale/{method}-{size}.json",
    log:
        "results/{experiment}/logs/scale-{method}-{size}.log",
    resources:
        gpu=gpus_of,
        mem_mb=scaling_needs_of("mem_mb"),
        runtime=scaling_needs_of("runtime"),
    params:
        settings=settings_of("scale"),
    shell:
        "tdabench scale {input.experiment} --method {wildcards.method} --size {wildcards.size}"
        " --dataset {input.dataset} --split {input.split} --threads {threads} --output {output} > {log} 2>&1"


rule project:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        costs=every("results/{experiment}/scale/{method}-{size}.json"),
    output:
        table="results/{experiment}/tables/scaling.csv",
        figure=report(
            "results/{experiment}/figures/scaling.png",
            caption="tdabench/report/captions/scaling.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "cost against model size"},
        ),
    log:
        "results/{experiment}/logs/project.log",
    resources:
        mem_mb=needs_of("project", "mem_mb"),
        runtime=needs_of("project", "runtime"),
    params:
        settings=settings_of("project"),
    shell:
        "tdabench project {input.experiment} --dataset {input.dataset}"
        " --output results/{wildcards.experiment} 2> {log}"


rule report:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/0/split.safetensors",
        evaluations=every("results/{experiment}/{repeat}/{train_size}/lds/{method}.json"),
        comparisons=every("results/{experiment}/{repeat}/{train_size}/compare/comparison.json"),
        growth=every("results/{experiment}/{repeat}/{train_size}/growth/{method}.json"),
        agreements=every("results/{experiment}/{repeat}/{train_size}/agree/agreement.json"),
        diagnoses=every("results/{experiment}/{repeat}/{train_size}/diagnose/{method}.json"),
        properties=every("results/{experiment}/properties/{method}.json"),
        removal=every("results/{experiment}/tables/removal.csv", when=has_removal),
        detection=every("results/{experiment}/tables/detection.csv", when=has_mislabelled),
        sweep=every("results/{experiment}/tables/sweep.csv", when=has_sweep),
        scaling=every("results/{experiment}/tables/scaling.csv", when=has_scaling),
    output:
        page=report(
            "results/{experiment}/report.html",
            caption="tdabench/report/captions/page.rst",
            category="Summary",
            labels={"experiment": "{experiment}", "what": "page"},
        ),
        lds=report(
            "results/{experiment}/tables/lds.csv",
            caption="tdabench/report/captions/lds.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "what": "LDS"},
        ),
        cost=report(
            "results/{experiment}/tables/cost.csv",
            caption="tdabench/report/captions/cost.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "what": "cost"},
        ),
        lds_figure=report(
            "results/{experiment}/figures/lds.png",
            caption="tdabench/report/captions/lds.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "LDS"},
        ),
        repeats_figure=report(
            "results/{experiment}/figures/lds_by_repeat.png",
            caption="tdabench/report/captions/lds_by_repeat.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "LDS by repeat"},
        ),
        pairs_figure=report(
            "results/{experiment}/figures/pairs.png",
            caption="tdabench/report/captions/pairs.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "paired differences"},
        ),
        agreement_figure=report(
            "results/{experiment}/figures/agreement.png",
            caption="tdabench/report/captions/agreement.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "agreement"},
        ),
        cost_figure=report(
            "results/{experiment}/figures/cost.png",
            caption="tdabench/report/captions/cost.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "cost"},
        ),
        frontier_figure=report(
            "results/{experiment}/figures/frontier.png",
            caption="tdabench/report/captions/frontier.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "quality against cost"},
        ),
    log:
        "results/{experiment}/logs/report.log",
    wildcard_constraints:
        experiment=names_of(bank=True),
    resources:
        mem_mb=needs_of("report", "mem_mb"),
        runtime=needs_of("report", "runtime"),
    params:
        settings=settings_of("report"),
    shell:
        "tdabench report {input.experiment} --output results/{wildcards.experiment} 2> {log}"


use rule report as report_without_bank with:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/0/split.safetensors",
        scores=every("results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors"),
        agreements=every("results/{experiment}/{repeat}/{train_size}/agree/agreement.json"),
        diagnoses=every("results/{experiment}/{repeat}/{train_size}/diagnose/{method}.json"),
        properties=every("results/{experiment}/properties/{method}.json"),
        removal=every("results/{experiment}/tables/removal.csv", when=has_removal),
        detection=every("results/{experiment}/tables/detection.csv", when=has_mislabelled),
        scaling=every("results/{experiment}/tables/scaling.csv", when=has_scaling),
    output:
        page=report(
            "results/{experiment}/report.html",
            caption="tdabench/report/captions/page.rst",
            category="Summary",
            labels={"experiment": "{experiment}", "what": "page"},
        ),
        cost="results/{experiment}/tables/cost.csv",
        agreement_figure=report(
            "results/{experiment}/figures/agreement.png",
            caption="tdabench/report/captions/agreement.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "what": "agreement"},
        ),
    wildcard_constraints:
        experiment=names_of(bank=False),


use rule report as report_of_scaling with:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        scaling=every("results/{experiment}/tables/scaling.csv"),
    output:
        page=report(
            "results/{experiment}/report.html",
            caption="tdabench/report/captions/page.rst",
            category="Summary",
            labels={"experiment": "{experiment}", "what": "page"},
        ),
    wildcard_constraints:
        experiment=names_of(bank=False, scored=False),
