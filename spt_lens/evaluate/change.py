"""Drift: how far a tuned model's predictions have moved from the untuned model's, on given text and on its own replies.

General ability: the share of dialogues whose one right reply the model gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import ExampleBatch, Examples
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import door
from spt_lens.evaluate.paired import Units
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.generation import finish
from spt_lens.model.held import without_gradients
from spt_lens.model.limits import Limits
from spt_lens.model.ranks import Share, shared
from spt_lens.model.replies import reply_ids_parts, reply_prompts
from spt_lens.model.targets import LogitsAt, encode_all, log_probs_of, model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, mean_of_shares, share
from spt_lens.tune.adapter import Adapter

BATCH = 32
MOST_NUMBERS = 2**27  # in the log-probabilities of a batch: half a gigabyte in float32
OWN_TOKENS = 32  # of each of the model's own replies


@dataclass(frozen=True)
class Text:
    """Token ids, and how many of them are given: predictions count from the last of those on. At least one of each."""

    ids: tuple[int, ...]
    given: int = 1

    @property
    def n(self) -> int:
        """The positions that count."""
        return len(self.ids) - self.given


@door
@dataclass(frozen=True, eq=False)
class Reference:
    """A model's next-token log-probabilities on fixed texts, kept to measure drift from it again and again.

    Takes 4 bytes x positions x vocabulary: 160 texts of 25 tokens and 850 words are 14 MB, 20 replies of 32 tokens and
    49,152 words 126 MB. Where the untuned model is at hand, or an adapter, `drift` keeps nothing.

    texts: what the predictions are on. log_probs: for each text [n, vocab], float32, on the CPU, one row for each
    position that counts. own: the same on the model's own replies, if wanted.
    """

    texts: tuple[Text, ...]
    log_probs: tuple[Float[Tensor, "next vocab"], ...] = field(repr=False)
    own: Reference | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        texts: Sequence[Dialogue],
        prompts: Sequence[Dialogue] = (),
        max_new_tokens: int = OWN_TOKENS,
    ) -> Reference:
        """Keeps the predictions of a model as it is now: on texts, and on its own replies to prompts."""
        own = cls.own_replies(model, prompts, max_new_tokens) if prompts else None
        given = encoded(model, texts) if texts or not prompts else ()
        return cls(given, tuple(next_token_log_probs(model, given)) if given else (), own)

    @classmethod
    def own_replies(cls, model: Model, prompts: Sequence[Dialogue], max_new_tokens: int = OWN_TOKENS) -> Reference:
        """On the model's own greedy replies to prompts, the replies' positions alone. Raises ValueError for none."""
        texts = own_texts(model, prompts, max_new_tokens)
        return cls(texts, tuple(next_token_log_probs(model, texts)))


@door
def encoded(model: Model, texts: Sequence[Dialogue]) -> tuple[Text, ...]:
    """Token ids of whole texts, replies included. Raises: ValueError for no texts, or one that can't be encoded."""
    texts = as_dialogues(texts, "texts")
    if not texts:
        raise ValueError("there are no texts to measure drift on: give the suite some")
    return tuple(Text(tuple(ids)) for ids, _ in encode_all(model, texts))


@door
def own_texts(model: Model, prompts: Sequence[Dialogue], max_new_tokens: int = OWN_TOKENS) -> tuple[Text, ...]:
    """The model's greedy replies to prompts after them, with the end token where one ends. Raises ValueError."""
    if not prompts:
        raise ValueError("there are no prompts for the model's own replies: give the suite some ordinary questions")
    view = ModelView(model)
    rows = reply_prompts(view, prompts, max_new_tokens)
    with without_patterns(view):
        said = finish(reply_ids_parts(view, rows, max_new_tokens, (), Limits(2 * BATCH)))
    return tuple(Text((*row, *ids), len(row)) for row, ids in zip(rows, said, strict=True))


