import pytest
import torch

from tdabench.evaluation.variance import nested_variances, vary_retrains
from tdabench.seeds import make_generator


def test_nested_variances_recover_both_parts():
    generator = make_generator(0, "nested")
    checkpoints = 0.3 * torch.randn(6000, 1, generator=generator)
    lds = (checkpoints + 0.2 * torch.randn(6000, 3, generator=generator)).tolist()

    checkpoint, draws = nested_variances(lds)

    # 5,999 and 12,000 degrees of freedom: standard errors of 2 % and 1 %.
    assert checkpoint == pytest.approx(0.09, rel=0.08)
    assert draws == pytest.approx(0.04, rel=0.05)


def test_a_method_without_random_numbers_has_no_variance_of_draws():
    checkpoint, draws = nested_variances([[0.5, 0.5], [0.3, 0.3]])

    assert draws == 0
    assert checkpoint == pytest.approx(0.02)


def test_a_negative_estimate_of_the_checkpoints_part_is_zero_and_a_single_checkpoint_has_none():
    assert nested_variances([[0.1, 0.5], [0.1, 0.5]])[0] == 0
    assert nested_variances([[0.1, 0.5]])[0] is None


@pytest.mark.usefixtures("unchecked_types")
def test_a_single_run_is_an_error():
    with pytest.raises(ValueError, match="fewer than 2 runs, got \\[2, 1\\]"):
        nested_variances([[0.1], [0.2]])


def test_a_subset_with_one_model_that_converged_does_not_move():
    losses = torch.randn(12, 2, 5, generator=make_generator(0))
    losses[:, 1] = torch.nan
    predicted = torch.randn(1, 12, 5, generator=make_generator(1), dtype=torch.float64)

    moved = vary_retrains(predicted, losses, draws=10, generator=make_generator(0))

    assert moved.abs().max().item() == pytest.approx(0, abs=1e-12)
