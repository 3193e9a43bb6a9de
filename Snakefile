"""One rule a stage, one target an experiment. Touched when a stage is added, never for a method."""

import functools
import os
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())  # plug-ins may lie beside the Snakefile

from tdabench.config import load_experiment

load_experiment = functools.cache(load_experiment)  # every job of the plan asks for it
EXPERIMENTS = sorted(path.stem for path in Path("experiments").glob("*.yaml"))


def settings_of(stage):
    """Make a params function: a change of what it gives reruns the rule's jobs."""

    def settings(wildcards):
        experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
        return experiment.stage_settings(stage, getattr(wildcards, "method", None))

    return settings


def checkpoints_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    folder = f"results/{wildcards.experiment}/{wildcards.repeat}/{wildcards.train_size}"
    return [f"{folder}/checkpoints/{index}.safetensors" for index in range(experiment.checkpoints)]


def bank_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    folder = f"results/{wildcards.experiment}/{wildcards.repeat}/{wildcards.train_size}"
    return [f"{folder}/bank/{shard}.safetensors" for shard in range(experiment.bank.shards)]


def evaluations_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    return [
        f"results/{experiment.name}/{repeat}/{train_size}/lds/{method}.json"
        for repeat in range(experiment.repeats)
        for train_size in experiment.data.train_sizes
        for method in experiment.methods
    ]


def scores_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    folder = f"results/{wildcards.experiment}/{wildcards.repeat}/{wildcards.train_size}"
    return [f"{folder}/scores/{method}.safetensors" for method in experiment.methods]


def agreements_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    return [
        f"results/{experiment.name}/{repeat}/{train_size}/agreement.json"
        for repeat in range(experiment.repeats)
        for train_size in experiment.data.train_sizes
    ]


def properties_of(wildcards):
    experiment = load_experiment(f"experiments/{wildcards.experiment}.yaml")
    return [f"results/{experiment.name}/properties/{method}.json" for method in experiment.methods]


# Used with --software-deployment-method apptainer only; tdabench.def says how to build it.
container: "tdabench.sif"


wildcard_constraints:
    experiment="[a-z0-9_]+",
    method="[a-z0-9_]+",
    repeat="[0-9]+",
    train_size="[0-9]+",
    checkpoint="[0-9]+",
    shard="[0-9]+",


for name in EXPERIMENTS:

    rule:
        name:
            name
        default_target: name == "lds_digits"
        input:
            f"results/{name}/tables/lds.csv",


rule dataset:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
    output:
        "results/{experiment}/dataset.safetensors",
    log:
        "results/{experiment}/logs/dataset.log",
    params:
        settings=settings_of("dataset"),
    shell:
        "tdabench dataset {input.experiment} --output {output} 2>&1 | tee {log}"


rule split:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
    output:
        "results/{experiment}/{repeat}/split.safetensors",
    log:
        "results/{experiment}/{repeat}/logs/split.log",
    params:
        settings=settings_of("split"),
    shell:
        "tdabench split {input.experiment} --repeat {wildcards.repeat}"
        " --dataset {input.dataset} --output {output} > {log} 2>&1"


rule train:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/{repeat}/split.safetensors",
    output:
        "results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/train-{checkpoint}.log",
    resources:
        gpu=1,
    params:
        settings=settings_of("train"),
    shell:
        "tdabench train {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --checkpoint {wildcards.checkpoint} --dataset {input.dataset} --split {input.split}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule retrain:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/{repeat}/split.safetensors",
    output:
        "results/{experiment}/{repeat}/{train_size}/bank/{shard}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/retrain-{shard}.log",
    resources:
        gpu=1,
    params:
        settings=settings_of("retrain"),
    shell:
        "tdabench retrain {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --shard {wildcards.shard} --dataset {input.dataset} --split {input.split}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule attribute:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        split="results/{experiment}/{repeat}/split.safetensors",
        checkpoints=checkpoints_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/attribute-{method}.log",
    resources:
        gpu=1,
    params:
        settings=settings_of("attribute"),
    shell:
        "tdabench attribute {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --dataset {input.dataset} --split {input.split}"
        " --checkpoints {input.checkpoints} --threads {threads} --output {output} > {log} 2>&1"


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
    params:
        settings=settings_of("evaluate"),
    shell:
        "tdabench evaluate {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --bank {input.bank} --output {output} > {log} 2>&1"


rule agree:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores=scores_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/agreement.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/agree.log",
    params:
        settings=settings_of("agree"),
    shell:
        "tdabench agree {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --split {input.split} --scores {input.scores} --output {output} > {log} 2>&1"


rule properties:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        settings_are_checked=ancient("results/{experiment}/dataset.safetensors"),
    output:
        "results/{experiment}/properties/{method}.json",
    log:
        "results/{experiment}/logs/properties-{method}.log",
    params:
        settings=settings_of("properties"),
    shell:
        "tdabench properties {input.experiment} --method {wildcards.method} --output {output} > {log} 2>&1"


rule report:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        evaluations=evaluations_of,
        agreements=agreements_of,
        properties=properties_of,
    output:
        lds="results/{experiment}/tables/lds.csv",
        cost="results/{experiment}/tables/cost.csv",
    log:
        "results/{experiment}/logs/report.log",
    params:
        settings=settings_of("report"),
    shell:
        "tdabench report {input.experiment} --output results/{wildcards.experiment} 2> {log}"
