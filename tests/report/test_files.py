import struct

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from tdabench.report.figures import STYLE
from tdabench.report.files import write_figures, write_markdown


def test_a_bar_in_a_text_begins_no_cell(tmp_path):
    text = write_markdown(tmp_path, "table", pd.DataFrame([{"method": "nope", "status": "needs | a GPU"}]))

    assert text.splitlines()[-1].replace("\\|", "").count("|") == 3
    assert "needs \\| a GPU" in (tmp_path / "tables" / "table.md").read_text()


def test_a_figure_is_saved_as_finely_as_it_was_drawn(tmp_path):
    with rc_context(STYLE):
        figure = Figure(figsize=(2, 1))

    write_figures(tmp_path, {"small": figure})

    # Bytes 16 to 24 of a PNG file are its width and height.
    assert struct.unpack(">II", (tmp_path / "figures" / "small.png").read_bytes()[16:24]) == (320, 160)