def _batches(view: ModelView, texts: Sequence[Text]) -> Iterator[tuple[list[int], ExampleBatch]]:
    examples = Examples([(list(t.ids), [i >= t.given for i in range(len(t.ids))]) for t in texts], view.device)
    most = MOST_NUMBERS // (max(t.n for t in texts) * view.vocab_size)
    for index, batch in examples.in_order_of_length(max(1, min(BATCH, most))):
        yield index.tolist(), batch


@without_gradients
def next_token_log_probs(model: Model, texts: Sequence[Text]) -> list[Float[Tensor, "next vocab"]]:
    """For each text: the log-probabilities of what follows at each position that counts, [n, vocab], on the CPU."""
    view = ModelView(model)
    found: list[Float[Tensor, "next vocab"]] = [torch.empty(0)] * len(texts)
    with without_patterns(view):
        for index, batch in _batches(view, texts):
            parts = log_probs_of(model_logits(view), batch).cpu().split([texts[i].n for i in index])
            for i, part in zip(index, parts, strict=True):
                found[i] = part.clone()
    return found


@door
def drift(model: Model, texts: Sequence[Dialogue], reference: Model | Adapter | Reference) -> Estimate:
    """Mean next-token KL(reference || model) in nats, over all positions of the texts that have a next token.

    Args:
        reference: the untuned model; or the adapter of a tuned one (it is taken off for a moment and put back); or what
            `Reference.of(untuned, texts)` kept.

    Returns: the mean with a bootstrap interval over the texts; n is the number of texts. Never below zero; nan for a
        model whose predictions are not finite.

    Raises: ValueError for no texts, a reference made on other texts, or an adapter that does not fit the model.
    """
    return moved(model, encoded(model, texts), reference).mean()


@door
def own_drift(
    model: Model,
    prompts: Sequence[Dialogue],
    reference: Model | Adapter | Reference,
    max_new_tokens: int = OWN_TOKENS,
) -> Estimate:
    """`drift` on the untuned model's own greedy replies to prompts, over the replies' positions alone.

    The replies are the reference's: with an adapter, it is off while they are made. Of a `Reference`, its `own`.
    Raises ValueError for no prompts, or a reference without own replies, or with those to other prompts.
    """
    return own_moved(model, prompts, reference, max_new_tokens).mean()


@door
def own_moved(
    model: Model,
    prompts: Sequence[Dialogue],
    reference: Model | Adapter | Reference,
    max_new_tokens: int = OWN_TOKENS,
    logits: LogitsAt | None = None,
) -> Units:
    """`own_drift` text by text. logits: as of `moved`."""
    ModelView(model)  # raises for what is no model
    check_reference(reference)
    if isinstance(reference, Reference):
        kept = reference.own or reference
        asked = [tuple(row) for row in reply_prompts(ModelView(model), prompts, max_new_tokens)]
        if asked != [text.ids[: text.given] for text in kept.texts]:
            raise ValueError(
                "the reference was made without own replies to these prompts: make it with "
                "Reference.of(untuned, suite.texts, suite.prompts)"
            )
        return moved(model, kept.texts, kept, logits)
    with _untuned(model, reference) as untuned:
        texts = own_texts(untuned, prompts, max_new_tokens)
    return moved(model, texts, reference, logits)


def check_reference(reference: Any) -> None:
    """Raises TypeError for what drift can't be measured from."""
    if not isinstance(reference, Adapter | Reference):
        ModelView(reference)


def _untuned(model: Model, reference: Model | Adapter) -> AbstractContextManager[Model]:
    """Gives the untuned model, in the block: the reference, or the model itself without the adapter."""
    return _without(reference, model) if isinstance(reference, Adapter) else nullcontext(reference)


@contextmanager
def _without(adapter: Adapter, model: Model) -> Iterator[Model]:
    with adapter.reverted(model):
        yield model


