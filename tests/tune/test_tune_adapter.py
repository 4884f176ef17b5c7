from __future__ import annotations

import json

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import Slice, head_slices

HEADS = HeadSet.parse("L2.H3 L0.H1")


def copies(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in ModelView(model).weights().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def adapter(tiny) -> Adapter:
    """One that adds noise to the heads of `tiny`, which stays untuned."""
    slices = head_slices(tiny, HEADS)
    before = {s.name: s.read() for s in slices}
    generator = torch.Generator().manual_seed(0)
    after = {name: value + torch.randn(value.shape, generator=generator) for name, value in before.items()}
    return Adapter(before, after, HEADS, "qkvo", ModelView(tiny).fingerprint(), {"note": "noise"})


def test_apply_and_revert_are_exact_and_may_be_repeated(tiny, adapter):
    untuned = copies(tiny)
    adapter.apply(tiny)
    tuned = copies(tiny)
    assert not same(untuned, tuned)
    adapter.apply(tiny)
    assert same(copies(tiny), tuned)
    adapter.revert(tiny)
    assert same(copies(tiny), untuned)
    adapter.revert(tiny)
    assert same(copies(tiny), untuned)


def test_reverted_is_untuned_inside_and_as_found_outside(tiny, adapter):
    untuned = copies(tiny)
    with adapter.reverted(tiny):
        assert same(copies(tiny), untuned)
    assert same(copies(tiny), untuned)
    adapter.apply(tiny)
    tuned = copies(tiny)
    with pytest.raises(KeyboardInterrupt), adapter.reverted(tiny):
        assert same(copies(tiny), untuned)
        raise KeyboardInterrupt
    assert same(copies(tiny), tuned)


@pytest.mark.parametrize("action", ["apply", "revert"])
def test_an_interrupt_leaves_no_half_of_it(tiny, adapter, action, monkeypatch):
    if action == "revert":
        adapter.apply(tiny)
    before, write, written = copies(tiny), Slice.write, []

    def interrupted_write(piece, value):
        write(piece, value)
        written.append(piece)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Slice, "write", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        getattr(adapter, action)(tiny)
    assert same(copies(tiny), before)


def test_saving_and_loading_keeps_every_bit(tmp_path, tiny, adapter):
    adapter.save(tmp_path / "a" / "b")
    read = Adapter.load(tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert all(torch.equal(read.after[n], adapter.after[n]) for n in adapter.after)
    assert all(torch.equal(read.before[n], adapter.before[n]) for n in adapter.before)
    assert (read.heads, read.projections, read.fingerprint, read.meta) == (
        HEADS,
        "qkvo",
        adapter.fingerprint,
        adapter.meta,
    )
    read.save(tmp_path / "a" / "b")  # over what is there
    adapter.apply(tiny)
    Adapter.load(tmp_path / "a" / "b").revert(tiny)
    assert all(torch.equal(s.read(), adapter.before[s.name]) for s in head_slices(tiny, HEADS))


def test_bfloat16_slices_round_trip(load, tmp_path, tiny_folder):
    model = load(tiny_folder, dtype=torch.bfloat16)
    values = {s.name: s.read() for s in head_slices(model, HEADS)}
    Adapter(values, values, HEADS, "qkvo", ModelView(model).fingerprint()).save(tmp_path)
    read = Adapter.load(tmp_path)
    assert all(read.after[n].dtype == torch.bfloat16 and torch.equal(read.after[n], values[n]) for n in values)


def test_another_model_is_refused_and_unchanged(load, gqa, tiny_folder, adapter):
    before = copies(gqa)
    with pytest.raises(ValueError, match="n_kv_heads is 2, not 4"):
        adapter.apply(gqa, force=True)
    assert same(copies(gqa), before)
    with pytest.raises(ValueError, match="Load the model with dtype=torch.float32"):
        adapter.apply(load(tiny_folder, dtype=torch.bfloat16))


def test_a_model_changed_by_someone_else_is_refused_unless_forced(tiny, adapter):
    piece = head_slices(tiny, HEADS)[0]
    piece.write(piece.read() + 1)
    before = copies(tiny)
    for act in (adapter.apply, adapter.revert):
        with pytest.raises(ValueError, match="force=True"):
            act(tiny)
    with pytest.raises(ValueError, match="force=True"), adapter.reverted(tiny):
        pass
    assert same(copies(tiny), before)
    adapter.revert(tiny, force=True)
    assert torch.equal(piece.read(), adapter.before[piece.name])


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.json"])
def test_damaged_files_are_named(tmp_path, adapter, name):
    adapter.save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=name):
        Adapter.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Adapter.load(tmp_path)


def test_files_of_two_adapters_do_not_mix(tmp_path, adapter):
    adapter.save(tmp_path / "one")
    Adapter(adapter.after, adapter.before, HEADS, "qkvo", adapter.fingerprint).save(tmp_path / "two")
    (tmp_path / "one" / "adapter.safetensors").replace(tmp_path / "two" / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"adapter\.json"):
        Adapter.load(tmp_path / "two")


def test_garbled_descriptions_are_refused(tmp_path, adapter):
    adapter.save(tmp_path)
    path = tmp_path / "adapter.json"
    known = json.loads(path.read_text())
    garbled = [known | {name: 5} for name in ("heads", "projections", "fingerprint", "meta")]
    for wrong in ([], {}, {k: v for k, v in known.items() if k != "heads"}, *garbled):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError):
            Adapter.load(tmp_path)


def test_an_unwritable_folder_is_an_os_error_and_leaves_nothing(tmp_path, adapter):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        adapter.save(tmp_path / "file" / "adapter")
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_it_prints_what_it_is_and_escapes_it(adapter):
    assert "L2.H3 L0.H1" in repr(adapter)
    hostile = Adapter(adapter.before, adapter.after, HEADS, "qkvo", {"architecture": "<script>"})
    assert "<script>" not in hostile._repr_html_()
