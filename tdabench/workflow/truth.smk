"""Data, checkpoints, and the bank of retrained models."""


rule dataset:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
    output:
        "results/{experiment}/dataset.safetensors",
    log:
        "results/{experiment}/logs/dataset.log",
    resources:
        **needs_of("dataset"),
    params:
        settings=settings_of("dataset"),
        files=inputs.named_files,
    shell:
        "tdabench dataset {input.experiment} --planned {params.settings} 2>&1 | tee {log}"


checkpoint measure:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        pretrained=inputs.pretrained_of,
    output:
        "results/{experiment}/measure/costs.json",
    log:
        "results/{experiment}/logs/measure.log",
    resources:
        **needs_of("measure"),
        gpu=1,
    params:
        settings=settings_of("measure"),
    shell:
        "tdabench measure {input.experiment} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule pretrain:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
    output:
        "results/{experiment}/pretrained.safetensors",
    log:
        "results/{experiment}/logs/pretrain.log",
    resources:
        **needs_of("pretrain"),
        gpu=1,
    params:
        settings=settings_of("pretrain"),
    shell:
        "tdabench pretrain {input.experiment} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule split:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
    output:
        "results/{experiment}/{repeat}/split.safetensors",
    log:
        "results/{experiment}/{repeat}/logs/split.log",
    resources:
        **needs_of("split"),
    params:
        settings=settings_of("split"),
    shell:
        "tdabench split {input.experiment} --repeat {wildcards.repeat} --planned {params.settings} > {log} 2>&1"


rule train:
    input:
        **BENCH,
    output:
        "results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/train-{checkpoint}.log",
    resources:
        **needs_of("train"),
        gpu=1,
    params:
        settings=settings_of("train"),
    shell:
        "tdabench train {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --checkpoint {wildcards.checkpoint} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule retrain:
    input:
        **BENCH,
    output:
        "results/{experiment}/{repeat}/{train_size}/bank/{shard}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/retrain-{shard}.log",
    resources:
        **needs_of("retrain"),
        gpu=1,
    params:
        settings=settings_of("retrain", checkpoints.measure),
    shell:
        "tdabench retrain {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --shard {wildcards.shard} --planned {params.settings} --threads {threads} > {log} 2>&1"
