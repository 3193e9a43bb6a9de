"""The workflow: rules by theme, to be included in a Snakefile. A rule is a stage is a command."""

from pathlib import Path

SNAKEFILE = str(Path(__file__).with_name("workflow.smk"))
