"""A run as it is watched: in a terminal, in a log file, in a notebook."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from spt_lens.view import live
from spt_lens.view.curves import training_figure

ROWS = [{"step": i, "loss": 10.0 - i, "lr": 1e-3, "grad_norm": 1.0} for i in range(1, 10)]


@pytest.mark.parametrize(
    "values, blocks",
    [
        ([], ""),
        ([1.0], ""),
        ([0.0, 1.0], "▁█"),
        ([7, 6, 5, 4, 3, 2, 1, 0], "█▇▆▅▄▃▂▁"),
        ([2.0, 2.0], "▁▁"),
        ([3, 3, 1, 1, 2, 2], "█▁▅"),
        ([1.0, float("inf")], ""),
        ([1.0, float("nan")], ""),
    ],
)
def test_a_small_curve_has_a_block_for_each_share_of_the_values(values, blocks):
    assert live.sparkline(values, width=3 if len(values) == 6 else 8) == blocks


def test_the_figures_are_the_last_ones():
    rows = [{"step": 0, "validation_loss": 9.0, "validation_first": 0.25}, *ROWS]
    assert live.figures(rows) == "loss 1.000, validation 9.000, first 0.25"
    assert live.figures(ROWS[:2], True) == "loss 8.000 █▁"
    assert live.figures(rows[:1], True) == "validation 9.000, first 0.25"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def watched(monkeypatch, stream: io.StringIO, total: int, done: int = 0) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with live.watched(total, done, shown=True) as show:
        for i in range(done, total):
            show([{"step": j, "loss": 100.0 - j} for j in range(1, i + 2)])
    return stream.getvalue()


def test_a_terminal_shows_figures_and_a_curve_and_a_log_file_plain_text(monkeypatch):
    said = watched(monkeypatch, Terminal(), 32)
    assert "32/32" in said and "loss 68.000 █" in said and said.rstrip().rpartition("▁")[0]
    plain = watched(monkeypatch, io.StringIO(), 32)
    assert "loss 68.000" in plain and "loss 68.000 █" not in plain
    few = watched(monkeypatch, Terminal(), 5)
    assert "5/5" in few and "loss 95.000" in few and "loss 95.000 █" not in few


def test_a_resumed_run_begins_where_it_was(monkeypatch):
    said = watched(monkeypatch, Terminal(), 32, done=30)
    assert "30/32" in said and "32/32" in said and " 0/32" not in said


def test_nothing_is_shown_where_nothing_is_asked_for(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with live.watched(50, 0, shown=False) as show:
        show(ROWS)
    assert stream.getvalue() == ""


class Notebook:
    """What IPython would show, and a clock."""

    def __init__(self, monkeypatch, kernel: bool = True):
        self.shown, self.now = [], 0.0
        shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
        ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=self.display))
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: self.now))

    def display(self, bundle, raw, display_id):
        assert raw and display_id is True
        self.shown.append(("new", bundle))
        return SimpleNamespace(update=lambda bundle, raw: self.shown.append(("again", bundle)))


def test_a_notebook_has_one_curve_that_is_drawn_again_at_most_every_second(monkeypatch):
    notebook = Notebook(monkeypatch)
    with pytest.raises(KeyboardInterrupt), live.watched(100, 0, shown=True) as show:
        for i in range(1, 26):
            show([{"step": j, "loss": 9.0 - j / 10, "validation_loss": 3.0} for j in range(1, i + 1)])
            notebook.now += 0.3
        raise KeyboardInterrupt
    # At 1.2 seconds, 2.4 and so on, which is after 5 steps, 9 and so on, and as the run is left.
    assert [how for how, _ in notebook.shown] == ["new"] + ["again"] * 5
    losses = [float(bundle["text/plain"].split()[1].strip(",")) for _, bundle in notebook.shown]
    assert [round((9 - loss) * 10) for loss in losses] == [5, 9, 13, 17, 21, 25]
    assert notebook.shown[-1][1]["text/plain"] == "loss 6.500, validation 3.000"


def test_the_last_curve_is_the_figure_of_the_history(monkeypatch):
    notebook = Notebook(monkeypatch)
    with live.watched(20, 0, shown=True) as show:
        for i in range(1, 10):
            show(ROWS[:i])
    ((how, bundle),) = notebook.shown  # a run of no time at all: once, at its end
    assert how == "new"
    assert bundle["application/vnd.plotly.v1+json"] == json.loads(training_figure(pd.DataFrame(ROWS)).to_json())
    assert "http" not in json.dumps(bundle)


@pytest.mark.parametrize("where", ["no IPython", "a terminal's IPython"])
def test_elsewhere_there_is_no_curve(monkeypatch, where):
    if where == "no IPython":
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
    else:
        Notebook(monkeypatch, kernel=False)
    assert live.notebook_display() is None
    curve = live.LiveCurve()
    curve.show(ROWS, at_once=True)
