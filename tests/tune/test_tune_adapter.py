from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from spt_lens import saving
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits
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


def test_applied_is_tuned_inside_and_as_found_outside(tiny, adapter, monkeypatch):
    untuned = copies(tiny)
    with adapter.applied(tiny):
        tuned = copies(tiny)
    assert not same(tuned, untuned) and same(copies(tiny), untuned)
    with pytest.raises(KeyboardInterrupt), adapter.applied(tiny):
        raise KeyboardInterrupt
    assert same(copies(tiny), untuned)
    adapter.apply(tiny)
    with adapter.applied(tiny):
        pass
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
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["adapter.safetensors"]
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
    with pytest.raises(ValueError, match="load the model with dtype=torch.float32"):
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


def test_damaged_files_are_named(tmp_path, adapter):
    path = adapter.save(tmp_path) / "adapter.safetensors"
    data = path.read_bytes()
    for length in (0, 8, 200, len(data) - 100):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"adapter\.safetensors holds no saved adapter, or is damaged"):
            Adapter.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no adapter in"):
        Adapter.load(tmp_path)
    for wrong in (None, 3):
        with pytest.raises(TypeError, match="folder must be a str or Path"):
            Adapter.load(wrong)


def test_garbled_descriptions_are_refused(tmp_path, adapter):
    adapter.save(tmp_path)
    tensors, known = saving.load_tensors(tmp_path / "adapter.safetensors", "adapter")
    garbled = [known | {name: 5} for name in ("heads", "projections", "fingerprint", "meta")]
    for wrong in ({}, {k: v for k, v in known.items() if k != "heads"}, known | {"heads": {"heads": [3]}}, *garbled):
        saving.save_tensors(tmp_path / "adapter.safetensors", "adapter", tensors, wrong)
        with pytest.raises(ValueError, match=r"adapter\.safetensors holds no saved adapter"):
            Adapter.load(tmp_path)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_refused(tmp_path, adapter, wrong):
    adapter.after["L2.H3.q"][1, 2] = wrong
    adapter.save(tmp_path)
    with pytest.raises(ValueError, match=r"after\.L2\.H3\.q holds numbers that are not finite"):
        Adapter.load(tmp_path)


def test_one_that_is_not_finite_can_still_be_taken_back(tiny, adapter):
    untuned = copies(tiny)
    adapter.after["L2.H3.q"][1, 2] = torch.nan
    adapter.apply(tiny)
    adapter.revert(tiny)
    assert same(copies(tiny), untuned)


class TestFirstVersion:
    """Of two files: the tensors, and the description with their checksum."""

    @pytest.fixture
    def folder(self, adapter, tmp_path):
        tensors = {f"{side}.{k}": v for side in ("before", "after") for k, v in getattr(adapter, side).items()}
        data = save(tensors)
        known = {
            "format": "spt_lens adapter 1",
            "sha256": hashlib.sha256(data).hexdigest(),
            "heads": HEADS.to_json(),
            "projections": "qkvo",
            "fingerprint": adapter.fingerprint,
            "meta": {"selection": {"name": "mine"}},
        }
        (tmp_path / "adapter.safetensors").write_bytes(data)
        (tmp_path / "adapter.json").write_text(json.dumps(known))
        return tmp_path

    def test_it_loads_and_is_replaced_by_one_file(self, folder, adapter, tiny):
        old = Adapter.load(folder)
        assert old.heads == HEADS and old.heads.about == {"name": "mine"} and old.fingerprint == adapter.fingerprint
        assert all(same_bits(old.after[name], value) for name, value in adapter.after.items())
        old.apply(tiny)
        adapter.save(folder)
        assert [file.name for file in folder.iterdir()] == ["adapter.safetensors"]
        assert Adapter.load(folder).meta == {"note": "noise"}

    def test_a_new_one_counts_beside_a_description_that_was_left(self, folder, adapter):
        description = (folder / "adapter.json").read_bytes()
        adapter.save(folder)
        (folder / "adapter.json").write_bytes(description)  # killed before it was removed
        assert Adapter.load(folder).meta == {"note": "noise"}

    def test_files_that_do_not_belong_together_are_refused(self, folder):
        file, description = folder / "adapter.safetensors", folder / "adapter.json"
        data, text = file.read_bytes(), description.read_text()
        file.write_bytes(data[:-4] + b"abcd")
        with pytest.raises(ValueError, match=r"not what adapter\.json belongs to"):
            Adapter.load(folder)
        file.write_bytes(data)
        for wrong in ("[]", "{}", text[:-30], text.replace("adapter 1", "adapter 7"), "[" * 100_000):
            description.write_text(wrong)
            with pytest.raises(ValueError, match=r"adapter\.json holds no saved adapter"):
                Adapter.load(folder)
        description.unlink()
        with pytest.raises(ValueError, match=r"adapter\.safetensors holds no saved adapter"):
            Adapter.load(folder)


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
