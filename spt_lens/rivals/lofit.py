"""LoFiT, localized fine-tuning on representations (Yin, Ye and Durrett 2024, arXiv 2406.01563, section 3).

As there, two steps on frozen weights. Selection: a vector of scales for every head, z becomes (1 + a) * z, trained with
an L1 penalty; the k heads with the longest vectors are chosen. Then offsets: an offset for each chosen head, z becomes
z + v, at all positions; the scales are dropped. Both take `TuneConfig.steps` steps. The penalty is in the loss, as in
the authors' code: the sum of all scales' magnitudes, times its weight. It draws small ones toward zero, and sets none
to exactly zero. Otherwise here: both begin at zero, not at small random numbers. With heads given there is no
selection; with scales=True they get scales beside the offsets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import door, instance, number, whole_number
from spt_lens.heads import Head, HeadSet
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.held import unbroken
from spt_lens.model.states import States
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.iti import n_wanted
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.edits import EditSlice, edit_slices
from spt_lens.tune.training import OnStep, fit
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@door
@dataclass(frozen=True)
class LoFiT(Tuner):
    """Trains an offset to the output of each chosen head.

    heads: None: chosen by the norms of their scales. k: how many are then chosen; None: 5 percent of all. scales: the
    chosen heads get scales too. sparsity: the L1 penalty's weight in the selection; their
    scripts have 5e-4 to 1e-3, of the sum too.
    """

    heads: HeadSet | None = None
    k: int | None = None
    scales: bool = False
    sparsity: float = 1e-3
    lr: ClassVar[float] = 1e-2
    lrs: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2)
    method: ClassVar[str] = "LoFiT"

    def __post_init__(self) -> None:
        if self.heads is not None and self.k is not None:
            raise ValueError("k is how many heads LoFiT chooses, and heads are given too: leave one of the two out")
        if self.k is not None:
            whole_number(self.k, "k")
        number(self.sparsity, "sparsity", least=0)

    def __repr__(self) -> str:
        """Results are kept by it. Of the selection it is another than when the penalty was made in another way."""
        if self.heads is None:
            return f"LoFiT(k={self.k}, scales={self.scales}, sparsity={self.sparsity})"
        return f"LoFiT(heads={self.heads!r}, k=None, scales={self.scales}, sparsity={self.sparsity})"

    def check(self, model: Model) -> None:
        super().check(model)
        view = ModelView(model)
        view.check_heads()
        n_wanted(view, self.k)
        if self.heads is not None:
            instance(self.heads, "heads", HeadSet, 'use HeadSet.of("L5.H3") or scores.top(4)').check(view)
        edit_slices(view, [f"{head}.z" for head in self.heads or _every(view)])

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        if self.heads is None:
            raise ValueError("LoFiT has not chosen its heads: give them, LoFiT(heads=...), to train it in another way")
        pieces = edit_slices(view, [f"{head}.z" for head in self.heads])
        offsets = nn.Parameter(torch.zeros(len(pieces), view.d_head, device=view.device))
        scales = nn.Parameter(torch.zeros_like(offsets)) if self.scales else torch.zeros_like(offsets)
        with _trained(view, pieces, scales, offsets):
            parameters = [offsets, scales] if isinstance(scales, nn.Parameter) else [offsets]

            def finish() -> None:
                for piece, scale, offset in zip(pieces, scales, offsets, strict=True):
                    piece.write(torch.stack([scale, offset]))

            more: Any = {"heads": self.heads, "projections": "z", "blocks": list(view.model.blocks), "finish": finish}
            yield Trainable(model_logits(view), parameters, lambda: None, pieces, **more)

    @unbroken()
    @torch.inference_mode(False)
    def tune(
        self,
        model: Model,
        dialogues: Sequence[Dialogue],
        config: TuneConfig | None = None,
        *,
        validation: Sequence[Dialogue] | None = None,
        keep: Sequence[Dialogue] | None = None,
        progress: bool = True,
        states: States | str | Path | bool = True,
        resume: str | Path | None = None,
        on_step: OnStep | None = None,
    ) -> Tuned:
        """Chooses heads, where none are given, and trains their offsets: as `Tuner.tune`.

        A resumed run chooses its heads anew, and the same ones. An interrupt in the selection is passed on.
        """
        more: Any = {"validation": validation, "keep": keep, "progress": progress, "states": states}
        more |= {"resume": resume, "on_step": on_step}
        if self.heads is not None:
            return super().tune(model, dialogues, config, **more)
        self.check(model)
        dialogues = as_dialogues(dialogues)
        as_dialogues(keep or (), "keep")
        config = TuneConfig(lr=self.lr) if config is None else config
        began = time.perf_counter()
        chosen = replace(self, heads=self.choose(ModelView(model), dialogues, config, keep, progress), k=None)
        seconds = time.perf_counter() - began
        tuned = super(LoFiT, chosen).tune(model, dialogues, config, **more)
        return replace(tuned, seconds=tuned.seconds + seconds)

    def choose(
        self,
        view: ModelView,
        dialogues: Sequence[Dialogue],
        config: TuneConfig,
        keep: Sequence[Dialogue] | None = None,
        progress: bool = True,
    ) -> HeadSet:
        """The k heads whose scales grow longest. The model is as it was afterwards.

        Raises ValueError where fewer than k heads have a scale other than zero.
        """
        every = _every(view)
        pieces = edit_slices(view, [f"{head}.z" for head in every])
        texts = [ids for ids, _ in encode_all(view, keep)] if keep else None
        with view.kept():
            scales = nn.Parameter(torch.zeros(len(every), view.d_head, device=view.device))
            with _trained(view, pieces, scales, torch.zeros_like(scales)):
                more: Any = {"keep": texts, "penalty": self.sparsity, "progress": progress}
                plain = replace(config, patience=None)
                fit(model_logits(view), [scales], encode_all(view, dialogues), plain, **more)
        norms = scales.detach().norm(dim=1).cpu()
        k, there = n_wanted(view, self.k), int((norms > 0).sum())
        if there < k:
            raise ValueError(
                f"{there} of {len(every)} heads have a scale other than zero, of which LoFiT is to choose {k}: lower "
                f"sparsity={self.sparsity:g}, raise the learning rate ({config.lr:g}) or the steps, or give heads"
            )
        best = norms.argsort(descending=True, stable=True)[:k].tolist()
        return HeadSet(
            tuple(every[i] for i in best), {"name": "heads by LoFiT", "chosen_by": "the norms of their scales"}
        )


def _every(view: ModelView) -> list[Head]:
    return [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]


@contextmanager
def _trained(
    view: ModelView, pieces: Sequence[Any], scales: Float[Tensor, "head d"], offsets: Float[Tensor, "head d"]
) -> Iterator[None]:
    """In the block, the heads' outputs go through these numbers, and no weight of the model gets a gradient. What it
    hangs up goes with the `kept` block around it."""
    with ExitStack() as stack:
        stack.enter_context(without_patterns(view))
        stack.enter_context(view.kept())
        for weight in view.weights().values():
            weight.requires_grad_(False)
        for i, piece in enumerate(pieces):
            assert isinstance(piece, EditSlice)
            piece.hang(lambda i=i: torch.stack([scales[i], offsets[i]]))  # type: ignore[misc]
        yield
