import dataclasses
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from walks import walk_on

from tdabench.attributors.base import Calibrated, Examples, Problem, num_examples
from tdabench.attributors.bif import BIF
from tdabench.attributors.calibration import search as calibration
from tdabench.attributors.calibration.auto import apply_proposal, auto_settings, leave_to_calibration, settle
from tdabench.attributors.calibration.search import round_down
from tdabench.attributors.calibration.stability import MOST_INFLATION, SHARE
from tdabench.attributors.calibration.text import describe_calibration, judge_step_size
from tdabench.attributors.sampling.sgld import SGLD
from tdabench.cost import measure_cost
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record
from tdabench.testing import Quadratic, check_attributor, make_image_problem, quadratic_loss

AUTO = {"step_size": "auto", "steps_between_draws": "auto", "burn_in": "auto"}
SETTINGS = {**AUTO, "inverse_temperature": 20.0, "localization": 4.0, "chains": 2, "draws": 5, "batch_size": 32}
CURVATURES = (0.3, 2.0)


def test_the_stability_limit_is_four_over_the_largest_eigenvalue_and_the_proposal_a_share_of_it(tmp_path):
    problem = _quadratic(tmp_path, CURVATURES)

    report = _calibrate(problem)

    largest = 20 * 2.0 + 4
    checkpoint = report["curvature"]["checkpoint"]
    assert checkpoint["largest"] == pytest.approx(largest, rel=1e-4)
    assert checkpoint["hessian_largest"] == pytest.approx(2.0, rel=1e-4)
    assert checkpoint["hessian_smallest"] == pytest.approx(0.3, rel=1e-4)
    assert checkpoint["loss_share"] == pytest.approx(40 / 44, rel=1e-4)
    assert report["step_size_limit"] == pytest.approx(4 / largest, rel=1e-4)
    assert report["proposed"]["step_size"] == round_down(SHARE * 4 / largest)
    share = report["proposed"]["step_size"] * largest / 4
    assert checkpoint["variance_factor"] == pytest.approx(1 / (1 - share), rel=1e-4)
    assert report["warnings"] == []


@pytest.mark.parametrize(("share", "stays"), [(0.95, True), (1.05, False)])
def test_a_chain_stays_below_the_limit_and_diverges_above_it(tmp_path, share, stays):
    problem = _quadratic(tmp_path, CURVATURES)
    limit = _calibrate(problem)["step_size_limit"]

    sampler = SGLD(step_size=share * limit, inverse_temperature=20.0, localization=4.0)
    *_, last = walk_on(
        sampler, problem.models[0], problem.loss, problem.reference, steps=400, batch_size=32,
        generator=make_generator(0, "chain"),
    )  # fmt: skip

    # Below, the stiffest direction's variance is 1 / (A (1 - 0.95)); above, it grows by (2 * 1.05 - 1)^2 a step.
    assert (last.distance() < 5 * math.sqrt(2 / (44 * 0.05))) == stays
    assert stays or last.distance() > 1e6


@pytest.mark.parametrize(("share", "grows"), [(0.9, False), (1.1, True)])
def test_the_mean_square_grows_above_the_limit_of_minibatches_with_curvatures_of_their_own(tmp_path, share, grows):
    # One parameter, curvatures h of 0 and 2 in minibatches of one: A_B is gamma + n*beta*h.
    hessians = torch.tensor([0.0, 2.0])[:, None, None]
    train = {"centre": torch.zeros(2, 1), "hessian": hessians}
    problem = dataclasses.replace(_quadratic(tmp_path, (1.0,)), train=train, reference=train)
    limit = _calibrate(problem, batch_size=1)["curvature"]["checkpoint"]["minibatch_limit"]

    factors = [(1 - share * limit / 2 * (4 + 20 * curvature)) ** 2 for curvature in (0.0, 2.0)]

    assert limit < 4 / 24
    assert (np.mean(factors) > 1) == grows


def test_the_inflation_is_that_of_the_exact_gradient_noise(tmp_path):
    # One parameter, curvature 1, centres +1 and -1, minibatches of one: the gradient has the variance 1.
    train = {"centre": torch.tensor([[1.0], [-1.0]]), "hessian": torch.ones(2, 1, 1)}
    problem = dataclasses.replace(_quadratic(tmp_path, (1.0,)), train=train, reference=train)

    report = _calibrate(problem, batch_size=1, inverse_temperature=3.0, localization=1.0, step_size=0.04)

    found = report["curvature"]["checkpoint"]
    assert found["gradient_variance_along_stiffest"] == pytest.approx(1)
    assert found["inflation_along_stiffest"] == pytest.approx(1 + 0.04 * 9 / 4)
    assert found["inflation_mean"] == pytest.approx(1 + 0.04 * 9 / 4)


