"""General ability: the share of dialogues whose one right reply the model gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from spt_lens.data.dialogues import Dialogue
from spt_lens.data.encode import training_ids
from spt_lens.evaluate.statistics import Estimate, mean_of_shares, share
from spt_lens.models import Model, ModelView
from spt_lens.tune.batches import Examples
from spt_lens.tune.logits import logits_at
from spt_lens.tune.trainer import unembedding


@torch.no_grad()
def gives_reply(model: Model, dialogues: Sequence[Dialogue], batch_size: int = 64) -> list[bool]:
    """Whether greedy decoding gives exactly the last reply of each dialogue, end token included.

    Without generating: greedy decoding gives a reply just when each of its tokens is the likeliest after the ones
    before it, and one forward pass over the whole dialogue shows that.

    Raises:
        ValueError: no dialogues, or one that does not end in the assistant's reply.
    """
    view = ModelView(model)
    examples = Examples([training_ids(view.tokenizer, dialogue) for dialogue in dialogues], view.device)
    unembed = unembedding(view)
    given = [False] * len(examples)
    for rows, batch in examples.in_order_of_length(batch_size):
        hit = torch.ones_like(batch.where)
        hit[batch.where] = logits_at(view.logits, unembed, batch.tokens, batch.where).argmax(-1) == batch.labels
        for row, whole in zip(rows.tolist(), hit.all(dim=1).tolist(), strict=True):
            given[row] = whole
    return given


def ability(model: Model, abilities: Mapping[str, Sequence[Dialogue]]) -> dict[str, Estimate]:
    """Each ability's share of right replies, as "ability: NAME", and "ability", the mean over the abilities."""
    if not abilities:
        return {}
    # All in one go: batches of equal length are fuller that way.
    hits = iter(gives_reply(model, [d for dialogues in abilities.values() for d in dialogues]))
    found = {name: share([next(hits) for _ in dialogues]) for name, dialogues in abilities.items()}
    return {"ability": mean_of_shares(list(found.values())), **{f"ability: {k}": v for k, v in found.items()}}
