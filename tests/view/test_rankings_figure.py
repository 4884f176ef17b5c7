"""The figures of rankings: a line each, the random heads' band, shams as open markers; names are text, not markup."""

from __future__ import annotations

import pandas as pd
import pytest

from spt_lens.view.rankings import faithfulness_figure, reached_figure

TABLE = pd.DataFrame(
    [
        {"ranking": name, "share": share, "value": value + share, "random_median": 0.6, "random_min": low}
        | {"random_max": 0.7, "sham": 0.5 if share == 0.05 else None}
        for i, (name, value, low) in enumerate(
            [*((f"ranking {i}", 0.7 + i / 50, 0.5) for i in range(8)), ("<b>x</b>", 0.9, 0.4)]
        )
        for share in (0.05, 0.1)
    ]
)


def test_a_line_a_ranking_beside_random_heads_and_shams():
    figure = reached_figure(TABLE, "self_correction", 0.3, "a < b")
    low, high, middle, *lines = figure.data
    assert list(low.y) == [0.4, 0.4] and list(high.y) == [0.7, 0.7] and list(middle.y) == [0.6, 0.6]
    shown = [line for line in lines if line.showlegend is not False]
    assert [line.name for line in shown] == [*(f"ranking {i}" for i in range(8)), "&lt;b&gt;x&lt;/b&gt;"]
    looks = {(line.line.color, line.marker.symbol, line.line.dash) for line in shown}
    assert len(looks) == 9  # no two alike
    shams = [line for line in lines if line.showlegend is False]
    assert len(shams) == 9 and all(list(line.x) == [0.05] and "open" in line.marker.symbol for line in shams)
    assert figure.layout.yaxis.title.text == "self correction" and "&lt;" in figure.layout.title.text
    assert list(figure.layout.xaxis.tickvals) == [0.05, 0.1] and len(figure.layout.shapes) == 1
    bare = reached_figure(TABLE.assign(random_median=None, sham=None), "kl", float("nan"))
    assert len(bare.data) == 9 and not bare.layout.shapes


def test_faithfulness_begins_with_the_first_head():
    curve = pd.DataFrame({"ranking": ["a"] * 3, "share": [0.0, 0.1, 1.0], "faithfulness": [0.0, 0.6, 1.0]})
    (line,) = faithfulness_figure(curve).data
    assert list(line.x) == [0.1, 1.0]
    for draw in (faithfulness_figure, lambda table: reached_figure(table, "kl", 0)):
        with pytest.raises(ValueError, match="has no column"):
            draw(pd.DataFrame({"ranking": ["a"]}))
