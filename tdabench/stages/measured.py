"""What an interrupted measurement of costs had done with."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from tdabench.experiment.components import MethodComponent, describe
from tdabench.experiment.read import Experiment
from tdabench.storage.provenance import find_commit
from tdabench.storage.records import load_json, make_record, plain, save_json
from tdabench.storage.seals import check_seal

Fitted = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class MethodCosts:
    """What a method's jobs cost, by rule, and the most examples of each part that they have in memory at once."""

    costs: Fitted
    batches: dict[str, int] | None


class Finished:
    """The methods that an interrupted measurement had done with, in a file beside its result."""

    def __init__(self, path: Path, experiment: Experiment, *, threads: int, device: str) -> None:
        self.path = path
        data, model = describe(experiment.data.component), describe(experiment.model)
        shared = {"data": data, "sizes": experiment.data, "checkpoints": experiment.checkpoints, "model": model}
        shared |= {"training": experiment.training, "threads": threads, "device": device}
        self._shared = {**shared, "code": find_commit()}
        self._methods: dict[str, Any] = {}
        if path.is_file():
            with contextlib.suppress(ValueError, KeyError):  # damaged: measured again
                check_seal(path)
                kept = load_json(path)
                if kept["record"]["settings"] == plain(self._shared):
                    self._methods = kept["methods"]

    def get(self, method: str, component: MethodComponent) -> MethodCosts | None:
        """Return what a method's jobs cost; None if it is still to be measured."""
        kept = self._methods.get(method)
        if kept is None or "batches" not in kept or kept["component"] != plain(describe(component)):
            return None
        return MethodCosts(kept["costs"], kept["batches"])

    def keep(self, method: str, component: MethodComponent, found: MethodCosts) -> None:
        """Write down what a method's jobs cost."""
        self._methods[method] = {"component": describe(component), **dataclasses.asdict(found)}
        save_json(self.path, {"methods": self._methods}, make_record(self._shared))
