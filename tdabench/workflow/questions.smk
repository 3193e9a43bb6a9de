"""Questions: each is asked where the experiment has its section. Then the page, of all that lies in the folder."""


rule judge:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split="results/{experiment}/{repeat}/split.safetensors",
        scores=SCORES,
        bank=inputs.bank_of(checkpoints.measure),
        varied=every(
            "results/{experiment}/{repeat}/{train_size}/vary/{method}.safetensors",
            method=lambda experiment: experiment.varied_methods,
        ),
    output:
        "results/{experiment}/{repeat}/{train_size}/judgement.json",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/judge.log",
    resources:
        **needs_of("judge"),
    params:
        settings=settings_of("judge"),
    shell:
        "tdabench judge {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --planned {params.settings} > {log} 2>&1"


rule keep:
    input:
        **BENCH,
    output:
        "results/{experiment}/{repeat}/{train_size}/keep/all.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/keep.log",
    resources:
        **needs_of("keep"),
        gpu=1,
    params:
        settings=settings_of("keep"),
    shell:
        "tdabench keep {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --planned {params.settings} --threads {threads} > {log} 2>&1"


rule remove:
    input:
        **BENCH,
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
    output:
        "results/{experiment}/{repeat}/{train_size}/remove/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/remove-{method}.log",
    resources:
        **needs_of("remove"),
        gpu=1,
    params:
        settings=settings_of("remove"),
    shell:
        "tdabench remove {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule contrast:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        keep=every("results/{experiment}/{repeat}/{train_size}/keep/all.safetensors"),
        removals=every(
            "results/{experiment}/{repeat}/{train_size}/remove/{method}.safetensors",
            method=lambda experiment: experiment.removal_methods,
        ),
    output:
        "results/{experiment}/tables/removal.csv",
    log:
        "results/{experiment}/logs/contrast.log",
    resources:
        **needs_of("contrast"),
    params:
        settings=settings_of("contrast"),
    shell:
        "tdabench contrast {input.experiment} --planned {params.settings} 2> {log}"


rule detect:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        scores=SCORES,
    output:
        "results/{experiment}/tables/detection.csv",
    log:
        "results/{experiment}/logs/detect.log",
    resources:
        **needs_of("detect"),
    params:
        settings=settings_of("detect"),
    shell:
        "tdabench detect {input.experiment} --planned {params.settings} 2> {log}"


rule sweep:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
    output:
        "results/{experiment}/{repeat}/{train_size}/sweep/{point}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/sweep-{point}.log",
    resources:
        **needs_of("sweep"),
        gpu=1,
    params:
        settings=settings_of("sweep"),
    shell:
        "tdabench sweep {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --point {wildcards.point} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule choose:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        split=every("results/{experiment}/{repeat}/split.safetensors"),
        points=every("results/{experiment}/{repeat}/{train_size}/sweep/{point}.safetensors"),
        bank=inputs.bank_of(checkpoints.measure),
    output:
        "results/{experiment}/tables/sweep.csv",
    log:
        "results/{experiment}/logs/choose.log",
    resources:
        **needs_of("choose"),
    params:
        settings=settings_of("choose"),
    shell:
        "tdabench choose {input.experiment} --planned {params.settings} 2> {log}"


rule tokens:
    input:
        **BENCH,
        checkpoints=CHECKPOINTS,
        calibration=inputs.calibration_of,
        scores="results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
    output:
        "results/{experiment}/{repeat}/{train_size}/tokens/{method}.safetensors",
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/tokens-{method}.log",
    resources:
        **needs_of("tokens"),
        gpu=gpus_of,
    params:
        settings=settings_of("tokens"),
    shell:
        "tdabench tokens {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --method {wildcards.method} --planned {params.settings} --threads {threads} > {log} 2>&1"


rule pages:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        tokens=every(
            "results/{experiment}/{repeat}/{train_size}/tokens/{method}.safetensors",
            method=lambda experiment: experiment.token_methods,
        ),
    output:
        directory("results/{experiment}/tokens/{repeat}-{train_size}"),
    log:
        "results/{experiment}/{repeat}/{train_size}/logs/pages.log",
    resources:
        **needs_of("pages"),
    params:
        settings=settings_of("pages"),
    shell:
        "tdabench pages {input.experiment} --repeat {wildcards.repeat} --train-size {wildcards.train_size}"
        " --planned {params.settings} > {log} 2>&1"


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
        **scaling_needs_of(),
        gpu=gpus_of,
    params:
        settings=settings_of("scale"),
    shell:
        "tdabench scale {input.experiment} --method {wildcards.method} --size {wildcards.size}"
        " --planned {params.settings} --threads {threads} > {log} 2>&1"


rule project:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        costs=every("results/{experiment}/scale/{method}-{size}.json"),
    output:
        "results/{experiment}/tables/scaling.csv",
    log:
        "results/{experiment}/logs/project.log",
    resources:
        **needs_of("project"),
    params:
        settings=settings_of("project"),
    shell:
        "tdabench project {input.experiment} --planned {params.settings} 2> {log}"


rule report:
    input:
        experiment=ancient("experiments/{experiment}.yaml"),
        dataset="results/{experiment}/dataset.safetensors",
        scores=every(
            "results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors",
            when=lambda experiment: experiment.is_scored,
        ),
        judgements=every(
            "results/{experiment}/{repeat}/{train_size}/judgement.json",
            when=lambda experiment: experiment.is_scored,
        ),
        diagnoses=every(
            "results/{experiment}/{repeat}/{train_size}/diagnose/{method}.json",
            when=lambda experiment: experiment.is_scored,
        ),
        properties=every(
            "results/{experiment}/properties/{method}.json",
            when=lambda experiment: experiment.is_scored,
        ),
        answers=inputs.answers_of,
    output:
        report(
            "results/{experiment}/report.html",
            caption="../report/captions/page.rst",
            category="Summary",
            labels={"experiment": "{experiment}", "what": "page"},
        ),
    log:
        "results/{experiment}/logs/report.log",
    resources:
        **needs_of("report"),
    params:
        settings=settings_of("report"),
    shell:
        "tdabench report {input.experiment} --planned {params.settings} 2> {log}"
