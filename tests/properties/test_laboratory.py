import pytest
import torch
from torch import nn

from tdabench.attributors.baselines import Random
from tdabench.cost import measure_cost, phase
from tdabench.questions.properties.laboratory import Instrument, Laboratory, count_one_pass
from tdabench.testing import make_image_problem


def test_work_is_counted_by_phase_in_passes_of_the_network(tmp_path):
    problem = make_image_problem(tmp_path, num_train=30)
    one = count_one_pass(problem)

    with Instrument() as instrument, measure_cost():
        with phase("fit"):
            problem.loss(problem.models[0], problem.train)
        problem.loss(problem.models[0], problem.query).sum().backward()

    assert {name: work / one for name, work in instrument.work.items()} == {"fit": 30, "score": 24}
    # 4 channels of 3 x 3 over 6 x 6 places, a multiplication and an addition each.
    assert one == 4 * 9 * 36 * 2


def test_inference_mode_hides_no_work(tmp_path):
    problem = make_image_problem(tmp_path, num_train=30)

    with Instrument() as instrument, torch.inference_mode():
        problem.loss(problem.models[0], problem.train)

    assert instrument.work.total() == 30 * count_one_pass(problem)


@pytest.mark.parametrize(
    "factorise",
    [
        torch.linalg.inv,
        torch.linalg.eigh,
        torch.linalg.cholesky,
        torch.linalg.svd,
        torch.linalg.pinv,
        torch.linalg.lu_factor,
        torch.linalg.qr,
        lambda matrix: torch.linalg.solve(matrix, torch.ones(7, 2)),
        lambda matrix: torch.linalg.lstsq(matrix, torch.ones(7, 2)),
        lambda matrix: torch.cholesky_inverse(torch.linalg.cholesky(matrix)),
        lambda matrix: torch.func.vmap(torch.linalg.inv)(matrix[None]),
    ],
)
def test_a_factorised_matrix_is_seen_with_its_side(factorise):
    with Instrument() as instrument:
        factorise(2 * torch.eye(7) + 0.1)

    assert instrument.largest_factorised == 7


def test_products_and_norms_factorise_nothing():
    matrix = torch.eye(7)
    with Instrument() as instrument:
        torch.linalg.vector_norm(matrix)
        torch.linalg.norm(matrix)
        nn.functional.normalize(matrix @ matrix)
        torch.linalg.cross(torch.ones(5, 3), torch.ones(5, 3))

    assert instrument.largest_factorised == 0


def test_a_run_that_two_checks_need_is_made_once(tmp_path):
    laboratory = Laboratory(Random(), num_models=2, seed=0, folder=tmp_path)

    first, again, wide = laboratory.measure(), laboratory.measure(), laboratory.measure(width=8)

    assert again is first
    assert wide.parameters - first.parameters == 4 * 9 + 4 + 36 * 4
    assert len(laboratory.images().models) == 2