def test_noisy_minibatches_bound_the_step_size_by_their_inflation(tmp_path):
    train = {"centre": torch.tensor([[5.0], [-5.0]]), "hessian": torch.ones(2, 1, 1)}
    problem = dataclasses.replace(_quadratic(tmp_path, (1.0,)), train=train, reference=train)

    report = _calibrate(problem, batch_size=1)

    # sigma^2 = 25: the inflation 1 + eps * 20^2 * 25 / 4 is at most 1.5, and eps far below 0.375 * 4 / 24.
    assert report["proposed"]["step_size"] == round_down(4 * (MOST_INFLATION - 1) / (20**2 * 25))
    assert report["curvature"]["checkpoint"]["inflation_along_stiffest"] == pytest.approx(MOST_INFLATION, rel=0.02)


def test_twice_the_potential_halves_the_step_size_and_leaves_the_steps(tmp_path):
    problem = _quadratic(tmp_path, CURVATURES)

    once, twice = (
        _calibrate(problem, inverse_temperature=factor * 20, localization=factor * 4) for factor in (1.0, 2.0)
    )

    assert twice["step_size_limit"] == once["step_size_limit"] / 2
    assert twice["proposed"] == {**once["proposed"], "step_size": once["proposed"]["step_size"] / 2}


def test_the_steps_between_draws_have_the_most_effective_draws_a_pass(tmp_path):
    problem = make_image_problem(tmp_path)
    many = dataclasses.replace(
        problem, query={name: values.repeat(100, *[1] * (values.ndim - 1)) for name, values in problem.query.items()}
    )

    few_queries, many_queries = (_calibrate(entry, localization=0.5) for entry in (problem, many))

    for report in (few_queries, many_queries):
        worths = {entry["steps"]: entry["effective"] / entry["passes"] for entry in report["spacings"]}
        assert report["proposed"]["steps_between_draws"] == max(worths, key=worths.get)
    # Where a draw is dearer, more steps between draws pay.
    steps = [report["proposed"]["steps_between_draws"] for report in (few_queries, many_queries)]
    assert steps[0] < steps[1]


def test_a_calibration_is_the_same_for_the_same_seed_and_moves_nothing(tmp_path):
    problem = make_image_problem(tmp_path)
    before = {name: value.clone() for name, value in problem.models[0].state_dict().items()}
    generator = make_generator(0, "bif")
    state = generator.get_state()

    first, again = (_without_seconds(BIF(**SETTINGS).calibrate(problem, generator=generator)) for _ in range(2))
    other = _without_seconds(BIF(**SETTINGS).calibrate(problem, generator=make_generator(1, "bif")))

    assert first == again
    assert first != other
    assert torch.equal(generator.get_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in problem.models[0].state_dict().items())
    assert all(parameter.grad is None for parameter in problem.models[0].parameters())


def test_no_query_is_looked_at(tmp_path):
    problem = make_image_problem(tmp_path)
    poisoned = {
        "image": torch.full_like(problem.query["image"], torch.nan),
        "label": torch.full_like(problem.query["label"], -(10**6)),
    }

    plain, blind = (
        _without_seconds(_calibrate(entry)) for entry in (problem, dataclasses.replace(problem, query=poisoned))
    )

    assert plain == blind


def test_a_calibration_in_parts_is_the_same_and_its_gradients_are_of_parts(tmp_path):
    images, sizes = make_image_problem(tmp_path), set()

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        if torch.is_grad_enabled():
            sizes.add(num_examples(examples))
        return images.loss(model, examples)

    problem = dataclasses.replace(images, loss=loss)
    whole = BIF(**SETTINGS).calibrate(problem, generator=make_generator(0, "bif"))
    sizes.clear()
    parts = BIF(**SETTINGS, microbatch=5).calibrate(problem, generator=make_generator(0, "bif"))

    assert max(sizes) == 5
    # Of the checkpoint; where the pilot goes from there, rounding decides in the end.
    for name in ("largest", "gradient_variance_mean"):
        assert parts["curvature"]["checkpoint"][name] == pytest.approx(whole["curvature"]["checkpoint"][name], rel=1e-3)


def test_chains_draws_and_estimate_change_no_calibration(tmp_path):
    problem = make_image_problem(tmp_path)

    plain = _calibrate(problem)
    other = _calibrate(problem, chains=7, draws=99, estimate="correlation")

    assert _without_seconds(plain) == _without_seconds(other)


