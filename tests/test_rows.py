import re

import pytest
import torch

from tdabench.storage.matrix import Rows

MATRIX = torch.arange(21.0).reshape(7, 3)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize(("start", "length"), [(0, 7), (2, 4), (5, 0)])
def test_rows_are_narrowed_and_split_as_a_tensor_is(size, start, length):
    rows = _rows().narrow(0, start, length)

    assert rows.shape == (length, 3)
    expected = MATRIX.narrow(0, start, length)
    assert [part.tolist() for part in rows.split(size)] == [part.tolist() for part in expected.split(size) if len(part)]


def test_a_part_of_a_part_is_counted_from_the_parts_start():
    rows = _rows().narrow(0, 2, 5).narrow(0, 1, 3)

    assert torch.cat(list(rows.split(2))).tolist() == MATRIX[3:6].tolist()


def test_no_row_is_read_before_it_is_asked_for():
    read = []
    rows = Rows(read=lambda start, stop: read.append((start, stop)) or MATRIX[start:stop], shape=(7, 3))

    parts = rows.narrow(0, 1, 6).split(4)
    assert read == []
    next(parts)

    assert read == [(1, 5)]


@pytest.mark.parametrize("asked", [(1, 0, 1), (0, -1, 2), (0, 5, 3)])
def test_rows_that_are_not_there_are_an_error(asked):
    with pytest.raises(ValueError, match=re.escape("There are 7 rows, and")):
        _rows().narrow(*asked)


def _rows() -> Rows:
    return Rows(read=lambda start, stop: MATRIX[start:stop], shape=(7, 3))
