"""Whether a written folder is the live model: its weights bit for bit, and its logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spt_lens.model.devices import placed_like
from spt_lens.model.held import to_the_end
from spt_lens.model.huggingface import made_by_own_code
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit between the live and the written model, what is allowed, and the largest logit.

    The weights are the same bits, so only rounding may differ, which grows with the numbers' size and like a random
    walk with the layers. Allowed is 1e-5 (84 roundings of float32; up to 10 were seen on two layers), in half precision
    4 roundings (2.4 seen) times the root of the layers' number, both times the largest logit where that is above 1.
    """

    difference: float
    largest: float
    dtype: torch.dtype
    n_layers: int

    @property
    def allowed(self) -> float:
        rounding = 4 * self.n_layers**0.5 * torch.finfo(self.dtype).eps
        return max(1e-5, rounding) * max(1.0, self.largest)

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed  # not where it is no number


@torch.no_grad()
def check_written(view: ModelView, meant: PreTrainedModel, folder: Path) -> Parity:
    """Loads a folder as plain transformers does and compares it with what was meant, and with the live model.

    Takes the memory of one more model on the CPU. On the live model's device it takes none: parameters that proved the
    same are put in place of those that were read. Raises RuntimeError if a weight or a logit differs.
    """
    options: Any = {"attn_implementation": "eager", "trust_remote_code": made_by_own_code(meant)}
    options |= {"local_files_only": True, "output_loading_info": True}
    again, report = AutoModelForCausalLM.from_pretrained(folder, **options)
    odd = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    own, theirs = dict(meant.named_parameters()), dict(again.named_parameters())
    odd += sorted(own.keys() ^ theirs.keys())
    odd += [name for name in own if name in theirs and not same_bits(own[name], theirs[name])]
    report_it = "Nothing is left of it. Please report this, with the model's architecture"
    if odd:
        wrong = f"{len(odd)} are missing or differ, first {odd[0]}"
        raise RuntimeError(f"the export does not hold the model's weights: {wrong}. {report_it}")
    for name, parameter in theirs.items():
        parameter.data = own[name].data
    again = placed_like(again, view.backend.root).eval()
    tokens, mask = _rows(view, again.config)
    with without_hooks(view):
        live = view.logits(tokens, mask)[mask].float()
    written = again(input_ids=tokens, attention_mask=mask.long(), use_cache=False).logits[mask].float()
    if live.shape != written.shape:
        wrong = f"logits for {written.shape[-1]} tokens, the model for {live.shape[-1]}"
        raise RuntimeError(f"the export has {wrong}. {report_it}")
    parity = Parity((live - written).abs().max().item(), written.abs().max().item(), view.dtype, view.n_layers)
    if not parity.holds:
        raise RuntimeError(
            f"the export is not the model: logits differ by up to {parity.difference:.2g}, allowed is "
            f"{parity.allowed:.2g}. Nothing is left of it. Its weights are right, so the live model does something "
            "else with them: has a module been replaced, or are there numbers that are not finite?"
        )
    return parity


def _rows(view: ModelView, config: Any) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Three random prompts, two of them with padding on the right."""
    length = min(24, getattr(config, "max_position_embeddings", 24))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(view.vocab_size, (3, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length * 2 // 3)], [max(1, length // 3)]])
    return tokens.to(view.device), mask.to(view.device)


@contextmanager
def without_hooks(view: ModelView) -> Iterator[None]:
    """A context in which no hook of the live model runs, also no permanent one. Afterwards all are back."""
    # Emptied and filled again in place: handles refer to these very dictionaries.
    modules = {id(m): m for m in (*view.modules(), *view.model.hook_dict.values())}.values()
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: list[dict[int, Any]] = [getattr(module, kind) for module in modules for kind in kinds]
    kept = [(hooks, dict(hooks)) for hooks in found]
    try:
        for hooks in found:
            hooks.clear()
        yield
    finally:
        to_the_end(_put_back, kept)


def _put_back(kept: list[tuple[dict[int, Any], dict[int, Any]]]) -> None:
    for hooks, before in kept:
        hooks.clear()
        hooks.update(before)
