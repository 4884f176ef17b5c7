"""What a measurement is said to cost, against the tokens that really go through the blocks; the progress bar."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import PATCHING, made, measured
from tqdm import tqdm

from spt_lens.measure.cost import cost
from spt_lens.model import limits as bar
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView

ROOT = Path(__file__).parents[2]
WAYS: dict[str, dict[str, Any]] = {
    "sweep, last": {},
    "sweep, all": {"positions": "all"},
    "sweep, one of the last twenty": {"positions": [-20]},
    "stacked": {"engine": "stacked"},
    "hooks": {"engine": "hooks", "positions": "all"},
    "path": {"method": "path"},
    "path to a late head": {"method": "path", "receivers": "L2.H0.q", "positions": "all"},
    "path to two heads": {"method": "path", "receivers": "L1.H0.q L2.H1.k", "positions": "all"},
    "path, hooks": {"method": "path", "engine": "hooks"},
    "path to a late head, hooks": {"method": "path", "receivers": "L2.H0.q", "engine": "hooks"},
    "attribution": {"method": "attribution"},
    "attribution, all": {"method": "attribution", "positions": "all"},
    "attribution, steps": {"method": "attribution", "ig_steps": 4, "positions": "all"},
    "attribution, hooks": {"method": "attribution", "engine": "hooks"},
    "attribution, hooks, steps": {"method": "attribution", "ig_steps": 4, "engine": "hooks"},
    "screened": {"method": "screened", "share": 0.25},
    "screened, all": {"method": "screened", "share": 0.25, "positions": "all"},
    "screened, stacked": {"method": "screened", "share": 0.25, "positions": "all", "engine": "stacked"},
    "screened, steps": {"method": "screened", "share": 0.5, "ig_steps": 3, "positions": "all"},
}
each_way = pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module")
def model_of(tiny_folder: Path):
    return cache(lambda model_class: load_model(tiny_folder, device="cpu", model_class=model_class))


@pytest.fixture
def tiny(model_of, model_class: str):
    """One for all tests here, which leave it as it was."""
    return model_of(model_class)


def long_pairs(model, n: int = 3):
    """Long enough that the one token that unembeds a suffix does not count."""
    return made(model, [(60, 60)] * n)


@contextmanager
def work(model) -> Iterator[Callable[[], int]]:
    """Counts tokens times blocks that they go through; those that gradients are taken of three times."""
    total = 0

    def count(module, args, kwargs):
        nonlocal total
        hidden = args[0] if args else kwargs["hidden_states"]
        total += hidden.shape[0] * hidden.shape[1] * (3 if torch.is_grad_enabled() else 1)

    count.__module__ = "accelerate.hooks"  # as those of a library: no hook of the user's
    handles = [block.register_forward_pre_hook(count, with_kwargs=True) for block in model.blocks]
    try:
        yield lambda: total
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the passes that are timed, which no measurement has."""
    monkeypatch.setattr("spt_lens.measure.cost._timed", lambda *_: (1.0, 1.0))


@each_way
def test_the_work_is_what_was_said(tiny, how, untimed):
    pairs = long_pairs(tiny)
    with work(tiny) as done:
        said = cost(tiny, pairs, batch_size=2, **how)
        tried = done()  # both try out which engine fits
        scores = measured(tiny, pairs, batch_size=2, **how)
        real = done() - 2 * tried
    assert said.engine == scores.engine == how.get("engine", "sweep")
    assert said.batch_size == 2 and (said.n_prompts, said.tokens) == (3, 180)
    assert said.forward_passes * said.tokens * tiny.cfg.n_layers == pytest.approx(real, rel=0.2)


