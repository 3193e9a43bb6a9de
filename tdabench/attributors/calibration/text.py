"""A calibration, for a person to read."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from tdabench.attributors.calibration.auto import AUTO

# Shares of the stability limit: below the first a chain crawls, from the second on the stiffest direction swings.
SLOW, SWINGING = 0.1, 0.5


def describe_calibration(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Describe what a calibration found, beside the settings that the experiment file has.

    Args:
        report: What ``calibrate`` gives; of a method of one's own, only ``proposed`` must be there.
        settings: The file's, by name.
    """
    parts = [_measured(report)] if "curvature" in report and "pilot" in report else []
    if "step_size_limit" in report and isinstance(settings.get("step_size"), float):
        parts.append(judge_step_size(settings["step_size"], report["step_size_limit"]))
    parts.append("Proposed:\n" + "\n".join(_line(*entry, settings) for entry in report["proposed"].items()))
    parts += [f"Warning: {sentence}" for sentence in report.get("warnings", ())]
    return "\n\n".join(parts) + "\n"


def judge_step_size(step_size: float, limit: float) -> str:
    """Say in a sentence what a step size is, relative to the stability limit."""
    share = step_size / limit
    if share >= 1:
        verdict = "the chain diverges, as far as the loss is quadratic"
    elif share > SWINGING:
        verdict = f"the stiffest direction swings, and its variance is {1 / (1 - share):.1f} times the posterior's"
    elif share < SLOW:
        verdict = f"stable, but {0.375 / share:.0f} times smaller than need be: consecutive draws are almost copies"
    else:
        verdict = f"good; the stiffest direction's variance is {1 / (1 - share):.2f} times the posterior's"
    return f"The file's step_size {step_size:g} is {share:.0%} of the stability limit: {verdict}."


def _measured(report: Mapping[str, Any]) -> str:
    curvature, pilot, seconds = report["curvature"], report["pilot"], report["seconds"]
    rows = [
        ("largest eigenvalue of the loss's Hessian", "hessian_largest", ".3g"),
        ("smallest, at most", "hessian_smallest", ".3g"),
        ("largest of inverse_temperature x Hessian + localization", "largest", ",.0f"),
        ("the loss's share in that", "loss_share", ".0%"),
        ("stability limit of the step size, 4 / that", "limit", ".2g"),
        ("the same with minibatches' own curvature", "minibatch_limit", ".2g"),
        ("the stiffest direction's variance, by minibatches' gradients, x", "inflation_along_stiffest", ".2f"),
        ("the mean direction's, x", "inflation_mean", ".2f"),
    ]
    places = ("checkpoint", "sampled")
    table = [[title, *(_number(curvature[place][key], form) for place in places)] for title, key, form in rows]
    settled = "never settled" if pilot["relaxation"] is None else f"settled after {pilot['relaxation']}"
    return "\n\n".join(
        [
            tabulate(table, headers=["", "at the checkpoint", "where the chain goes"], stralign="right"),
            f"A pilot of {pilot['steps']} steps of {report['proposed']['step_size']:g} {settled}; mean training loss "
            f"{pilot['mean_loss_checkpoint']:.3g} -> {pilot['mean_loss']:.3g}, distance {pilot['distance']:.3g}, "
            f"autocorrelation time {pilot['autocorrelation_time']:.1f} steps.",
            _spacings(report),
            f"The calibration took {report['passes']:,} forward passes (a gradient counts as three). Here a step takes "
            f"{seconds['step']:.2g} s, and a chain gives {seconds['effective_draws_a_second']:.2g} effective draws a "
            "second.",
        ]
    )


def _spacings(report: Mapping[str, Any]) -> str:
    rows = [
        [
            "*" * (entry["steps"] == report["proposed"]["steps_between_draws"]),
            entry["steps"],
            f"{entry['effective']:.2f}",
            f"{entry['passes']:,}",
            f"{entry['worth']:.1f}",
        ]
        for entry in report["spacings"]
    ]
    headers = ["", "steps between draws", "effective a draw", "passes a draw", "effective a million passes"]
    return tabulate(rows, headers=headers, disable_numparse=True, stralign="right")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(name: str, value: Any, settings: Mapping[str, Any]) -> str:
    own = settings.get(name, AUTO)
    return f"    {name}: {value:g}" + ("" if own == AUTO else f"  # the file has {own:g}")