def test_a_given_step_size_is_kept_and_the_rest_is_found_for_it(tmp_path):
    problem = make_image_problem(tmp_path)

    slow, fast = (_calibrate(problem, step_size=size)["proposed"] for size in (1e-3, 1e-1))

    assert (slow["step_size"], fast["step_size"]) == (1e-3, 1e-1)
    assert slow["steps_between_draws"] > fast["steps_between_draws"]
    assert slow["burn_in"] > fast["burn_in"]


def test_a_step_size_at_which_the_pilot_leaves_is_halved(tmp_path, monkeypatch):
    run_pilot, tried = calibration.run_pilot, itertools.count()
    monkeypatch.setattr(
        calibration, "run_pilot", lambda *given, **named: None if next(tried) < 2 else run_pilot(*given, **named)
    )
    problem = _quadratic(tmp_path, CURVATURES)

    report = _calibrate(problem)

    largest = round_down(SHARE * 4 / 44)
    assert report["refused_step_sizes"] == [largest, round_down(largest / 2)]
    assert report["proposed"]["step_size"] == round_down(round_down(largest / 2) / 2)


def test_a_step_size_is_lowered_to_what_is_stable_where_the_chain_goes(tmp_path, monkeypatch):
    # A loss with the second derivative 1.2 - 0.6 sech(6 x)^2 in each of 20 parameters: the chain goes where it is twice
    # the checkpoint's, and so at 0.75 of the limit.
    def loss(model, examples):
        position = model.position
        return (0.6 * position.square() - (6 * position).cosh().log() / 60).sum() + 0 * examples["centre"][:, 0]

    run_pilot, pilots = calibration.run_pilot, []
    monkeypatch.setattr(
        calibration, "run_pilot", lambda *given, **named: pilots.append(run_pilot(*given, **named)) or pilots[-1]
    )
    problem = dataclasses.replace(_quadratic(tmp_path, (1.0,) * 20), loss=loss)

    report = _calibrate(problem, localization=0.1)

    checkpoint, sampled = (report["curvature"][where] for where in ("checkpoint", "sampled"))
    assert None not in pilots
    assert sampled["largest"] > 1.5 * checkpoint["largest"]
    assert len(report["refused_step_sizes"]) == len(pilots) - 1 > 0
    assert report["proposed"]["step_size"] * 0.8 <= SHARE * sampled["limit"]
    assert report["step_size_limit"] == sampled["limit"]


def test_curvature_that_localization_does_not_outweigh_gives_a_warning(tmp_path):
    problem = _quadratic(tmp_path, (-0.21, 2.0))

    report = _calibrate(problem)

    assert "At the checkpoint the potential curves down, by 0.2: localization is too weak" in report["warnings"][0]


@pytest.mark.parametrize(
    ("curvatures", "settings", "message"),
    [
        ((1.0,), {"inverse_temperature": 0.0, "localization": 0.0}, "largest eigenvalue of 0 x Hessian + 0 is 0"),
        ((-1.0,), {"localization": 3.0}, "Nothing holds a chain: the largest eigenvalue of 20 x Hessian + 3 is -17"),
        ((0.0,), {}, "neither gradient nor curvature"),
        ((math.nan,), {}, "loss is NaN or infinite on 4 of 4 reference examples"),
        ((1.0,), {"step_size": 50.0}, "diverged at step_size 50: lower it, or let it say auto"),
    ],
)
def test_what_can_not_be_calibrated_is_an_error(tmp_path, curvatures, settings, message):
    problem = _quadratic(tmp_path, curvatures)

    with pytest.raises(ValueError, match=re.escape(message)):
        _calibrate(problem, **settings)


def test_a_pilot_that_diverges_at_every_step_size_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "run_pilot", lambda *_, **__: None)

    with pytest.raises(ValueError, match=r"diverged at step_size 0\.000\d+: raise localization"):
        _calibrate(_quadratic(tmp_path, CURVATURES))


def test_proposals_have_two_digits_rounded_down():
    assert [round_down(value) for value in (1.2999e-4, 0.03 * 1.0000000001, 9.99, 123.0, 0.29999999999)] == [
        1.2e-4, 0.03, 9.9, 120.0, 0.3,
    ]  # fmt: skip


# A method with auto


def test_a_method_with_auto_keeps_the_contract():
    check_attributor(BIF(**{**SETTINGS, "draws": 10}))