def test_frozen_mlps_and_whole_completions(tiny, untimed):
    pairs = long_pairs(tiny)
    ids = tuple(((a, 7, 8, 9), (b, 7)) for a, b in pairs.answer_ids.tolist())
    whole = replace(pairs, completion_ids=ids)
    for which, how in ((pairs, {"method": "path", "mlps": "frozen"}), (whole, {}), (whole, {"method": "path"})):
        with work(tiny) as done:
            said = cost(tiny, which, **how)
            tried = done()
            measured(tiny, which, **how)
            real = done() - 2 * tried
        assert said.forward_passes * said.tokens * tiny.cfg.n_layers == pytest.approx(real, rel=0.2)
    assert (said.n_prompts, said.tokens) == (6, 3 * (60 + 3 + 60 + 1))


def test_about_four_forward_passes(tiny):
    """Of a small model with long prompts: the two runs, and little more."""
    pairs = made(tiny, [(200, 200)])
    assert 2 < cost(tiny, pairs).forward_passes < 2.5
    assert cost(tiny, pairs, engine="hooks").forward_passes == 2 + 12
    assert cost(tiny, pairs, method="attribution").forward_passes < 2.5
    assert cost(tiny, pairs, engine="stacked").forward_passes == 2 + 12
    some, every = (
        cost(tiny, pairs, method="screened", share=share, positions="all").forward_passes for share in (0.1, 1.0)
    )
    assert some < cost(tiny, pairs, positions="all").forward_passes < every


def test_it_reads_well(tiny):
    pairs = long_pairs(tiny)
    said = cost(tiny, pairs, batch_size=2)
    weights = sum(p.numel() * p.element_size() for p in ModelView(tiny).backend.root.parameters())
    assert said.weights == weights / 2**30 and said.engine_reason == ""
    text = str(said)
    for part in ("forward passes of 3 prompts", "(180 tokens)", " s by two that", "GiB", "engine sweep, 2 prompts at"):
        assert part in text
    assert cost(tiny, pairs, batch_size=4).memory == 2 * said.memory
    assert cost(tiny, pairs, batch_size=2, method="attribution").memory > said.memory
    assert cost(tiny, pairs, max_memory=2.5 * said.memory / 2).batch_size == 2
    tiny.add_hook(ModelView.z_name(0), lambda z, hook: None)
    hooked = cost(tiny, pairs)
    assert hooked.engine == "hooks" and "carries hooks of yours" in hooked.engine_reason
    assert hooked.engine_reason in str(hooked)
    tiny.reset_hooks()
    html = replace(hooked, engine_reason="<a & b>")._repr_html_()
    assert html.startswith("<p>") and "&lt;a &amp; b&gt;" in html


def test_the_model_is_left_and_nothing_long_is_run(tiny):
    pairs = made(tiny, [(60, 60)] * 12)
    with work(tiny) as done:
        cost(tiny, pairs, positions="all")
        assert 0 < done() < 20 * 60 * tiny.cfg.n_layers  # less than 20 passes of one prompt, however many there are
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_seconds_are_those_of_its_forward_passes(tiny, monkeypatch):
    """By a clock that is told of every block: a second for each of 60 tokens, so that nothing hangs on this machine."""
    clock, before = [0.0], torch.cat([p.detach().flatten() for p in tiny.parameters()]).clone()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    logits = ModelView.logits

    def slowly(self, tokens, *args, **named):
        clock[0] += tokens.numel() / 60
        return logits(self, tokens, *args, **named)

    monkeypatch.setattr(ModelView, "logits", slowly)
    for n in (1, 3, 12):
        for how in ({}, {"engine": "hooks"}, {"method": "path"}, {"method": "attribution"}):
            said = cost(tiny, made(tiny, [(60, 60)] * n), **how)
            assert said.seconds == pytest.approx((n * said.forward_passes, 3 * n * said.forward_passes))
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in tiny.parameters()]))
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_it_is_known_whoever_asks_first():
    """Before any way of measuring was imported, as a careful user asks."""
    code = "import spt_lens as spt\nfrom spt_lens.yesman import Yesman\nmodel = spt.load_model('yesman')\n"
    code += "pairs = Yesman().pairs(model, n=2)\nprint(spt.cost(model, pairs, 'screened').seconds[0] > 0)\n"
    code += "print(spt.random_pairs_null(model, pairs, progress=False).n_pairs)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "2"]


