"""All that this library needs to know of a model: `ModelView`. What differs between model classes is in backends.py."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from spt_lens.checking import whole_number
from spt_lens.model.backends import backend_of
from spt_lens.model.bounds import check_exact, check_heads, check_vocabulary, whole_rows
from spt_lens.model.devices import device_of, devices_of, spread
from spt_lens.model.generation import batches_of, finish, mixes, replying
from spt_lens.model.held import Hold, held, without_gradients
from spt_lens.model.huggingface import name_of
from spt_lens.model.kept import as_before
from spt_lens.model.layout import Pick, Projection
from spt_lens.model.own_hooks import check_unedited, has_hooks

Model = Any  # a TransformerBridge or HookedTransformer: attributes are made at run time
OVER_KEPT = ("hook_pattern", "hook_attn_scores", "hook_rot_k")  # over kept positions too, so a shorter row's padding
Prompts = Int[Tensor, "batch pos"] | Sequence[Sequence[int]]
Hook = tuple[str, Callable[..., Any]]  # a hook point's name, and a function of (activation, hook)


@contextmanager
def input_hook(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """The hook on the module's input in the block, and not after it, wherever an interrupt comes: also as it is set."""
    try:
        module.register_forward_pre_hook(hook)
        yield
    finally:
        for key in [key for key, each in module._forward_pre_hooks.items() if each is hook]:
            del module._forward_pre_hooks[key]


