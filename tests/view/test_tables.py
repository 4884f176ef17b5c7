"""Tables for a notebook: whole texts on the left, numbers on the right, escaped."""

from __future__ import annotations

import pandas as pd

from spt_lens.view.tables import Readable, table_html

TEXT = "Apologies, I made a mistake, and said <b>Yaounde</b> where Athens is right & proper."


def test_texts_are_whole_and_on_the_left():
    page = table_html(pd.DataFrame({"said": [TEXT, None], "score": [0.123456, float("nan")], "n": [3, 4]}), ".2f")
    assert "&lt;b&gt;Yaounde&lt;/b&gt; where Athens is right &amp; proper.</td>" in page and "<b>" not in page
    cells = page.split("<td")[1:]
    assert ["left" in cell for cell in cells] == [True, False, False] * 2
    assert [cell.split(">")[1].split("<")[0] for cell in cells][1:] == ["0.12", "3", "", "", "4"]
    assert "-0.00" not in table_html(pd.DataFrame({"a": [-1e-9]}), ".2f")


def test_rows_that_have_names_show_them():
    named = Readable(pd.DataFrame({"heads": ["L0.H1 " * 20]}, index=["the best"]))
    assert ">the best</td>" in named._repr_html_() and "L0.H1 " * 20 in repr(named)
    assert ">0</td>" not in Readable(pd.DataFrame({"heads": ["a"]}))._repr_html_()
    both = pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([("a", 2)], names=["set", "size"]))
    assert ">set</th>" in Readable(both)._repr_html_()
