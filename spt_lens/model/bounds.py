"""What a model can be given: ids that it has, no more tokens than it was made for, no autocast; and heads of one size.

Beyond these, torch and transformers go on without a word, or end in an error of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from spt_lens.chat.batches import token_ids
from spt_lens.model import hooked
from spt_lens.model.layout import Shape
from spt_lens.model.ranks import warn_caller

_AUTOCAST = ("cpu", "cuda", "mps")


def check_exact() -> None:
    """Raises ValueError under torch.autocast, which rounds in some places whatever a model computes."""
    if any(map(torch.is_autocast_enabled, _AUTOCAST)):
        raise ValueError(
            "torch.autocast is on, which would round what the model computes: leave its block, or load the model in "
            "the dtype that you want, such as load_model(..., dtype=torch.bfloat16)"
        )


def check_length(model: Any, architecture: str, config: Any, length: int, new: int = 0) -> None:
    """Raises ValueError for more tokens, with `new` after these, than the model has positions for.

    Rotary positions go on, so that there is a warning; but where their frequencies depend on the longest prompt that
    was run, also before, it is an error. config: Hugging Face's, if there is one.
    """
    cfg, rope = model.cfg, _rope(config)
    bound, why = max(cfg.n_ctx, _stretched(config)), ""
    learned = cfg.positional_embedding_type == "standard" or hooked.is_hooked(model)
    if not learned and rope:
        why = f", and beyond them its {rope['rope_type']} RoPE turns all by the longest prompt that was run"
        bound = rope.get("original_max_position_embeddings") or bound
    if length + new <= bound:
        return
    if not learned and not why:
        if cfg.positional_embedding_type == "rotary":
            warn_caller(
                f"this {architecture} was made for {bound} tokens, and what it computes for more is not to be relied "
                "on: leave such prompts out, or ask for shorter replies"
            )
        return
    why = f"this {architecture} has {bound} positions{why}"
    if length <= bound:
        raise ValueError(f"a prompt of {length} tokens leaves no room for {new} more: {why}. Ask for fewer")
    raise ValueError(f"a prompt of {length} tokens is too long: {why}. Leave such prompts out")


def check_vocabulary(highest: float, size: int, name: str) -> None:
    """Raises ValueError if that token id is outside of the vocabulary of the model `name`, TypeError if it is none."""
    if isinstance(highest, float | bool):
        raise TypeError(f"tokens hold {highest}, which is no token id: give a tensor of whole numbers, tokens.long()")
    if highest >= size:
        raise ValueError(
            f"the token id {highest} is outside of the vocabulary of {name}, which ends at {size - 1}: its tokenizer "
            "has more tokens than the model, so load the one that belongs to the checkpoint"
        )


def check_heads(model: Any, shape: Shape, architecture: str) -> None:
    """Raises NotImplementedError where heads of one layer are larger than another's, as the output projections tell."""
    outputs = [getattr(getattr(block.attn, "o", None), "weight", None) for block in model.blocks]
    sizes = {weight.numel() // shape.d_model // shape.n_heads for weight in outputs if weight is not None}
    if len(sizes) > 1:
        raise NotImplementedError(
            f"heads of this {architecture} are of unequal size ({', '.join(map(str, sorted(sizes)))} numbers), so they "
            "can't be measured side by side: it can be asked and evaluated, no more"
        )


def whole_rows(rows: Iterable[Any]) -> list[list[int]]:
    """Rows of token ids, each of one or more. Raises: ValueError for none, or an empty one; as `token_ids`."""
    found = [list(token_ids(row, f"prompt {i}")) for i, row in enumerate(rows)]
    if not found or not all(found):
        raise ValueError("prompts must be [batch, pos] and not empty: give one token or more in each row")
    return found


def _stretched(config: Any) -> int:
    """How many tokens a config's RoPE was stretched to, whatever `max_position_embeddings` says; 0 where it was not."""
    found = getattr(config, "rope_parameters", None) or {}
    if found.get("rope_type") not in ("linear", "yarn"):
        return 0
    before = found.get("original_max_position_embeddings") or config.max_position_embeddings
    return int(before * found.get("factor", 1.0))


def _rope(config: Any) -> dict[str, Any]:
    """The RoPE of a config whose frequencies depend on how long a prompt is, in some layers; empty for any other."""
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [found, *(each for each in found.values() if isinstance(each, dict))]
    return next((each for each in kinds if each.get("rope_type") in ("dynamic", "longrope")), {})
