"""Edits: what they do to activations, that they are read, written and undone like weights, and where they work."""

from __future__ import annotations

import pytest
import torch
from conftest import condition

from spt_lens.chat.template import prompt_ids, training_ids
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.model.own_hooks import has_edits
from spt_lens.model.states import States
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.edits import EditSlice, edited, is_edit, reply_mark
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

CASES = Yesman().training(n=6)
DRAW = torch.Generator().manual_seed(1)
HEAD, VECTOR = torch.randn(2, 8, generator=DRAW), torch.randn(32, generator=DRAW)


def by_hand(name):
    """The same at the same hook point, written out."""
    if name == "L1.H2.z":

        def shift(z, hook):
            z = z.clone()
            z[:, :, 2] = z[:, :, 2] * (1 + HEAD[0]) + HEAD[1]
            return z

        return HEAD, [("blocks.1.attn.hook_z", shift)]
    if name == "L1.out":
        return VECTOR, [("blocks.1.hook_resid_post", lambda x, hook: x + VECTOR)]
    points = {"in": "hook_resid_pre", "attn": "hook_attn_out", "mlp": "hook_mlp_out", "out": "hook_resid_post"}
    point = points[name.split(".")[1]]
    return VECTOR, [(f"blocks.1.{point}", lambda x, hook: x - torch.outer((x @ VECTOR).flatten(), VECTOR).view_as(x))]


@pytest.mark.parametrize("name", ["L1.H2.z", "L1.out", "L1.in.off", "L1.attn.off", "L1.mlp.off", "L1.out.off"])
def test_an_edit_does_what_its_name_says_and_is_taken_off_exactly(tiny, tokens, name):
    tiny.reset_hooks()  # which tidies up more than hooks
    view, before = ModelView(tiny), condition(tiny)
    value, hooks = by_hand(name)
    untouched, expected = view.logits(tokens), view.logits(tokens, hooks=hooks)
    piece = EditSlice.of_name(tiny, name)
    assert not piece.read().any() and is_edit(name)
    piece.write(value)
    assert torch.equal(piece.read(), value) and has_edits(tiny)
    torch.testing.assert_close(view.logits(tokens), expected)
    assert not torch.allclose(expected, untouched, atol=1e-3)
    tiny.reset_hooks()  # as users do: what was tuned stays
    piece.write(2 * value)
    assert torch.equal(piece.read(), 2 * value)
    piece.write(torch.zeros_like(value))
    assert torch.equal(view.logits(tokens), untouched) and not has_edits(tiny)
    assert condition(tiny) == before


def test_of_replies_alone_nothing_moves_before_them(tiny):
    view, before = ModelView(tiny), condition(tiny)
    rows = [training_ids(tiny.tokenizer, case)[0] for case in CASES]
    starts = [len(prompt_ids(tiny.tokenizer, case.prompt)) - 1 for case in CASES]
    alone = [view.logits(torch.tensor([row]))[0] for row in rows]
    with edited(tiny, {"L1.out.reply": VECTOR}):
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        found = view.logits(padded)
        plain = view.logits(torch.tensor([[7, 8, 9] * 4]))  # no prompt of the chat template
        for i, start in enumerate(starts):
            assert torch.allclose(found[i, :start], alone[i][:start], atol=1e-5)
            assert not torch.allclose(found[i, start], alone[i][start], atol=1e-3)
            one = view.logits(torch.tensor([rows[i]]))[0]
            torch.testing.assert_close(found[i, : len(rows[i])], one, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain, view.logits(torch.tensor([[7, 8, 9] * 4]))) and condition(tiny) == before


def test_replies_with_kept_keys_are_those_of_whole_passes(tiny):
    view = ModelView(tiny)
    prompts = [prompt_ids(tiny.tokenizer, case.prompt) for case in CASES]
    untuned = view.generate(prompts, 4)
    with edited(tiny, {"L0.H1.z.reply": 3 * HEAD, "L2.out.reply": VECTOR}):
        new = view.generate(prompts, 4)
        for prompt, said in zip(prompts, new.tolist(), strict=True):
            row = list(prompt)
            for token in said:
                assert int(view.logits(torch.tensor([row]))[0, -1].argmax()) == token
                row.append(token)
    assert not torch.equal(new, untuned)


