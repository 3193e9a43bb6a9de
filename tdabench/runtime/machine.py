"""What a job may use of the machine. Imports no torch."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What a job may use of the machine: options of every stage that computes with a model."""

    device: str = dataclasses.field(default="auto", metadata={"help": "torch device; auto is a GPU if there is one"})
    threads: int = dataclasses.field(default=1, metadata={"help": "CPU threads"})
