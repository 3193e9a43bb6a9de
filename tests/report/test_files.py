import pandas as pd

from tdabench.report.files import write_markdown


def test_a_bar_in_a_text_begins_no_cell(tmp_path):
    text = write_markdown(tmp_path, "table", pd.DataFrame([{"method": "nope", "status": "needs | a GPU"}]))

    assert text.splitlines()[-1].replace("\\|", "").count("|") == 3
    assert "needs \\| a GPU" in (tmp_path / "tables" / "table.md").read_text()