@without_gradients
def moved(
    model: Model, texts: Sequence[Text], reference: Model | Adapter | Reference, logits: LogitsAt | None = None
) -> Units:
    """Text by text, the KL summed over its positions, and how many they are. Raises ValueError as `drift` does.

    logits: a cheaper way to the model's, such as `States.below(layer).logits`.
    """
    check_reference(reference)
    if isinstance(reference, Reference) and reference.texts != tuple(texts):
        raise ValueError("the reference was made on other texts, or with another tokenizer: make it with Reference.of")
    view = ModelView(model)
    sums = torch.zeros(len(texts), dtype=torch.float64)
    other = nullcontext() if isinstance(reference, Adapter | Reference) else without_patterns(reference)
    share = Share("drift", {"model": view, "texts": tuple(texts)}, [sums])
    with without_patterns(view), other, shared(share) as mine:  # alike: an unchanged model has moved by zero
        for index, batch in _batches(view, texts):
            if not mine(index):
                continue
            if isinstance(reference, Reference):
                before = torch.cat([reference.log_probs[i] for i in index]).to(view.device)
            else:
                with _untuned(model, reference) as untuned:
                    before = log_probs_of(model_logits(untuned), batch).to(view.device)
            now = log_probs_of(logits or model_logits(view), batch)
            kl = (before.exp() * (before - now)).sum(-1).double()
            for i, part in zip(index, kl.split([texts[i].n for i in index]), strict=True):
                # Rounding can take a zero a hair below zero. max(0.0, nan) would be 0: a broken model has no small
                # drift.
                sums[i] = part.sum().clamp(min=0)
    return Units([str(text.ids) for text in texts], sums.tolist(), [text.n for text in texts])


@door
@without_gradients
def gives_reply(
    model: Model, dialogues: Sequence[Dialogue], batch_size: int = BATCH, logits: LogitsAt | None = None
) -> list[bool]:
    """Whether greedy decoding gives exactly the last reply of each dialogue, end token included.

    Without generating: greedy decoding gives a reply just when each of its tokens is the likeliest after the ones
    before it, and one forward pass over the whole dialogue shows that. logits: as of `moved`.

    Raises: ValueError for no dialogues, or one that does not end in the assistant's reply.
    """
    view = ModelView(model)
    dialogues = as_dialogues(dialogues, least=1)
    examples = Examples(encode_all(view, dialogues), view.device)
    logits = logits or model_logits(view)
    given = torch.zeros(len(examples), dtype=torch.bool)
    share = Share("whole replies", {"model": view, "dialogues": [examples.tokens, examples.targets]}, [given])
    with view.held(), shared(share) as mine:
        for rows, batch in examples.in_order_of_length(batch_size):
            if mine(rows.tolist()):
                hit = torch.ones_like(batch.where)
                hit[batch.where] = logits(batch).argmax(-1) == batch.labels
                given[rows] = hit.all(dim=1).to(given.device)
    return given.tolist()


@door
def ability(model: Model, abilities: Mapping[str, Sequence[Dialogue]]) -> dict[str, Estimate]:
    """Each ability's share of right replies, as "ability: NAME", and "ability", the mean over the abilities."""
    return ability_of(ability_units(model, abilities))


def ability_units(
    model: Model, abilities: Mapping[str, Sequence[Dialogue]], logits: LogitsAt | None = None
) -> dict[str, Units]:
    """Which replies are right, by "ability: NAME". logits: as of `moved`."""
    if not abilities:
        return {}
    abilities = {name: as_dialogues(each, f"abilities[{name!r}]", least=1) for name, each in abilities.items()}
    # All in one go: batches are fuller that way.
    hits = iter(gives_reply(model, [d for dialogues in abilities.values() for d in dialogues], logits=logits))
    named = {name: [str(d.chat()) for d in dialogues] for name, dialogues in abilities.items()}
    return {f"ability: {name}": Units.of(names, [next(hits) for _ in names]) for name, names in named.items()}


def ability_of(units: Mapping[str, Units]) -> dict[str, Estimate]:
    """`ability` from its units."""
    found = {name: share([bool(hit) for hit in each.sums]) for name, each in units.items()}
    return {"ability": mean_of_shares(list(found.values())), **found} if found else {}