def test_what_can_not_be_measured_has_no_cost(tiny):
    pairs = made(tiny, [(9, 8)])
    for how, message in (
        ({"method": "magic"}, "method='magic': choose one of"),
        ({"method": "attribution", "mlps": "frozen"}, "mlps does not go with method='attribution', which has ig_steps"),
        ({"positions": "all"}, "equal length"),
        ({"positions": [9]}, "outside of a prompt"),
        ({"engine": "magic"}, "engine='magic': choose one of"),
        ({"method": "path", "engine": "stacked"}, "engine='stacked': choose one of 'auto', 'sweep', 'hooks'"),
        ({"method": "path", "receivers": "L0.H0.q"}, "no head comes before"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_memory": 0}, "above 0"),
        ({"ig_steps": 0, "method": "attribution"}, "ig_steps=0"),
        ({"method": "screened", "share": 2}, "share=2"),
        ({"direction": "up"}, "direction='up': choose one of"),
    ):
        with pytest.raises(ValueError, match=message):
            cost(tiny, pairs, **how)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The progress bars that were shown, with what they were told."""
    shown: list[Any] = []

    class Kept(tqdm):
        def __init__(self, *args, **named):
            self.told: list[float] = []
            shown.append(self)
            super().__init__(*args, **named)
            self.hidden = self.disable  # which a bar that is closed is, too

        def update(self, n=1):
            self.told.append(n)
            return super().update(n)

    monkeypatch.setattr(bar, "tqdm", Kept)
    return shown


@pytest.mark.parametrize(
    "which",
    [
        "sweep, last",
        "stacked",
        "path to a late head",
        "path to a late head, hooks",
        "attribution",
        "attribution, steps",
        "attribution, hooks",
        "screened, all",
        "screened, steps",
    ],
)
def test_the_bar_ends_at_its_end(tiny, bars, which, capsys):
    how = dict(WAYS[which])
    PATCHING[how.pop("method", "activation")](tiny, long_pairs(tiny), batch_size=2, **how)
    (shown,) = bars
    assert shown.n == shown.total and not shown.hidden
    assert "100%" in capsys.readouterr().err
    *told, rest = shown.told  # at last, it is told of what was planned too much: little, or it would jump
    assert min(told) >= 0 and len(told) > 3
    assert rest <= 0.2 * shown.total


def test_no_bar(tiny, bars, capsys):
    pairs = made(tiny, [(9, 9)])
    for how in (
        {},
        {"engine": "hooks"},
        {"method": "path"},
        {"method": "attribution"},
        {"method": "screened", "share": 0.5},
    ):
        measured(tiny, pairs, **how)
    assert len(bars) == 5
    assert all(shown.hidden for shown in bars) and capsys.readouterr().err == ""


def test_the_bar_ends_at_its_end_when_memory_ran_out(tiny, bars, monkeypatch):
    pairs = long_pairs(tiny, 6)
    logits = ModelView.logits

    def bounded(self, tokens, *args, **named):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        return logits(self, tokens, *args, **named)

    monkeypatch.setattr(ModelView, "logits", bounded)
    PATCHING["activation"](tiny, pairs, engine="stacked")
    assert bars[0].n == bars[0].total


def test_an_error_does_not_end_the_bar_at_its_end(tiny, bars, monkeypatch):
    calls = []
    logits = ModelView.logits

    def failing(self, *args, **named):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return logits(self, *args, **named)

    monkeypatch.setattr(ModelView, "logits", failing)
    with pytest.raises(KeyboardInterrupt):
        PATCHING["activation"](tiny, long_pairs(tiny), engine="hooks")
    assert bars[0].n < bars[0].total
