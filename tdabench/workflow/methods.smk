"""Methods: calibrated, sampled in chains, asked for scores; and what can be said of them without a bank."""


rule calibrate:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
    output:
        "results/{experiment}/{repeat}/{train_size}/calibrate/{method}.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/calibrate-{method}.log",
    resources:
        **needs_of("calibrate"),
        gpu=1,
    params:
        settings=settings_of("calibrate"),
    shell:
        "tdabench calibrate {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --write --planned {params.settings} --threads {threads} > {log} 2>&1"


rule sample:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
        calibration=inputs.calibration_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/chains/{method}-{chain}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/sample-{method}-{chain}.log",
    resources:
        **needs_of("sample"),
        gpu=1,
    params:
        settings=settings_of("sample"),
    shell:
        "tdabench sample {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --chain {wildcards.chain} --planned {params.settings} --threads {threads}"
        " > {log} 2>&1"


rule attribute:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
        calibration=inputs.calibration_of,
        chains=inputs.chains_of,
    output:
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
        diagnosis="results/{experiment}/{repeat}/{train_size}/diagnose/{method}.json",
        by_example="results/{experiment}/{repeat}/{train_size}/diagnose/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/attribute-{method}.log",
    resources:
        **needs_of("attribute"),
        gpu=gpus_of,
    params:
        settings=settings_of("attribute"),
    shell:
        "tdabench attribute {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule vary:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
        calibration=inputs.calibration_of,
    output:
        "results/{experiment}/{repeat}/{train_size}/vary/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/vary-{method}.log",
    resources:
        **needs_of("vary"),
        gpu=gpus_of,
    params:
        settings=settings_of("vary"),
    shell:
        "tdabench vary {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule properties:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        settings_are_checked=ancient("results/{experiment}/dataset.safetensors"),
    output:
        "results/{experiment}/properties/{method}.json",
    log:
        "results/{experiment}/logs/properties-{method}.log",
    resources:
        **needs_of("properties"),
    params:
        settings=settings_of("properties"),
    shell:
        "tdabench properties {input.experiment} --method {wildcards.method} --planned {params.settings} > {log} 2>&1"
