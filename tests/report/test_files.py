import struct

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tdabench.drawing.files import write_csv, write_figures, write_markdown
from tdabench.drawing.style import styled
from tdabench.storage.records import load_table


def test_a_bar_in_a_text_begins_no_cell(tmp_path):
    text = write_markdown(tmp_path, "table", pd.DataFrame([{"method": "nope", "status": "needs | a GPU"}]))

    assert text.splitlines()[-1].replace("\\|", "").count("|") == 3
    assert "needs \\| a GPU" in (tmp_path / "tables" / "table.md").read_text()


def test_a_figure_is_saved_as_finely_as_it_was_drawn(tmp_path):
    figure = styled()(Figure)(figsize=(2, 1))

    write_figures(tmp_path, {"small": figure})

    # Bytes 16 to 24 of a PNG file are its width and height.
    assert struct.unpack(">II", (tmp_path / "figures" / "small.png").read_bytes()[16:24]) == (320, 160)


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "-1+cmd|' /C calc'!A0", '=HYPERLINK("x")', "-1\n=1"]
)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe_before_it(tmp_path, text):
    write_csv(tmp_path / "any.csv", pd.DataFrame({"method": ["bif", text], "lds": [-0.5, 1.0]}), digits="%.6f")

    table = load_table(tmp_path / "any.csv")

    assert table["method"].tolist()[1][0] == "'"
    assert table["method"].tolist()[0] == "bif"
    assert table["lds"].tolist() == [-0.5, 1.0]


@pytest.mark.parametrize("text", ["half\rdone", "line\r\nline", "line\nline", 'a "b", c'])
def test_a_text_with_any_end_of_a_line_stays_in_its_cell(tmp_path, text):
    write_csv(tmp_path / "any.csv", pd.DataFrame({"status": [text, "ok"], "lds": [-0.5, 1.0]}), digits="%.6f")

    table = load_table(tmp_path / "any.csv")

    assert table["status"].tolist() == [text.replace("\r\n", "\n").replace("\r", "\n"), "ok"]
    assert table["lds"].tolist() == [-0.5, 1.0]


@pytest.mark.parametrize("value", [-0.5, -3, "-0.5", "+1e-05", "-1e5", "ok", "", "0-1", None, "−0.1"])
def test_numbers_and_plain_texts_stay_as_they_are(tmp_path, value):
    table = pd.DataFrame({"value": pd.Series(["a", value], dtype=object)})

    write_csv(tmp_path / "a.csv", table, digits="%.6f")

    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False, float_format="%.6f")
