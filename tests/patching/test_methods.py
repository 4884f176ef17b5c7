"""A way of scoring of one's own: one class, which every engine runs, and which cost and the null know by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from by_hand import assert_close, assert_same, difference, logits, made, two_layers

from spt_lens.measure.cost import cost
from spt_lens.measure.null import random_pairs_null
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import Activation
from spt_lens.patching.engine import METHODS, scores_by
from spt_lens.patching.readings import Readings
from spt_lens.patching.sweep import Variants, each_part, waves

tiny_folder, model_of, tiny = two_layers()  # which all tests here leave as they were


@dataclass(frozen=True)
class Scaled(Activation):
    """Each head's own output, scaled at the last position."""

    factor: float = 0.5
    name: ClassVar[str] = "scaled"

    def measure(self, readings: Readings) -> None:
        def work(part: list[int], variants: Variants) -> None:
            def hooks_at(layer, new, first):
                def scale(z, hook=None):
                    z = z.clone()
                    each = z.view(len(z), -1, variants.length, *z.shape[2:])
                    for i, head in enumerate(new, start=first):
                        each[variants.row, i, variants.pos, head] *= self.factor
                    return z

                return [(ModelView.z_name(layer), scale)]

            for wave in waves(readings.heads, variants.most):
                readings.patched(part, wave, variants.run(wave, hooks_at))

        each_part(readings, work)


def test_every_engine_runs_a_method_of_ones_own(tiny):
    pairs = made(tiny, [(9, 6), (4, 11), (9, 9)])
    how = ("denoising", "last", "recovery")
    sweep, *others = (
        scores_by(Scaled(2.0), tiny, pairs, *how, engine, size, None, False)
        for engine, size in (("sweep", 2), ("stacked", 12), ("hooks", 3))
    )
    assert sweep.method == "scaled"
    for other in others:
        assert_same(sweep, other)
    view = ModelView(tiny)
    for i, (into, source) in enumerate(zip(pairs.sycophantic, pairs.truthful, strict=True)):
        read, patched = difference(pairs.answer_ids[i].tolist()), torch.zeros(view.n_layers, view.n_heads)
        for layer in range(view.n_layers):
            for head in range(view.n_heads):

                def scale(z, hook, head=head):
                    z = z.clone()
                    z[:, -1, head] *= 2.0
                    return z

                patched[layer, head] = read(logits(tiny, into, [(view.z_name(layer), scale)]))
        assert_close(sweep, i, (read(logits(tiny, into)), read(logits(tiny, source)), patched))


def test_cost_and_the_null_know_it_by_name(tiny, monkeypatch):
    monkeypatch.setitem(METHODS, "scaled", Scaled)
    pairs = made(tiny, [(9, 6), (4, 11), (9, 9)])
    assert cost(tiny, pairs, method="scaled", factor=0.1).engine == "sweep"
    assert random_pairs_null(tiny, pairs, method="scaled", factor=0.1, progress=False).method == "scaled"
    with pytest.raises(ValueError, match="ig_steps does not go with method='scaled', which has factor"):
        cost(tiny, pairs, method="scaled", ig_steps=2)
