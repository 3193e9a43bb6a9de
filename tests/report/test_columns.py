import importlib
import pkgutil

import pytest
from made_up import GRID, make_tables

import tdabench
from tdabench.drawing.columns import HEADERS, INTERVALS, PLAIN, header_of

KNOWN = {*HEADERS, *PLAIN, *(f"{prefix}{end}" for prefix in INTERVALS for end in ("low", "high"))}


def constants_of_columns() -> dict[str, tuple[str, ...]]:
    """Return every constant that lists the columns of a table, by module and name."""
    found = pkgutil.walk_packages(tdabench.__path__, "tdabench.")
    modules = [importlib.import_module(module.name) for module in found]
    return {
        name: getattr(module, name)
        for module in modules
        for name in vars(module)
        if name.endswith("_COLUMNS") and name != "METHOD_COLUMNS"
    }


def test_every_table_that_is_written_is_among_the_constants():
    assert {"LDS_COLUMNS", "COST_COLUMNS", "PAIR_COLUMNS", "REMOVAL_COLUMNS", "PROPERTY_COLUMNS"} <= set(
        constants_of_columns()
    )


@pytest.mark.parametrize("name", sorted(constants_of_columns()))
def test_the_page_knows_how_to_head_and_write_every_column(name):
    assert not set(constants_of_columns()[name]) - KNOWN


def test_the_page_knows_no_column_that_no_table_has():
    written = {column for columns in constants_of_columns().values() for column in columns}

    assert not KNOWN - written


def test_made_up_tables_have_the_columns_of_the_real_ones():
    real = {frozenset(columns) for columns in constants_of_columns().values()}

    tables = {name: set(table.columns) - set(GRID) for name, table in make_tables().items()}  # a sweep's are its own
    assert {name for name, columns in tables.items() if frozenset(columns) not in real} == set()


def test_a_column_that_is_not_known_is_headed_by_its_name_in_words():
    assert (header_of("some_value"), header_of("train_size")) == ("Some value", "n")
