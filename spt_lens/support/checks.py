"""Trying out, step by step, what works with a checkpoint, on the checkpoint itself: `check_checkpoint`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from spt_lens.checking import one_of
from spt_lens.heads import Head, HeadSet
from spt_lens.model import hooked
from spt_lens.model.held import by_a_signal, unbroken
from spt_lens.model.huggingface import checked_source, read_config, read_model, read_tokenizer
from spt_lens.model.loading import ModelClass, load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.plain import keeping, patch_heads
from spt_lens.support.probes import ASKED, attention, checksums, moved, two_pairs
from spt_lens.support.report import NOT_TRIED, STEPS, WORKS, Report
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import Slice, head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Tuned

MOST_HEADS = 32  # that the plain loop of hooks measures: all would take long in a large model
SHARES = (0.05, 0.01, 0.002)  # learning rates, as shares of the weights' size


class Failed(Exception):
    """A step that ran, but did not do what it has to."""


@unbroken()
def check_checkpoint(
    path: str | Path,
    model_class: ModelClass = "bridge",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    chat_template: str | Path | None = None,
) -> Report:
    """Tries out all that this library does, on a checkpoint of yours or of anyone, and says what works.

    The steps are those of `report.STEPS`; one that fails does not stop the others. Prompts are "Are you sure?" over a
    few plain questions; with a tokenizer that has no chat template they are random tokens, and nothing can be tuned.
    The checkpoint's files are only read; the export goes into a temporary folder (TMPDIR), which needs as much room as
    the checkpoint. Memory: up to four times the weights. Time: mostly that of patching every head on two pairs, and of
    two forward passes for each head of one layer.

    Args:
        path, model_class, dtype, device, chat_template: as in `load_model`.

    Raises:
        FileNotFoundError, ValueError: As `load_model` does for a folder that is no whole checkpoint.
        NotImplementedError: This TransformerLens has no such model class.
    """
    one_of(model_class, "model_class", get_args(ModelClass))
    if model_class == "hooked":
        hooked.check_available()
    source = checked_source(path)
    how: Any = {"dtype": dtype, "device": device, "model_class": model_class, "chat_template": chat_template}
    trial = _Trial(source, dtype, lambda: load_model(source, **how))
    steps: dict[str, str] = {}
    for name in STEPS:
        if trial.view is None and name != "load":
            steps[name] = NOT_TRIED
            continue
        try:
            getattr(trial, name)()
            steps[name] = WORKS
        except Failed as error:
            steps[name] = str(error)
        except Exception as error:  # whatever it is, it is the answer to what does not work
            if by_a_signal(error):
                raise
            steps[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Report(
        checkpoint=str(path),
        architecture=trial.architecture,
        model_class=model_class,
        dtype=str(dtype).removeprefix("torch."),
        transformer_lens=version("transformer-lens"),
        steps=steps,
    )


class _Trial:
    """A loaded checkpoint and the steps. Each leaves the model as it was, whatever happens in it."""

    def __init__(self, source: str, dtype: torch.dtype, fresh: Callable[[], Model]) -> None:
        self.source, self.dtype, self.fresh = source, dtype, fresh
        # Shares of the largest value: rounding where two implementations add in another order; and in one of them.
        self.tolerance = max(1e-5, 8 * torch.finfo(dtype).eps)
        self.rounding = max(1e-5, 4 * torch.finfo(dtype).eps)
        self.architecture = "unknown"
        self.view: Any = None  # a ModelView, once it is loaded
        self.tuned: Adapter | None = None

    def load(self) -> None:
        self.architecture = (read_config(self.source).architectures or ["unknown"])[0]
        view = ModelView(self.fresh())
        self.pairs = two_pairs(view)  # an error here is one of the forward pass, without which there is nothing to try
        self.view = view
        self._same_logits(self._plain(self.source))

    def measure(self) -> None:
        """With one hook at a time on one prompt at a time, and the values read by a hook as well."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what two pairs of any words rest on is no news
            scores = activation_patching(self.view, self.pairs, progress=False)
        every = [Head(layer, head) for layer in range(self.view.n_layers) for head in range(self.view.n_heads)]
        places = torch.linspace(0, len(every) - 1, min(len(every), MOST_HEADS)).round().long().tolist()
        row, last = torch.tensor([0]), torch.tensor([-1])
        names = [self.view.z_name(layer) for layer in range(self.view.n_layers)]
        runs, gap = [], 0.0
        for i in range(len(self.pairs)):
            sycophantic, truthful = (torch.tensor([rows[i]]) for rows in (self.pairs.sycophantic, self.pairs.truthful))
            z: dict[str, Tensor] = {}
            target = self._answers(i, truthful, keeping(z, names))
            base = self._answers(i, sycophantic, [])
            gap += ((target[0] - target[1]) - (base[0] - base[1])) / len(self.pairs)
            runs.append((i, sycophantic, z, base, max(map(abs, target + base))))
        for i, sycophantic, z, base, size in runs:
            for layer, head in (every[place] for place in places):
                patch = patch_heads(row, last, z[names[layer]][:, -1], [head])
                patched = self._answers(i, sycophantic, [(names[layer], patch)])
                expected = ((patched[0] - patched[1]) - (base[0] - base[1])) / gap
                found = float(scores.per_pair[i, layer, head])
                if not abs(found - expected) <= self.rounding * size / abs(gap):
                    raise Failed(f"L{layer}.H{head}: activation_patching gives {found:.4g}, a hook {expected:.4g}")

    @torch.no_grad()
    def _answers(self, i: int, tokens: Int[Tensor, "1 pos"], hooks: list[tuple[str, Any]]) -> tuple[float, float]:
        """The logits of the pair's two answers, by TransformerLens's own way of running with hooks."""
        tokens = tokens.to(self.view.device)
        logits = self.view.model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=torch.ones_like(tokens))
        one, other = self.pairs.answer_ids[i].tolist()
        return float(logits[0, -1, one]), float(logits[0, -1, other])

    def slices(self) -> None:
        """For every head of one layer."""
        view = self.view
        layer = view.n_layers // 2
        tokens = torch.tensor([self.pairs.sycophantic[0]])
        z, written = attention(view, layer, tokens)
        for which in ("q", "k", "v", "o"):
            for unit in view.shape.units(which):
                part = view.shape.part(layer, which, unit)
                piece = Slice(part.name, *view.head_weight(layer, which, unit))
                owners = view.shape.owners(part)
                with moved(piece) as change:
                    z_now, written_now = attention(view, layer, tokens)
                changed = [head for head in range(view.n_heads) if not torch.equal(z[:, :, head], z_now[:, :, head])]
                if changed != ([] if which == "o" else list(owners)):
                    heads = " ".join(f"L{layer}.H{head}" for head in changed) or "no head"
                    raise Failed(f"changing {piece.name} changes the output of {heads}")
                if which == "o":
                    expected = z[:, :, unit].float() @ change.float().T
                    off = (written_now - written - expected).abs().max()
                    if not off <= self.tolerance * max(written.abs().max(), written_now.abs().max()):
                        raise Failed(f"changing {piece.name} changes what its layer writes by something else")

    def tune(self) -> None:
        """A few steps at a rate that lowers the loss. What is compared is the plain model before and after."""
        self.view.check_tunable()
        dialogues = ASKED.training(n=4)
        pieces = head_slices(self.view, self.heads, "qkvo")
        size = float(torch.cat([piece.read().flatten().float() for piece in pieces]).square().mean().sqrt())
        found = []
        for share in SHARES:
            config = TuneConfig(
                lr=share * size, steps=3, batch_size=4, warmup_share=0, weight_decay=0.1, projections="qkvo"
            )
            run = pinpoint_tune(self.view, self.heads, dialogues, config, progress=False)
            try:
                losses = run.history["loss"].tolist()
                found.append(f"{losses[0]:.4g} to {losses[-1]:.4g} at lr {config.lr:.1g}")
                if losses[-1] < losses[0]:
                    self._only_slices(run)
                    self.tuned = run.adapter
                    return
            finally:
                run.adapter.revert(self.view)
        raise Failed(f"the loss does not fall: {'; '.join(found)}")

    def _only_slices(self, run: Tuned) -> None:
        before = dict(self._plain(self.source).named_parameters())
        after = dict(self.view.hf_copy().named_parameters())
        if before.keys() != after.keys():
            raise Failed(f"the plain copy has other weights: {sorted(before.keys() ^ after.keys())[:3]}")
        layout, shape = self.view.backend.layout, self.view.backend.shape
        free: dict[str, Tensor] = {}
        for layer, which, unit, part in shape.parts(self.heads, "qkvo"):
            name, pick = layout.module(layer, which) + ".weight", layout.pick(shape, which, unit)
            mask = free.setdefault(name, torch.zeros_like(before[name], dtype=torch.bool))
            pick(mask).fill_(True)
            now, was = (pick(w[name]) for w in (after, before))
            if not torch.equal(now, run.adapter.after[part].to(now)):
                raise Failed(f"{part} is not where it was tuned in {name} of the plain copy")
            if torch.equal(now, was):
                raise Failed(f"{part} did not change")
        for name, value in before.items():
            same = value == after[name]
            if not bool((same | free[name] if name in free else same).all()):
                raise Failed(f"{name} changed outside of the slices")

    def adapter(self) -> None:
        """Every weight is compared, by its checksum."""
        before = checksums(self.view)
        with tempfile.TemporaryDirectory() as folder:
            change = Adapter.load(self._change().save(Path(folder) / "adapter"))
        try:
            change.apply(self.view)
            after = checksums(self.view)
            if after == before:
                raise Failed("applying it changes nothing")
            change.revert(self.view)
            if checksums(self.view) != before:
                raise Failed("reverting it does not give the same bits")
            change.apply(self.view)
            if checksums(self.view) != after:
                raise Failed("applying it again does not give the same bits")
            fresh = self.fresh()
            change.apply(fresh)
            if checksums(ModelView(fresh)) != after:
                raise Failed("on a freshly loaded model it does not give the same bits")
        finally:
            change.revert(self.view, force=True)

    @property
    def heads(self) -> HeadSet:
        """Those that are tuned: the first and the last."""
        return HeadSet.of((0, 0), (self.view.n_layers - 1, self.view.n_heads - 1))

    def _change(self) -> Adapter:
        """The tuned adapter; where nothing could be tuned, one that adds noise."""
        if self.tuned is not None:
            return self.tuned
        before, after = {}, {}
        for piece in head_slices(self.view, self.heads, "qkvo"):
            before[piece.name] = piece.read()
            with moved(piece):
                after[piece.name] = piece.read()
        return Adapter(before, after, self.heads, "qkvo", self.view.fingerprint())

    def export(self) -> None:
        """With a change in it: the model is no longer the checkpoint that it was made of."""
        from spt_lens.export.hf import export_hf

        change = self._change()
        change.apply(self.view)
        try:
            with tempfile.TemporaryDirectory() as folder:
                exported = Path(folder) / "exported"
                export_hf(self.view.model, exported, progress=False)
                self._same_logits(self._plain(str(exported)))
                tokenizers = [read_tokenizer(place).get_vocab() for place in (self.source, exported)]
                if tokenizers[0] != tokenizers[1]:
                    raise Failed("the exported tokenizer has another vocabulary")
        finally:
            change.revert(self.view)

    def _plain(self, source: str) -> Any:
        return read_model(source, self.dtype).to(self.view.device).eval()

    @torch.no_grad()
    def _same_logits(self, plain: Any) -> None:
        for row in (self.pairs.sycophantic[0], self.pairs.truthful[-1]):
            tokens = torch.tensor([row], device=self.view.device)
            expected = plain(input_ids=tokens, use_cache=False).logits.float()
            off = (self.view.logits(tokens).float() - expected).abs().max() / expected.abs().max()
            if not off <= self.tolerance:
                raise Failed(f"the logits differ from those of plain transformers by {float(off):.2g} of the largest")
