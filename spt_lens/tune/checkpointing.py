"""Less memory for a forward pass more: a block keeps its input alone, and runs again in the backward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from spt_lens.model.layout import layout_of
from spt_lens.model.view import ModelView, to_the_end


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """In the block, the modules keep no activations of their own for the backward pass. The same numbers, bit for bit.

    Only in a backward pass does a block run twice, with all that is hooked into it. On leaving, whatever happens, the
    modules are as before.
    """
    found = {id(block): block for block in blocks}.values()  # one that a model runs twice is wrapped once
    before = [(block, "forward" in vars(block), block.forward) for block in found]

    def restore() -> None:
        for block, own, forward in before:
            if own:  # as accelerate and others leave it
                vars(block)["forward"] = forward
            else:
                vars(block).pop("forward", None)

    try:
        for block, _, forward in before:
            # Not by setattr, which TransformerLens's bridge may pass on to the module inside.
            vars(block)["forward"] = partial(checkpoint, forward, use_reentrant=False)
        yield
    finally:
        to_the_end(restore)


def plain_blocks(plain: nn.Module, view: ModelView) -> list[nn.Module]:
    """The decoder blocks of a plain transformers model like the view's, also inside what peft put around it."""
    name = layout_of(view.architecture).block.rpartition(".")[0]
    ends = tuple(name.format(layer) for layer in range(view.n_layers))
    return [module for path, module in plain.named_modules() if path.endswith(ends)]