def test_auto_gives_the_scores_of_the_proposed_settings_and_counts_as_fit(tmp_path):
    problem = make_image_problem(tmp_path, num_models=1)
    proposed = _calibrate(problem)["proposed"]

    with measure_cost() as cost:
        scores = BIF(**SETTINGS).attribute(problem, generator=make_generator(0, "bif"))
    kept = load_record(tmp_path / "traces.safetensors")["settings"]
    by_hand = BIF(**{**SETTINGS, **proposed}).attribute(problem, generator=make_generator(0, "bif"))

    assert torch.equal(scores, by_hand)
    assert {name: kept[name] for name in AUTO} == proposed
    assert cost.phases["fit"].cpu_seconds > 0


def test_a_chain_of_a_method_with_auto_is_that_of_the_whole_method(tmp_path):
    problem = make_image_problem(tmp_path, num_models=1)
    method = BIF(**SETTINGS)

    chains = [method.sample_chain(problem, chain, generator=make_generator(0, "bif")) for chain in range(2)]

    whole = method.attribute(problem, generator=make_generator(0, "bif"))
    assert torch.equal(method.score_chains(chains, problem), whole)


def test_only_settings_that_say_auto_are_replaced():
    method = BIF(**{**SETTINGS, "burn_in": 7})

    found = apply_proposal(method, {"step_size": 0.5, "steps_between_draws": 3, "burn_in": 10})

    assert isinstance(method, Calibrated)
    assert auto_settings(method) == ("step_size", "steps_between_draws")
    assert (found.step_size, found.steps_between_draws, found.burn_in) == (0.5, 3, 7)
    assert auto_settings(found) == ()
    assert leave_to_calibration(found) == BIF(**SETTINGS)


def test_a_proposal_that_lacks_a_setting_is_an_error():
    with pytest.raises(ValueError, match="burn_in says auto, and the calibration proposes step_size: give it a value"):
        apply_proposal(BIF(**{**SETTINGS, "steps_between_draws": 1}), {"step_size": 0.5})


def test_a_method_without_auto_is_not_calibrated(tmp_path):
    method = BIF(**{**SETTINGS, "step_size": 0.1, "steps_between_draws": 1, "burn_in": 0})

    assert settle(method, _quadratic(tmp_path, (math.nan,)), generator=make_generator(0, "bif")) is method


# The text


@pytest.mark.parametrize(
    ("step_size", "verdict"),
    [
        (1.2, "is 120% of the stability limit: the chain diverges"),
        (0.75, "the stiffest direction swings, and its variance is 4.0 times the posterior's"),
        (0.4, "good; the stiffest direction's variance is 1.67 times"),
        (0.0375, "stable, but 10 times smaller than need be"),
    ],
)
def test_a_step_size_is_judged_by_the_limit(step_size, verdict):
    assert verdict in judge_step_size(step_size, 1.0)


def test_the_text_has_the_findings_the_verdict_and_lines_for_the_file(tmp_path):
    report = _calibrate(_quadratic(tmp_path, (-0.21, 2.0)))
    proposed = report["proposed"]

    text = describe_calibration(report, {"step_size": 0.02, "burn_in": 5, "steps_between_draws": "auto"})

    assert re.search(r"largest of inverse_temperature x Hessian \+ localization +44 +44\n", text)
    assert "The file's step_size 0.02 is 22% of the stability limit: good" in text
    assert f"    step_size: {proposed['step_size']:g}  # the file has 0.02\n" in text
    assert f"    steps_between_draws: {proposed['steps_between_draws']}\n" in text
    assert "Warning: At the checkpoint the potential curves down" in text


def test_the_text_of_a_method_of_ones_own_has_what_it_proposes():
    assert describe_calibration({"proposed": {"alpha": 0.5}}, {"alpha": 1.0}) == (
        "Proposed:\n    alpha: 0.5  # the file has 1\n"
    )


def _calibrate(problem: Problem, **changes) -> dict:
    return BIF(**{**SETTINGS, **changes}).calibrate(problem, generator=make_generator(0, "bif"))


def _without_seconds(report: dict) -> dict:
    return {name: value for name, value in report.items() if name != "seconds"}


def _quadratic(workspace: Path, curvatures: tuple[float, ...]) -> Problem:
    """Make four examples with one Hessian, at the minimum of their loss, and queries that are NaN."""
    hessian = torch.diag(torch.tensor(curvatures))
    size = len(curvatures)
    train = {"centre": torch.zeros(4, size), "hessian": hessian.repeat(4, 1, 1)}
    query = {name: torch.full_like(values[:3], torch.nan) for name, values in train.items()}
    model = Quadratic(torch.zeros(size)).eval()
    return Problem(models=(model,), loss=quadratic_loss, train=train, query=query, reference=train, workspace=workspace)
