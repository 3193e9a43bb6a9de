"""The commands without a rule: list the methods, check one."""

import sys
from collections.abc import Sequence

import torch

from tdabench.experiment.components import Component, instantiate


def methods() -> None:
    """List the built-in methods."""
    from tdabench.attributors.running.catalogue import describe_methods

    sys.stdout.write(describe_methods())


def check(path: str, set_: Sequence[str] = (), text: bool = False, uninformative: bool = False) -> None:
    """Check a method against the public contract.

    Args:
        path: package.module:Class.
        set_: settings as KEY=VALUE, as in YAML.
        text: on a small language model instead of small images.
        uninformative: skip the test that self-influence is positive (for baselines).
    """
    from tdabench.attributors.base import Unsupported
    from tdabench.experiment.components import parse_settings
    from tdabench.testing import check_attributor

    torch.set_num_threads(1)
    attributor = instantiate(Component(path=path, settings=parse_settings(list(set_))), path)
    try:
        check_attributor(attributor, informative=not uninformative, text=text)
    except Unsupported as reason:
        kind, other = ("text", "without --text") if text else ("images", "with --text")
        message = f"{path} can't run on the check's small {kind}: {str(reason).rstrip('.')}; try {other}."
        raise ValueError(message) from reason
    sys.stdout.write(f"{path} passes: shape, sign, finiteness, repeatability, nothing touched.\n")
