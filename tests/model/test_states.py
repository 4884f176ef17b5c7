"""Kept hidden states: the same numbers as without, on every architecture, and never those of another model."""

from __future__ import annotations

import pytest
import torch
from conftest import head_part

from spt_lens.chat.batches import Examples
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.states import States
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import ModelView
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import TINY

CASES = Yesman().cases("train", n=24)
HEADS = HeadSet.parse("L1.H1 L2.H3")
CONFIG = TuneConfig(lr=1e-2, steps=6, batch_size=4, validate_every=3, kl_weight=0.5, kl_batch_size=3)
ROWS = [[7 + i, *range(10, 14 + 2 * i)] for i in range(6)]
NAMES = [*TINY]


def examples_of(rows: list[list[int]]) -> Examples:
    return Examples([(row, [False, False, *[True] * (len(row) - 2)]) for row in rows])


def near(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-11), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_whole_forward_passes(folder_of, name, dtype, tolerance, exact_softmax):
    if name == "olmo2" and dtype == torch.bfloat16:
        pytest.skip("TransformerLens can't run it")
    view = ModelView(load_model(folder_of(name), device="cpu", dtype=dtype))
    batch = examples_of(ROWS).batch(torch.arange(6))
    below = States(view).below(1)
    assert not below.problem(ROWS)
    with torch.no_grad():
        expected = model_logits(view)(batch)
        assert near(below.logits(batch), expected) < tolerance  # computed as they come
        assert len(below) == 6
        assert near(below.logits(batch), expected) < tolerance
        assert near(States(view).below(0).logits(batch), expected) < tolerance
        assert torch.equal(model_logits(view)(batch), expected)  # the blocks are as they were


def test_nothing_below_the_layer_runs_once_it_is_kept(tiny):
    view, calls = ModelView(tiny), []
    below = States(view).below(2)
    assert below.fill(ROWS) == 6
    parts = [view.model.blocks[layer].attn for layer in range(view.n_layers)]
    handles = [part.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, part in enumerate(parts)]
    with torch.no_grad():
        below.logits(examples_of(ROWS).batch(torch.tensor([1, 4])))
    for handle in handles:
        handle.remove()
    assert calls == list(range(2, view.n_layers))


@pytest.mark.parametrize("fixture", ["tiny", "gqa"])
def test_a_run_from_kept_states_is_the_run_without(request, model_class, fixture):
    model = request.getfixturevalue(fixture)
    runs = []
    for states in (True, False):
        runs.append(pinpoint_tune(model, HEADS, CASES, CONFIG, CASES[:5], CASES[5:9], progress=False, states=states))
        runs[-1].undo(model)
    kept, plain = runs
    assert "from layer 1 on, from hidden states kept of 24 of 24" in kept.way and plain.way == ""
    for name in ("loss", "kl", "grad_norm", "validation_loss"):
        assert kept.history[name].dropna().tolist() == pytest.approx(plain.history[name].dropna().tolist(), rel=1e-4)
    for name, value in kept.adapter.after.items():
        moved = (plain.adapter.after[name] - plain.adapter.before[name]).norm()
        assert float((value - plain.adapter.after[name]).norm() / moved) < 1e-3, name


def test_the_same_rows_give_the_same_bits_whatever_was_asked_before(tiny):
    one, other = States(tiny).below(2), States(tiny).below(2)
    one.fill(ROWS)
    other.fill(list(reversed(ROWS)))
    batch = examples_of(ROWS).batch(torch.tensor([0, 5]))
    with torch.no_grad():
        assert torch.equal(one.logits(batch), other.logits(batch))


def test_what_has_no_room_is_computed_each_time(tiny):
    view = ModelView(tiny)
    size = len(ROWS[0]) * view.d_model * 4 / 2**30
    states = States(view, max_memory=1.5 * size)
    below = states.below(2)
    assert below.fill(ROWS[:1]) == 1 and below.fill(ROWS) == 1 and below.nbytes <= states.room + below.nbytes
    batch = examples_of(ROWS).batch(torch.arange(6))
    with torch.no_grad():
        torch.testing.assert_close(below.logits(batch), model_logits(view)(batch))
    run = pinpoint_tune(tiny, HEADS, CASES, TuneConfig(steps=2), progress=False, states=States(tiny, max_memory=1e-6))
    assert "kept of 0 of" in run.way and "max_memory" in run.way


def test_changed_weights_below_forget_what_was_kept(tiny):
    states = States(tiny)
    states.below(2).fill(ROWS)
    with torch.no_grad():
        head_part(tiny, 2, "o", 0).mul_(2)
    assert len(states.below(2)) == 6  # not below it
    with torch.no_grad():
        head_part(tiny, 1, "o", 0).mul_(2)
    assert len(states.below(2)) == 0
    assert states.room == States(tiny, max_memory=states.room / 2**30).room


def test_a_folder_is_found_again_and_gives_the_same_run(tiny, tmp_path, monkeypatch):
    def run():
        made = pinpoint_tune(tiny, HEADS, CASES, CONFIG, keep=CASES[5:9], progress=False, states=tmp_path / "kept")
        made.undo(tiny)
        return made

    first = run()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*")}
    assert len(files) > 3
    again = run()
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*")} == files
    assert first.history.equals(again.history)
    in_memory = pinpoint_tune(tiny, HEADS, CASES, CONFIG, keep=CASES[5:9], progress=False)
    assert in_memory.history.equals(first.history)


