import math

import numpy as np
import pytest

from tdabench.evaluation.moderation import moderate_variances


@pytest.mark.parametrize(("prior", "common"), [(4.0, 0.5), (8.0, 3.0)])
def test_variances_of_a_known_law_are_shrunk_by_its_degrees_of_freedom_towards_its_size(prior, common):
    generator = np.random.default_rng(0)
    true = prior * common / generator.chisquare(prior, 20_000)
    seen = true * generator.chisquare(2, 20_000) / 2

    moderated, freedom = moderate_variances(seen.tolist(), freedom=2, most=math.inf)

    # Smyth's moments of log s²; at 20,000 variances they are known to some percent.
    assert freedom == pytest.approx(2 + prior, rel=0.15)
    expected = (prior * common + 2 * seen) / (prior + 2)
    assert np.allclose(moderated, expected, rtol=0.15)
    # What it is for: the moderated variances are nearer to the true ones.
    assert np.abs(np.log(moderated / true)).mean() < 0.6 * np.abs(np.log(seen / true)).mean()


def test_variances_that_differ_less_than_chance_become_one_as_far_as_is_allowed():
    moderated, freedom = moderate_variances([1.0, 1.1, 0.9, 1.05], freedom=2, most=6)

    assert freedom == 8
    assert max(moderated) - min(moderated) == pytest.approx(0.2 * 2 / 8)


@pytest.mark.parametrize("variances", [[], [2.0], [2.0, 1.0], [2.0, 1.0, 0.0]])
def test_too_few_variances_stay_as_they_are(variances):
    assert moderate_variances(variances, freedom=2, most=10) == (variances, 2.0)
