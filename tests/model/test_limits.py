"""How much runs at once, and what happens when memory runs out."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_same, made, measured, state, two_layers

from spt_lens.model import limits
from spt_lens.model.held import is_out_of_memory
from spt_lens.model.limits import Limits, find_limits, prompt_bytes
from spt_lens.model.view import ModelView
from spt_lens.patching import suffix
from spt_lens.patching.rows import make_rows

tiny_folder, model_of, tiny = two_layers()  # which all tests here leave as they were
GIB = 2**30
LENGTHS = [(9, 9), (9, 9), (9, 9), (9, 9), (9, 9), (7, 7)]
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
    MemoryError(),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.gc, "collect", lambda: 0)  # of a process with many tests in it, this takes longest


def batch_size(scores) -> int:
    return scores.meta["settings"]["batch_size"]


def memory_for_rows(monkeypatch, rows: int, error: BaseException) -> list[int]:
    """Forward passes of more prompts fail. Gives how many each of them had."""
    logits, seen = ModelView.logits, []

    def bounded(self, tokens, *args, **named):
        seen.append(len(tokens))
        if len(tokens) > rows:
            raise error
        return logits(self, tokens, *args, **named)

    monkeypatch.setattr(ModelView, "logits", bounded)
    return seen


def memory_for_tokens(monkeypatch, tokens: int, error: Exception) -> list[int]:
    """Blocks on suffixes of more tokens, all variants together, fail. Gives how many each of them had."""
    seen: list[int] = []

    def bounded(block):
        def run(self, layer, hidden, hooks, **how):
            seen.append(hidden.shape[0] * hidden.shape[1])
            if seen[-1] > tokens:
                raise error
            return block(self, layer, hidden, hooks, **how)

        return run

    for cls in (suffix._BridgeSuffix, suffix._HookedSuffix):
        monkeypatch.setattr(cls, "block", bounded(cls.block))
    return seen


def test_batch_sizes_are_checked_and_kept(tiny):
    pairs = made(tiny, [(7, 7)])
    for wrong in (0, -1, True, 2.0, "4"):
        with pytest.raises((ValueError, TypeError), match="batch_size.* give a whole number"):
            measured(tiny, pairs, batch_size=wrong)
    for size in (1, 7, 1000):
        assert batch_size(measured(tiny, pairs, batch_size=size)) == size
    assert batch_size(measured(tiny, pairs)) == limits.MOST  # what a tiny model takes is little


def test_max_memory_is_checked(tiny):
    pairs = made(tiny, [(7, 7)])
    for wrong in (0, -1, float("nan"), "1", True):
        for size in (None, 2):
            with pytest.raises((ValueError, TypeError), match="max_memory.* give a (finite )?number"):
                measured(tiny, pairs, max_memory=wrong, batch_size=size)


def test_less_memory_is_fewer_prompts(tiny, monkeypatch):
    view = ModelView(tiny)
    pairs = made(tiny, LENGTHS)
    one = prompt_bytes(view, 9)  # of the longest
    right = measured(tiny, pairs)
    for memory, size in ((one / 100, 1), (1.5 * one, 1), (2.5 * one, 2), (5.5 * one, 5), (1000 * one, limits.MOST)):
        found = measured(tiny, pairs, max_memory=memory / GIB)
        assert batch_size(found) == size
        assert_same(found, right)
        monkeypatch.setattr(limits, "free_bytes", lambda device, memory=memory: 2 * memory)  # half of it is used
        assert batch_size(measured(tiny, pairs)) == size
    # Longer prompts take more, in either run and with their completions.
    monkeypatch.setattr(limits, "free_bytes", lambda device: 16 * one)
    for more in ((9, 30), (30, 9)):
        rows = make_rows(view, made(tiny, [*LENGTHS, more]))
        assert find_limits(view, rows.longest, None, None).batch_size < 8
    assert prompt_bytes(view, 200) > 10 * prompt_bytes(view, 20)


@pytest.mark.parametrize(
    "error, how",
    [
        (ERRORS[0], {"engine": "hooks"}),
        (ERRORS[1], {"engine": "stacked"}),
        (ERRORS[2], {"engine": "sweep"}),
        (ERRORS[1], {"engine": "hooks", "method": "path"}),
    ],
)
def test_what_does_not_fit_is_halved(tiny, error, how, monkeypatch):
    """In whole forward passes: by plain hooks everything, in the sweep the run that values come from."""
    pairs = made(tiny, LENGTHS)
    right = measured(tiny, pairs, **how)
    before = state(tiny)
    seen = memory_for_rows(monkeypatch, 2, error)
    found = measured(tiny, pairs, batch_size=8, **how)
    assert batch_size(found) == 2 and max(seen) > 2  # 8, 4, 2
    assert_same(found, right)
    assert state(tiny) == before


@pytest.mark.parametrize(
    "how, tokens",
    [
        ({}, 20),
        ({"positions": "all"}, 30),
        ({"method": "attribution"}, 2),
        ({"method": "attribution", "ig_steps": 3, "positions": "all"}, 20),
        ({"method": "path", "receivers": "L1.H0.q"}, 10),
        ({"method": "screened", "share": 0.5}, 8),
    ],
    ids=["last", "all", "attribution", "steps", "path", "screen"],
)
def test_suffixes_that_do_not_fit_are_halved(tiny, how, tokens, monkeypatch):
    pairs = made(tiny, LENGTHS)
    right = measured(tiny, pairs, **how)
    before = state(tiny)
    seen = memory_for_tokens(monkeypatch, tokens, ERRORS[0])
    found = measured(tiny, pairs, batch_size=8, **how)
    failed = sum(n > tokens for n in seen)
    assert found.engine == "sweep" and failed and batch_size(found) == 8 // 2**failed
    assert_same(found, right)
    assert state(tiny) == before


@pytest.mark.parametrize("engine, error", [("hooks", ERRORS[0]), ("stacked", ERRORS[1]), ("sweep", ERRORS[2])])
def test_when_not_even_one_fits(tiny, engine, error, monkeypatch):
    pairs = made(tiny, LENGTHS)
    measured(tiny, pairs)
    before = state(tiny)
    logits, calls = ModelView.logits, []

    def full(self, *args, **named):
        calls.append(1)
        if engine == "sweep" and len(calls) <= 4:  # its own try-out, of one prompt, does fit
            return logits(self, *args, **named)
        raise error

    monkeypatch.setattr(ModelView, "logits", full)
    with pytest.raises(MemoryError, match="not even one prompt at a time fits in memory.*shorter prompts") as caught:
        measured(tiny, pairs, engine=engine, batch_size=4)
    assert caught.value.__cause__ is error and state(tiny) == before


@pytest.mark.parametrize("engine", ["hooks", "stacked", "sweep"])
def test_other_errors_come_through_as_they_are(tiny, engine, monkeypatch):
    pairs = made(tiny, LENGTHS)
    for error in (RuntimeError("boom"), ValueError("boom"), KeyboardInterrupt("boom")):
        with monkeypatch.context() as patch:
            seen = memory_for_rows(patch, 1, error)  # one prompt: the try-out
            with pytest.raises(type(error)) as caught:
                measured(tiny, pairs, engine=engine, batch_size=8)
        assert caught.value is error and sum(n > 1 for n in seen) == 1  # not tried again


def test_what_torch_raises_when_memory_runs_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_parts_are_halved_until_they_fit_and_stay_so():
    done: list[list[int]] = []
    tried: list[int] = []

    def run(part: list[int]) -> None:
        tried.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError
        done.append(part)

    found = Limits(16)
    found.each([[*range(10)], [*range(10, 14)], []], run)
    assert done == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13]] and found.batch_size == 2
    assert tried == [10, 8, 4] + [2] * 7

    def only_one(part: list[int]) -> None:
        if len(part) > 1:
            raise torch.OutOfMemoryError
        done.append(part)

    done.clear()
    found.each([[3, 1, 2]], only_one)
    assert done == [[3], [1], [2]] and found.batch_size == 1
