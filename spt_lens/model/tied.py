"""An embedding and an unembedding that a checkpoint calls one, and stores as two."""

from pathlib import Path
from typing import Any

import torch

from spt_lens.model.ranks import warn_caller


def as_stored(plain: Any, source: str | Path) -> Any:
    """The plain model, with a config that says whether its unembedding is the embedding: some say so, and store two.

    transformers takes both; what is saved with such a config would be read as another model by whoever believes it.
    """
    embed, unembed = plain.get_input_embeddings(), plain.get_output_embeddings()
    if not getattr(plain.config, "tie_word_embeddings", False) or unembed is None or unembed.weight is embed.weight:
        return plain
    waiting = unembed.weight.is_meta or embed.weight.is_meta  # on the disk: each time as another object
    if not waiting and not torch.equal(unembed.weight.cpu(), embed.weight.cpu()):
        plain.config.tie_word_embeddings = False
        warn_caller(
            f"the config.json of {source} says that embedding and unembedding are one (tie_word_embeddings), and its "
            "weights hold two: both are taken as they are, and an export says that they are two"
        )
    return plain
