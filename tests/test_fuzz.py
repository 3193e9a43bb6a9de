"""A short run of `python tests/fuzz.py`, which says what is accepted."""

import collections

from fuzz import GOOD_OUTCOMES, fuzz_banks, fuzz_experiments
from fuzz_experiments import KINDS


def test_damaged_experiment_files_are_read_or_refused_with_their_name(tmp_path):
    found = collections.Counter(outcome for _, outcome, _ in fuzz_experiments(200, tmp_path))

    assert set(found) == set(GOOD_OUTCOMES), found


def test_damaged_banks_are_read_or_refused_with_their_name(tmp_path):
    found = collections.Counter(outcome for _, outcome, _ in fuzz_banks(100, tmp_path))

    assert set(found) == set(GOOD_OUTCOMES), found


def test_every_kind_of_damage_is_done(tmp_path):
    kinds = {kind for kind, _, _ in fuzz_experiments(60, tmp_path)}

    assert kinds == set(KINDS)
