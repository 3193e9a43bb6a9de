"""The commands without a rule: list the methods, check one."""

import argparse
import logging
import sys

import torch

from tdabench.experiment.components import Component, instantiate

logger = logging.getLogger(__name__)


def methods(arguments: argparse.Namespace) -> None:
    """List the built-in methods."""
    from tdabench.attributors.running.catalogue import describe_methods

    sys.stdout.write(describe_methods())


def check(arguments: argparse.Namespace) -> None:
    """Check a method against the public contract."""
    from tdabench.attributors.base import Unsupported
    from tdabench.experiment.components import parse_settings
    from tdabench.testing import check_attributor

    torch.set_num_threads(1)
    attributor = instantiate(Component(path=arguments.path, settings=parse_settings(arguments.set)), arguments.path)
    try:
        check_attributor(attributor, informative=not arguments.uninformative, text=arguments.text)
    except Unsupported as reason:
        kind, other = ("text", "without --text") if arguments.text else ("images", "with --text")
        message = f"{arguments.path} can't run on the check's small {kind}: {str(reason).rstrip('.')}; try {other}."
        raise ValueError(message) from reason
    sys.stdout.write(f"{arguments.path} passes: shape, sign, finiteness, repeatability, nothing touched.\n")