def test_an_adapter_of_edits_is_saved_applied_and_reverted_like_one_of_weights(tiny, tokens, tmp_path):
    view, before = ModelView(tiny), condition(tiny)
    after = {"L1.H2.z.reply": HEAD, "L2.out": VECTOR}
    zeros = {name: torch.zeros_like(value) for name, value in after.items()}
    adapter = Adapter(zeros, after, HeadSet(), "", view.fingerprint(), {"free": "note"})
    untouched = view.logits(tokens)
    loaded = Adapter.load(adapter.save(tmp_path))
    assert loaded.edits and loaded.meta == adapter.meta and "edits" in repr(loaded)
    with loaded.applied(tiny):
        changed = view.logits(tokens)
        with loaded.reverted(tiny):
            assert torch.equal(view.logits(tokens), untouched)
        assert torch.equal(view.logits(tokens), changed) and not torch.allclose(changed, untouched, atol=1e-3)
    loaded.apply(tiny)
    loaded.apply(tiny)  # they are there already: not twice
    assert torch.equal(view.logits(tokens), changed)
    EditSlice.of_name(tiny, "L2.out").write(VECTOR / 2)
    with pytest.raises(ValueError, match="another change lies on top"):
        loaded.revert(tiny)
    loaded.revert(tiny, force=True)
    assert torch.equal(view.logits(tokens), untouched) and condition(tiny) == before


def test_whatever_knows_nothing_of_edits_is_refused_or_goes_another_way(tiny, tmp_path):
    view, zeros = ModelView(tiny), {"L2.out": torch.zeros(32)}
    adapter = Adapter(zeros, {"L2.out": VECTOR}, HeadSet(), "", view.fingerprint())
    with adapter.applied(tiny):
        assert unhooked(view) is view
        assert "hooks" in States(tiny).below(1).problem([[1, 2, 3]])
        for refused in (
            lambda: export_hf(tiny, tmp_path / "out"),
            lambda: Pinpoint(HeadSet.parse("L1.H1")).check(tiny),
        ):
            with pytest.raises(ValueError, match="hooks and no weights: undo that first"):
                refused()
    with view.kept():
        EditSlice.of_name(tiny, "L2.out").write(VECTOR)
    assert not has_edits(tiny)  # as all that hangs on a model
    Pinpoint(HeadSet.parse("L1.H1")).tune(tiny, CASES, TuneConfig(steps=1), progress=False).undo(tiny)


def test_an_adapter_of_edits_is_not_written_into_a_checkpoint(tiny_folder, tiny, tmp_path):
    adapter = Adapter({"L2.out": torch.zeros(32)}, {"L2.out": VECTOR}, HeadSet(), "", ModelView(tiny).fingerprint())
    with pytest.raises(ValueError, match="holds edits of activations"):
        export_hf(adapter, tmp_path / "out", base=tiny_folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("L1.H2", "is no edit"), ("L9.out", "no layer 9"), ("L1.H7.z", "no head 7"), ("L1.H2.q", "is no edit")],
)
def test_a_place_that_there_is_not_is_named(tiny, name, says):
    with pytest.raises(ValueError, match=says):
        EditSlice.of_name(tiny, name)


def test_where_replies_are_made_must_be_told(tiny, monkeypatch):
    mark = reply_mark(ModelView(tiny))
    assert all(prompt_ids(tiny.tokenizer, case.prompt)[-len(mark) :] == mark for case in CASES)
    bare = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    monkeypatch.setattr(tiny.tokenizer, "chat_template", bare)
    with pytest.raises(ValueError, match="writes nothing between a prompt and its reply"):
        EditSlice.of_name(tiny, "L1.out.reply")
    EditSlice.of_name(tiny, "L1.out")