class ModelView:
    """A model seen by this library: sizes, weights, forward passes. Cheap to make; holds no state of its own.

    Raises TypeError unless it is a TransformerBridge or HookedTransformer with attention in every block.
    """

    model: Model

    def __init__(self, model: Model | ModelView) -> None:
        model = model.model if isinstance(model, ModelView) else model
        self.backend = backend_of(model)
        self.architecture: str = self.backend.architecture
        blocks = getattr(model, "blocks", None)
        if not blocks or not all(hasattr(block, "attn") for block in blocks):
            raise TypeError(f"{self.architecture} is not supported: not every block has an attention with heads")
        self.model = model
        self.shape = shape = self.backend.shape
        self.n_layers, self.n_heads, self.n_kv_heads = shape.n_layers, shape.n_heads, shape.n_kv_heads
        self.d_head, self.d_model, self.grouped = shape.d_head, shape.d_model, shape.grouped
        self.vocab_size: int = self.backend.vocab_size
        self.name: str = name_of(str(model.cfg.model_name))
        self.tokenizer = model.tokenizer

    @staticmethod
    def z_name(layer: int) -> str:
        """The hook point of a layer's head outputs, `[batch, pos, n_heads, d_head]`."""
        return f"blocks.{layer}.attn.hook_z"

    @staticmethod
    def pattern_name(layer: int) -> str:
        """The hook point of a layer's attention patterns, `[batch, n_heads, pos, pos]`."""
        return f"blocks.{layer}.attn.hook_pattern"

    @property
    def n_params(self) -> int:
        """All parameters of the checkpoint, tied ones once."""
        return self.backend.n_params()

    @property
    def device(self) -> torch.device:
        """Where tokens go and logits come from; of a model spread over devices, the embedding's."""
        return device_of(self.backend.root)

    @property
    def devices(self) -> list[torch.device]:
        """All that the model computes on."""
        return devices_of(self.backend.root)

    @property
    def dtype(self) -> torch.dtype:
        return self.backend.dtype

    def head_weight(self, layer: int, which: Projection, unit: int) -> tuple[nn.Parameter, Pick]:
        """The live parameter that holds a head's slice of W_Q, W_K, W_V or W_O, and a function that picks the slice.

        The function gives a view, of the parameter or of anything of its shape, in Hugging Face's layout:
        `[d_head, d_model]`, for o `[d_model, d_head]`. `unit` is the head, for k and v the group that shares them.

        Raises: IndexError for no such layer or unit; NotImplementedError if it is not known where this architecture's
        heads are.
        """
        units = self.shape.units(which)
        if not 0 <= layer < self.n_layers:
            raise IndexError(f"layer {layer} does not exist: {self.name} has layers 0 to {self.n_layers - 1}")
        if unit not in units:
            raise IndexError(f"{self.name} has no {which} number {unit}: there are {len(units)} in a layer")
        weight, pick = self.backend.head(layer, which, unit)
        if weight.is_meta:
            raise NotImplementedError(
                f"layer {layer} of {self.name} waits on the CPU or the disk, so its weights can be run and exported, "
                "but not tuned: choose heads of other layers, or load with a device_map that has this one on a device"
            )
        return weight, pick

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        hooks: Sequence[Hook] = (),
        at: Int[Tensor, " batch"] | Int[Tensor, "batch reads"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """One forward pass, with gradients as the caller set them. The hooks are gone afterwards, also on an error.

        attention_mask: True on real tokens. With it, padding on either side changes nothing for the real tokens, also
        where positions are counted (GPT-2). Without it every token counts as real. at: one position of each row, or
        as many of each; only these are unembedded, and the result is `[batch, vocab]` or `[batch, reads, vocab]`: all
        positions of a large vocabulary take gigabytes.
        """
        if tokens.device.type == "cpu" and tokens.numel():  # on a GPU it would wait for all that is under way
            check_vocabulary(tokens.max().item(), self.vocab_size, self.name)
        mask = None if attention_mask is None else attention_mask.to(self.device)
        unknown = [name for name, _ in hooks if name not in self.model.hook_dict]
        if unknown:  # TransformerLens 3.9 would leave the hook out without a word
            raise KeyError(f"{self.name} has no hook point {unknown[0]!r}")
        with self.held(), self.model.hooks(fwd_hooks=list(hooks)), self.unembedded_at(at):
            logits = self.backend.forward(tokens.to(self.device), mask)
        return logits[:, 0] if at is not None and at.ndim == 1 else logits

    @contextmanager
    def unembedded_at(self, at: Int[Tensor, " batch"] | Int[Tensor, "batch reads"] | None) -> Iterator[None]:
        """In the block, forward passes give `[batch, reads, vocab]`: logits at these positions of each row alone."""
        if at is None:
            yield
            return

        def only_there(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            places = (at if at.ndim == 2 else at[:, None]).to(args[0].device)
            return (args[0][torch.arange(len(places))[:, None], places], *args[1:])

        with input_hook(self.model.unembed, only_there):
            yield

    @without_gradients
    def cache_z(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "layer batch pos n_heads d_head"]:
        """The outputs of all heads, before W_O, without gradients."""
        seen: list[Tensor] = []  # the layers come in order

        def keep(z: Tensor, hook: Any) -> None:
            seen.append(z.detach().to(self.device))

        hooks = [(self.z_name(layer), keep) for layer in range(self.n_layers)]
        self.logits(tokens, attention_mask, hooks, at=torch.zeros(len(tokens), dtype=torch.long))  # any: not wanted
        return torch.stack(seen)

    @without_gradients
    def generate(self, prompts: Prompts, max_new_tokens: int, hooks: Sequence[Hook] = ()) -> Int[Tensor, "batch new"]:
        """Greedy replies to prompts of any lengths, up to and with the end token; after it, padding.

        The same tokens as for each prompt alone. Keys and values are kept: hooks see whole prompts of one length at a
        time, never padding, and then one new position of all rows at each step; where they read attention over what
        was kept, or the model carries other hooks, or gives other logits on padded prompts (`mixes`), prompts of
        other lengths wait for their own batch. Raises ValueError for no prompt, an empty one, one too long for
        the model's positions with all new tokens but the last, or max_new_tokens below one.
        """
        work = self.replying(prompts, max_new_tokens, hooks)  # looks whether other hooks are on: before ours are
        with self.held(), self.model.hooks(fwd_hooks=list(hooks)):
            width = max(map(len, new := finish(work)))
        return torch.tensor([row + [self.pad_token] * (width - len(row)) for row in new], device=self.device)

    def replying(
        self, prompts: Prompts, max_new_tokens: int, hooks: Sequence[Hook] = (), at_once: int | None = None
    ) -> Generator[None, None, list[list[int]]]:
        """`generate`, a forward pass at each `next`, for which the caller puts the hooks on and turns gradients off.

        at_once: prompts that are read in one pass. It returns the new tokens of each prompt.
        """
        # Our own loop, since the bridge's `generate` takes options from the checkpoint (sampling, penalties).
        rows = self.check_rows(prompts, whole_number(max_new_tokens, "max_new_tokens") - 1)
        mixed = self.mixes(rows, hooks)
        batches = batches_of(rows, bool(hooks) or not mixed, mixed, self.device, at_once)
        return replying(self.step, rows, batches, max_new_tokens, self.end_tokens, self.device)

    def check_rows(self, rows: Prompts, new: int = 0) -> list[list[int]]:
        """Rows of token ids that this model can run, with `new` tokens after them, as lists.

        Raises: ValueError for no row, an empty one, an id that it does not have, or as `bounds.check_length`.
        """
        found = whole_rows(rows)
        check_vocabulary(max(map(max, found)), self.vocab_size, self.name)
        self.backend.check_length(torch.empty(1, max(map(len, found))), new)
        return found

    def step(self, tokens: Tensor, mask: Tensor | None, kept: Any) -> tuple[Tensor, Any]:
        """`generation.Step`, with this model."""
        with self.held(), self.unembedded_at(torch.full((len(tokens),), tokens.shape[1] - 1)):
            logits, kept = self.backend.step(tokens, mask, kept)
        return logits[:, 0], kept

    @without_gradients
    def mixes(self, prompts: Sequence[Sequence[int]], hooks: Sequence[Hook] = ()) -> bool:
        """Whether prompts of these lengths go on in one batch: tried once on the shortest and the longest."""
        short, long = min(prompts, key=len), max(prompts, key=len)
        if len(short) == len(long):
            return True
        if any(name.endswith(OVER_KEPT) for name, _ in hooks) or has_hooks(self.model, self.modules(), False):
            return False
        return mixes(self.model, self.step, short, long, self.device)

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end a reply: the tokenizer's and the generation config's."""
        found = getattr(self.backend.generation_config, "eos_token_id", None)
        ends = set(found if isinstance(found, list) else [found]) | {getattr(self.tokenizer, "eos_token_id", None)}
        return sorted(end for end in ends if end is not None)

    @property
    def pad_token(self) -> int:
        """What fills up a row: the tokenizer's padding token, else its end token, else 0."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        return pad if pad is not None else next(iter(self.end_tokens), 0)

    def check_measurable(self) -> None:
        """Raises ValueError for a model in training mode, since dropout would blur every measurement, or autocast."""
        check_exact()
        if self.backend.may_drop_out and any(module.training for module in self.modules()):
            raise ValueError(f"{self.name} is in training mode: call model.eval() first")

    def check_heads(self) -> None:
        """As `check_measurable`; and NotImplementedError where heads of one layer are larger than another's."""
        self.check_measurable()
        check_heads(self.model, self.shape, self.architecture)

    def check_tunable(self) -> None:
        """Raises ValueError for a training-mode model, or one whose weights are no longer laid out as the checkpoint's;
        NotImplementedError for an architecture whose heads' weights cannot be found."""
        self.check_measurable()
        processed = self.backend.processed()
        if processed:
            raise ValueError(
                f"the weights of {self.name} were processed: {processed}. What is tuned could not be put back into the "
                "checkpoint: load the model again without it, as spt_lens.load_model does (it can still be measured)"
            )
        for layer in range(self.n_layers):
            for which in ("q", "k", "v", "o"):
                self.backend.head(layer, which, 0)

    def held(self, lasting: bool = False) -> AbstractContextManager[Hold]:
        """In the block the model is this thread's, and no interrupt leaves anything half done: `held.held`."""
        return held(self.backend.root, self.name, lasting)

    def kept(self) -> AbstractContextManager[Hold]:
        """Restores, after the block and whatever happens in it: training flags, requires_grad, gradients, hooks.

        Gradients are set aside, so that the block starts with none. Weights are the caller's business. The model is
        `held` in it.
        """
        return as_before(self.model, self.backend.root, self.modules(), self.name)

    def modules(self) -> list[nn.Module]:
        """All modules, of the model class and of the model inside it, once each."""
        # The model that a bridge wraps is not among the bridge's own modules.
        return list({id(m): m for root in (self.model, self.backend.root) for m in root.modules()}.values())

    def weights(self) -> dict[str, nn.Parameter]:
        """The live parameters under the names that the model class gives them, tied ones once."""
        return self.backend.named_parameters()

    def hf_copy(self, base: str | Path | None = None) -> PreTrainedModel:
        """An independent plain transformers model with the same weights, dtype and device, in evaluation mode; of one
        that is spread over devices, on the CPU.

        base: the checkpoint that a HookedTransformer was made of, if load_model did not make it: all but W_Q, W_K, W_V
        and W_O comes from there. Raises: ValueError if that is not known, or the model carries an `Edit`;
        NotImplementedError for an architecture whose weights cannot be named as Hugging Face does.
        """
        check_unedited(self.model)
        plain = self.backend.plain(None if base is None else str(base)).eval()
        return plain.to("cpu" if spread(self.backend.root) else self.device)

    def load_plain(self, plain: PreTrainedModel) -> None:
        """Copies all weights of a plain model like `hf_copy()` into this one. **Changes the model.**"""
        self.backend.load_plain(plain)

    def fingerprint(self) -> dict[str, str | int]:
        """What another model must match for an adapter of this one to fit: architecture and shapes."""
        return self.backend.shape.fingerprint(self.architecture, self.vocab_size)