def test_a_folder_of_another_model_or_of_something_else_is_refused(tiny, tmp_path):
    States(tiny, folder=tmp_path).below(2).fill(ROWS)
    with torch.no_grad():
        head_part(tiny, 0, "o", 0).mul_(2)
    with pytest.raises(ValueError, match="hidden states of another model .*weights below it.*another folder"):
        States(tiny, folder=tmp_path).below(2)
    (tmp_path / "layer-1").mkdir()
    (tmp_path / "layer-1" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        States(tiny, folder=tmp_path).below(1)
    assert (tmp_path / "layer-1" / "mine.txt").read_text() == "mine"


def test_a_damaged_file_is_an_error_that_names_it(tiny, tmp_path):
    States(tiny, folder=tmp_path).below(2).fill(ROWS)
    (file,) = (tmp_path / "layer-2").glob("rows-*")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=file.name):
        States(tiny, folder=tmp_path).below(2)


def test_hooks_of_the_users_and_blocks_that_give_something_else_take_the_plain_way(tiny, monkeypatch):
    seen = []
    tiny.blocks[0].hook_resid_pre.add_hook(lambda value, hook: seen.append(len(value)))
    run = pinpoint_tune(tiny, HEADS, CASES, TuneConfig(steps=2, batch_size=4), progress=False)
    assert "whole forward passes" in run.way and "hooks of yours" in run.way and seen.count(4) >= 2
    run.undo(tiny)
    tiny.reset_hooks()
    below = States(tiny).below(2)
    monkeypatch.setattr(below, "_given", lambda hidden: hidden * 1.01)
    assert "gives other logits when run from layer 2 on" in below.problem(ROWS)
    monkeypatch.setattr(below, "_given", lambda hidden: hidden.nonsense)
    assert "AttributeError" in below.problem(ROWS)


def test_an_interrupt_while_states_are_made_leaves_the_model_as_it_was(tiny):
    view = ModelView(tiny)
    methods = [vars(block).copy() for block in view.model.blocks]

    def stop(*args):
        raise KeyboardInterrupt

    with view.model.unembed.register_forward_pre_hook(stop), pytest.raises(KeyboardInterrupt):
        States(view).below(2).fill(ROWS)
    assert [vars(block) for block in view.model.blocks] == methods


def test_states_of_another_model_are_refused(tiny, gqa):
    # Its numbers would be learned from, and nothing would tell.
    with pytest.raises(ValueError, match="states are those of another model"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False, states=States(gqa))
    assert all(p.grad is None for p in ModelView(gqa).weights().values())


@pytest.mark.parametrize("fold", [True, False])
def test_what_the_model_does_not_give_any_more_is_refused(tiny, tmp_path, monkeypatch, fold):
    """Such as by another rotation, which no weight shows."""
    states = States(tiny, folder=tmp_path) if fold else States(tiny)
    states.below(2).fill(ROWS)
    below = (States(tiny, folder=tmp_path) if fold else states).below(2)
    assert not below.problem(ROWS)
    monkeypatch.setattr(below, "_compute", lambda rows, own=below._compute: [1.01 * row for row in own(rows)])
    with pytest.raises(ValueError, match="below layer 2 that .* does not give now.*new States"):
        below.problem(ROWS)


def test_a_try_that_gives_no_number_is_no_success(tiny, monkeypatch):
    below = States(tiny).below(2)
    monkeypatch.setattr(below, "_from", lambda hidden, batch: torch.full((1,), torch.nan))
    assert "gives other logits" in below.problem(ROWS)


@pytest.mark.parametrize("wrong", [None, 1, 1.5, [], b"folder"])
def test_states_that_can_not_be_meant(tiny, wrong):
    with pytest.raises(TypeError, match="states must be .*: give a States or a text or a path or True or False"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False, states=wrong)


def test_folders_that_can_not_be_one(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        States(tiny, folder=tmp_path / "file")
    with pytest.raises(OSError, match="cannot make the folder .*layer-2 for hidden states"):
        States(tiny, folder=tmp_path / "file" / "in").below(2)
    for folder in (tmp_path / "run", tmp_path / "run" / "states"):
        with pytest.raises(ValueError, match="the folder of the run: give them one outside of it"):
            pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False, states=folder, resume=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layer", [-1, 3, 1.5, None])
def test_layers_that_do_not_exist(tiny, layer):
    with pytest.raises((ValueError, TypeError), match="layer.* from 0 to 2"):
        States(tiny).below(layer)


def test_no_row_is_computed_once_there_is_no_room(tiny, monkeypatch):
    below, calls = States(tiny, max_memory=1e-6).below(2), []
    monkeypatch.setattr(below, "_compute", lambda rows, own=below._compute: calls.append(len(rows)) or own(rows))
    assert below.fill([[7 + i, 8, 9] for i in range(40)]) == 0 and calls == [16]


@pytest.mark.parametrize("wrong, said", [({"max_memory": 0}, "above"), ({"max_memory": "a"}, "max_memory")])
def test_bounds_that_can_not_be_meant(tiny, wrong, said):
    with pytest.raises((ValueError, TypeError), match=said):
        States(tiny, **wrong)


def test_encoded_dialogues_of_a_real_model(smollm2):
    rows = encode_all(smollm2, CASES[:4])
    batch = Examples(rows).batch(torch.arange(4))
    below = States(smollm2).below(14)
    assert not below.problem([ids for ids, _ in rows])
    with torch.no_grad():
        assert near(below.logits(batch), model_logits(smollm2)(batch)) < 1e-4
