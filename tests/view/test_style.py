"""What all figures share: readable on a white page and on a nearly black one."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

from spt_lens.view.curves import training_figure
from spt_lens.view.scale import ABOVE, BELOW, ONE
from spt_lens.view.style import CLEAR, COLOURS, GREY, INK, rgb, styled

PAGES = ("#ffffff", "#111111")  # JupyterLab's two


def contrast(one: str, other: str) -> float:
    """Of WCAG 2: 1 to 21."""
    levels = []
    for colour in (one, other):
        linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (x / 255 for x in rgb(colour))]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(levels) / min(levels)


def test_texts_and_colours_stand_out_from_both_pages():
    # The product of a grey's contrast to both is 18.9: no single ink has 4.5 to each.
    assert contrast(*PAGES) ** 0.5 == pytest.approx(4.35, abs=0.01)
    assert min(contrast(INK, page) for page in PAGES) > 4.3
    weak = {each for each in (*COLOURS, GREY, BELOW, ABOVE, ONE) for page in PAGES if contrast(each, page) < 3}
    assert not weak


def test_figures_have_no_background_and_their_title_is_below_the_buttons():
    figure = styled(go.Figure(), "one<br>two", "x", "y")
    layout = figure.layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == layout.modebar.bgcolor == CLEAR and layout.font.color == INK
    assert figure.layout.title.pad.t + 2 * 17 <= figure.layout.margin.t and figure.layout.title.yanchor == "top"
    assert figure.layout.paper_bgcolor is None  # so that a page may set its own
    assert styled(go.Figure(), None, "x", "y").layout.margin.t == 20


def test_lines_that_are_equal_both_show():
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "validation_loss": [2.0, 1.0], "first": [0.5, 1.0]})
    lines = training_figure(history).data
    assert len({line.line.dash for line in lines}) == len({line.marker.symbol for line in lines}) == 3
    assert lines[0].line.width > lines[1].line.width > lines[2].line.width  # the later above the earlier
    assert [line.name for line in lines] == ["loss", "validation loss", "first (right)"]
