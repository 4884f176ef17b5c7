"""What is measured on one model: each function fills a row of `course.Course`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformer_lens import patching

import spt_lens as spt
from spt_lens.chat.template import prompt_ids
from spt_lens.model.devices import free_bytes
from spt_lens.model.targets import encode_all
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.slices import head_slices
from spt_lens.tune.tuner import Tuner
from tools.made_up import made_up_dialogues, made_up_pairs, made_up_prompts, spread_heads
from tools.peak import Spent, spent, step_ends
from tools.scaling_formulas import Sizes, Trained

from .course import OutOfTime, Row, Skipped, repeated
from .models import Size, load, own_tokenizer, plain_model, save

GIB = 2**30
EPOCH, STEPS = 2, 6  # batches in one epoch, and steps: those after the first epoch count
Head = tuple[int, int]


@dataclass
class Bench:
    """A size on a device, and what its sections hand on. `model` is None until `loading` has made it."""

    size: Size
    device: torch.device
    folder: Path
    tokenizer: Any = field(default_factory=own_tokenizer)
    plain: Any = None
    model: Any = None
    pairs: Any = None
    generated: list[list[int]] = field(default_factory=list)  # transformers' replies
    generate_seconds: float = math.nan
    forward_seconds: float = math.nan

    @property
    def view(self) -> ModelView:
        if self.model is None:
            raise Skipped("there is no model: it could not be loaded")
        return ModelView(self.model)

    @property
    def sizes(self) -> Sizes:
        return Sizes.of_config(self.size.name, self.view.backend.root.config, 2)  # type: ignore[arg-type]

    @property
    def prompts(self) -> list[list[int]]:
        asked = made_up_prompts(self.tokenizer, self.size.prompts, self.size.words // 2, mixed=True)
        return [prompt_ids(self.tokenizer, each) for each in asked]

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, Spent]:
        return repeated(self.device, work, self.size.rounds)

    # Loading.

    def weights(self, row: Row) -> None:
        """The plain model, on the device."""
        with spent(self.device) as took:
            self.plain = plain_model(self.size, self.tokenizer, self.device)
        parameters = list(self.plain.parameters())
        assert all(p.device.type == self.device.type and p.dtype == torch.bfloat16 for p in parameters)
        row |= {"seconds": took.seconds, "parameters": sum(p.numel() for p in parameters)}
        row["gib"] = sum(p.numel() * p.element_size() for p in parameters) / GIB

    def generate(self, row: Row) -> None:
        """Transformers' own replies, before the model is wrapped: a second copy of it is never needed."""
        if self.plain is None:
            raise Skipped("there are no weights")
        rows, pad = self.prompts, self.tokenizer.pad_token_id
        width = max(map(len, rows))
        tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=self.device)
        self.plain.set_attn_implementation("sdpa")
        how = {"max_new_tokens": self.size.new, "do_sample": False}

        def run() -> Any:
            with torch.no_grad():
                return self.plain.generate(tokens, attention_mask=mask, **how)[:, width:]

        run()  # the first call on a device brings its kernels
        new, took = self._timed(run)
        self.generated, self.generate_seconds = new.tolist(), took.seconds
        row |= {"seconds": took.seconds, "tokens_a_second": new.numel() / took.seconds, "peak_gib": took.peak}

    def loading(self, row: Row) -> None:
        """By load_model: its files, its check against plain transformers, its bridge."""
        if self.plain is None:
            raise Skipped("there are no weights")
        on_disk = self.size.on_disk
        with spent() as took:
            save(self.plain, self.tokenizer, self.folder, weights=on_disk)
        row["saving_seconds"] = took.seconds
        weights, self.plain = (None if on_disk else self.plain), None
        with spent(self.device) as took:
            self.model = load(self.folder, self.device, weights=weights)
        row |= {"seconds": took.seconds, "from": "files" if on_disk else "memory", "peak_gib": took.peak}
        assert self.view.device.type == self.device.type and self.view.dtype == torch.bfloat16

    # Measuring.

    def forward(self, row: Row) -> None:
        """The unit: one forward pass of all prompts, unembedded where it is read."""
        size, view = self.size, self.view
        self.pairs = made_up_pairs(self.model, size.pairs, size.tokens, size.suffix)
        tokens = torch.tensor(self.pairs.sycophantic, device=self.device)
        at = torch.full((size.pairs,), size.tokens - 1, device=self.device)

        def run() -> Any:
            with torch.no_grad():
                return view.logits(tokens, at=at)

        run()
        _, took = self._timed(run)
        self.forward_seconds = took.seconds
        done = self.sizes.forward(tokens.numel(), size.tokens, size.pairs)
        row |= {"seconds": took.seconds, "tokens": tokens.numel(), "tokens_a_second": tokens.numel() / took.seconds}
        row |= {"tflops": done / took.seconds / 1e12, "peak_gib": took.peak}

    def _scored(self, row: Row, function: Callable[..., spt.HeadScores], **how: Any) -> spt.HeadScores:
        if self.pairs is None:
            raise Skipped("there are no pairs")
        scores, took = self._timed(lambda: function(self.model, self.pairs, progress=False, **how))
        cost = spt.cost(self.model, self.pairs, scores.method, **how)
        row |= {"seconds": took.seconds, "forward_passes": took.seconds / self.forward_seconds}
        row |= {"counted": cost.forward_passes, "peak_gib": took.peak, "predicted_gib": cost.memory}
        row["engine"] = scores.engine
        if scores.meta["settings"].get("engine_reason"):
            row["engine_reason"] = scores.meta["settings"]["engine_reason"]
        return scores

    def sweep(self, row: Row, positions: Any) -> None:
        """Activation patching of all heads, and TransformerLens's loop over some, scaled to all."""
        scores = self._scored(row, spt.activation_patching, positions=positions)
        heads = some_heads(self.view, self.size.peer_heads)
        peer, seconds = transformer_lens_loop(self.model, self.pairs, positions, heads, self.device)
        scaled = seconds * self.view.n_layers * self.view.n_heads / len(heads)
        found = scores.logit_differences.double().mean(0)
        row |= {"transformer_lens_seconds": scaled, "times_faster": scaled / row["seconds"]}
        row |= difference(found, peer, heads)

    def path(self, row: Row) -> None:
        self._scored(row, spt.path_patching)

    def attribution(self, row: Row) -> None:
        self._scored(row, spt.attribution_patching)

    def replies(self, row: Row) -> None:
        """Against transformers' `generate` on the same prompts, padded on the left."""
        view, rows = self.view, self.prompts
        with spent(self.device) as first:
            view.generate(rows, self.size.new)
        new, took = self._timed(lambda: view.generate(rows, self.size.new))
        row |= {"first_seconds": first.seconds, "seconds": took.seconds, "peak_gib": took.peak}
        row |= {"tokens_a_second": new.numel() / took.seconds, "mixed": view.mixes(rows)}
        if self.generated:
            ends = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
            same = sum(
                _up_to(one, ends) == _up_to(other, ends)
                for one, other in zip(new.tolist(), self.generated, strict=True)
            )
            row |= {"of_generate": self.generate_seconds / took.seconds, "same_replies": same, "prompts": len(rows)}

    def precision(self, row: Row) -> None:
        """Heads ranked in bfloat16 and float32, and in float32 the sweep against TransformerLens's loop."""
        if not self.size.on_disk:
            raise Skipped("only of a model that is on the disk")
        half = spt.activation_patching(self.model, self.pairs, progress=False)
        exact_model = load(self.folder, self.device, torch.float32)
        exact = spt.activation_patching(exact_model, self.pairs, progress=False)
        agreed, halves = half.compare(exact), exact.stability()
        row |= {"spearman": float(agreed.spearman), "overlap": float(agreed.overlap)}
        row |= {"spearman_of_halves": float(halves.spearman), "engine": exact.engine}
        heads = some_heads(self.view, self.size.exact_heads)
        peer, _ = transformer_lens_loop(exact_model, self.pairs, "last", heads, self.device)
        row |= difference(exact.logit_differences.double().mean(0), peer, heads)

    # Tuning.

    def exactness(self, row: Row) -> None:
        """What lies outside of the slices, and all of it after `undo`, bit for bit."""
        view = self.view
        heads = spread_heads(view.n_layers, view.n_heads, view.n_layers // 2)
        weights = view.weights()
        need = sum(p.numel() * p.element_size() for p in weights.values())
        room = "cpu" if free_bytes(self.device) < 1.3 * need else self.device
        before = {name: p.detach().to(room, copy=True) for name, p in weights.items()}
        tuned = self._tuned(Pinpoint(heads), steps=2)
        slices = head_slices(view, heads)
        moved = all(not same_bits(piece.read(), tuned.adapter.before[piece.name]) for piece in slices)
        after = dict(before)
        for name, p in weights.items():
            own = [piece for piece in slices if piece.parameter is p]
            if own:
                after[name] = before[name].clone()
                for piece in own:
                    piece.of(after[name]).copy_(piece.read())
        outside = all(same_bits(after[name], p.detach().to(room)) for name, p in weights.items())
        tuned.undo(self.model)
        undone = all(same_bits(before[name], p.detach().to(room)) for name, p in weights.items())
        row |= {"slices": len(slices), "slices_moved": moved, "outside_untouched": outside, "undone_exactly": undone}

    def tuning(self, row: Row, trained: Trained, share: float = 0) -> None:
        """Seconds a step and peak memory. share: of the layers, those below the lowest chosen head."""
        view, sizes = self.view, self.sizes
        lowest = math.ceil(share * view.n_layers)
        heads = spread_heads(view.n_layers, view.n_heads, lowest)
        tuner: Tuner = {"slices": Pinpoint(heads), "lora": LoRA(16), "full": FullFineTuning()}[trained]
        dialogues = self._dialogues()
        ids, target = encode_all(view, dialogues[:1])[0]  # all are of one length
        width, read = len(ids), sum(target)
        how = {"lowest": lowest, "heads": len(heads)} if trained == "slices" else {}
        need = sizes.tuning(trained, self.size.batch * width, width, self.size.batch * read, **how)
        row["predicted_gib"] = need / GIB
        if need > free_bytes(self.device):
            left = free_bytes(self.device) / GIB
            raise Skipped(f"does not fit: about {need / GIB:.0f} GiB above the weights, of which {left:.0f} are free")
        with spent(self.device) as took, step_ends(self.device) as ends:
            tuned = self._tuned(tuner)
        steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
        row |= {"seconds_a_step": statistics.median(steps[EPOCH:]), "first_step_seconds": steps[0]}
        row |= {"peak_gib": took.peak, "weights": tuned.weights}
        if trained == "slices":
            row |= {"lowest_layer": lowest, "way": tuned.way}
        tuned.undo(self.model)

    def _dialogues(self) -> list[spt.Dialogue]:
        return made_up_dialogues(self.tokenizer, self.size.batch * EPOCH, self.size.words, self.size.reply)

    def _tuned(self, tuner: Tuner, steps: int = STEPS) -> Any:
        config = spt.TuneConfig(lr=1e-4, steps=steps, batch_size=self.size.batch)
        tuned = tuner.tune(self.model, self._dialogues(), config, progress=False)
        if tuned.interrupted:  # the library took the alarm for the user
            tuned.undo(self.model)
            raise OutOfTime
        return tuned


def some_heads(view: ModelView, count: int) -> list[Head]:
    """Evenly spread, not the same head of every layer."""
    every = [(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    step = max(1, len(every) // count)
    return every[:: step + (step % view.n_heads == 0)][:count]


@torch.no_grad()
def transformer_lens_loop(
    model: Any, pairs: spt.ContrastPairs, positions: str, heads: Sequence[Head], device: torch.device
) -> tuple[list[float], float]:
    """TransformerLens's own sweep over some heads: the mean logit difference with each patched, and its seconds."""
    into, source = (torch.tensor(run, device=device) for run in (pairs.sycophantic, pairs.truthful))
    answers, last = pairs.answer_ids.to(device), into.shape[1] - 1
    _, cache = model.run_with_cache(source, names_filter=lambda name: name.endswith("hook_z"))

    def read(logits: torch.Tensor) -> torch.Tensor:
        chosen = logits[:, -1].float().gather(1, answers)
        return (chosen[:, 0] - chosen[:, 1]).mean()

    if positions == "last":
        rows: Any = [(layer, last, head) for layer, head in heads]
        columns, setter = ["layer", "pos", "head"], patching.layer_pos_head_vector_patch_setter
    else:
        rows, columns, setter = list(heads), ["layer", "head"], patching.layer_head_vector_patch_setter
    index = pd.DataFrame(rows, columns=columns)
    with spent(device) as took:
        found = patching.generic_activation_patch(model, into, cache, read, setter, "z", index_df=index)
    return found.flatten().tolist(), took.seconds


def difference(found: torch.Tensor, peer: Sequence[float], heads: Sequence[Head]) -> Row:
    """How far the sweep's logit differences are from the loop's, and how large they are."""
    off = max(abs(float(found[at]) - value) for at, value in zip(heads, peer, strict=True))
    return {"largest_difference": off, "largest_logit_difference": float(found.abs().max())}


def _up_to(ids: list[int], ends: set[int | None]) -> list[int]:
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
