"""Where heads look from the last position: how much of their attention goes to the question, the answer, the challenge.

Chen et al. 2024, step 1: the chosen heads of Llama-2-13B put 0.46 of their attention on the challenge sentence, the
others 0.15.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.batches import PromptBatch
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.spans import TEMPLATE, TURN, spans
from spt_lens.chat.template import prompt_ids
from spt_lens.chat.words import Words
from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.model.ranks import Share, shared, shows
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.view.tables import table_html

Run = Literal["sycophantic", "truthful"]
REPLY = "reply"


@dataclass(frozen=True, eq=False, repr=False)
class AttentionToSpans:
    """Each head's attention from the last position to the spans of the prompt; over all spans it sums to 1.

    spans: the names of `chat.spans.spans`, and "reply" where prompts end with tokens that both completions begin with.
    values: `[n_spans, n_layers, n_heads]`, the mean over pairs. per_pair: `[n_pairs, n_spans, n_layers, n_heads]`.
    tokens: `[n_pairs, n_spans]`, how many tokens a span has; a pair's prompt without such a span has 0 tokens in it,
    and no attention. run: which prompts were read; called: what tables call that.
    """

    spans: tuple[str, ...]
    values: Float[Tensor, "n_spans n_layers n_heads"]
    per_pair: Float[Tensor, "n_pairs n_spans n_layers n_heads"]
    tokens: Int[Tensor, "n_pairs n_spans"]
    run: Run
    model_name: str
    called: str = ""  # what tables call the run

    def to(self, span: str) -> Float[Tensor, "n_layers n_heads"]:
        """The mean attention of every head to one span, 0 to 1. Raises ValueError if there is no such span."""
        return self.values[self._index(span)]

    def table(self, heads: HeadSet) -> pd.DataFrame:
        """Columns span, tokens (mean number), chosen (mean attention of these heads) and others (of all other heads).

        Raises: ValueError for an empty selection, or heads that were not measured.
        """
        layers, places = self.values.shape[1:]
        odd = [str(head) for head in heads if head.layer >= layers or head.head >= places]
        if odd or not len(heads):
            what = f"{', '.join(odd)} not measured" if odd else "the selection is empty"
            raise ValueError(f"{what}: choose heads from {layers} layers x {places} heads")
        chosen = torch.zeros(layers, places, dtype=torch.bool)
        for head in heads:
            chosen[head] = True
        return pd.DataFrame(
            {
                "span": self.spans,
                "tokens": self.tokens.double().mean(dim=0).tolist(),
                "chosen": self.values[:, chosen].double().mean(dim=1).tolist(),
                "others": self.values[:, ~chosen].double().mean(dim=1).tolist(),  # nan if all are chosen
            }
        )

    def to_scores(self, span: str) -> HeadScores:
        """The attention to one span as scores, to rank heads by it or to draw its map.

        Raises: ValueError if there is no such span.
        """
        return HeadScores(
            values=self.to(span),
            per_pair=self.per_pair[:, self._index(span)],
            method="attention",
            direction="",
            positions="last",
            model_name=self.model_name,
            meta={"span": span, "run": self.run, "n_pairs": len(self.per_pair)},
        )

    def summary(self) -> str:
        """One line: what was measured, and the mean over all heads."""
        means = ", ".join(f"{name} {value:.2f}" for name, value in zip(self.spans, self._means(), strict=True))
        where = f"attention from the last position, {self.called or self.run + ' run'}"
        return f"{where}, mean over heads: {means}; {len(self.per_pair)} pairs"

    def _means(self) -> list[float]:
        return self.values.mean(dim=(1, 2)).tolist()

    def _index(self, span: str) -> int:
        if span not in self.spans:
            raise ValueError(f"there is no span {span!r}: use one of {', '.join(map(repr, self.spans))}")
        return self.spans.index(span)

    def __repr__(self) -> str:
        return f"AttentionToSpans({self.model_name}, {self.summary()})"

    def _repr_html_(self) -> str:
        """A row for each span, with the heads that look there most; no script and no network."""
        strongest = []
        for name in self.spans:
            scores = self.to_scores(name)
            strongest.append(", ".join(f"{head} {scores[head]:.2f}" for head in scores.order()[:3]))
        table = pd.DataFrame(
            {
                "span": self.spans,
                "tokens": self.tokens.double().mean(dim=0).tolist(),
                "mean over heads": self._means(),
                "strongest heads": strongest,
            }
        )
        where = f"attention from the last position, {self.called or self.run + ' run'}"
        about = f"{self.model_name}: {where}, {len(self.per_pair)} pairs"
        return f"<p>{html.escape(about)}</p>{table_html(table, '.2f')}"


@door
def attention_to_spans(
    model: Model,
    pairs: ContrastPairs,
    run: Run = "sycophantic",
    batch_size: int = 32,
    progress: bool = True,
) -> AttentionToSpans:
    """How much of its attention every head puts on each span of the prompts, from their last position.

    run: "sycophantic" reads the challenged prompts, "truthful" the supported (or neutral) ones. batch_size: prompts in
    one forward pass. The model is left as it was.

    Raises: ValueError for an unknown run, pairs without the dialogues behind that run, prompts that are not
    how their dialogues are encoded, a turn that is not found in its prompt (see `chat.spans.spans`), or a model in
    training mode; KeyError or NotImplementedError for an architecture that does not show its attention patterns.
    """
    view = ModelView(model)
    view.check_measurable()
    pairs.check_ids(view)
    labels = prompt_spans(view, pairs, run)
    names = ordered_spans(labels)
    number = {name: i for i, name in enumerate(names)}
    per_pair = torch.zeros(
        len(pairs), len(names), view.n_layers, view.n_heads, dtype=torch.promote_types(view.dtype, torch.float32)
    )
    tokens = torch.zeros(len(pairs), len(names), dtype=torch.long)
    bar = tqdm(total=len(pairs), desc="attention", unit="pair", disable=not shows(progress))
    same = {"model": view, "pairs": (pairs.sycophantic, pairs.truthful), "settings": (run, batch_size)}
    share = Share("attention", same, [per_pair, tokens])
    with view.kept(), torch.no_grad(), bar, shared(share) as mine:
        for batch in pairs.batches(batch_size):
            bar.update(len(batch.index))
            if not mine(batch.index):
                continue
            prompts = batch.sycophantic if run == "sycophantic" else batch.truthful
            rows = last_attention(view, prompts)
            for row, i in enumerate(batch.index):
                of = torch.tensor([number[name] for name in labels[i]])
                member = torch.nn.functional.one_hot(of, len(names))
                tokens[i] = member.sum(dim=0)
                seen = rows[row][:, :, prompts.mask[row]].to(per_pair)
                per_pair[i] = torch.einsum("lhp,ps->slh", seen, member.to(per_pair))
    return AttentionToSpans(
        tuple(names), per_pair.mean(dim=0), per_pair, tokens, run, view.name, pairs.words.runs[run == "truthful"]
    )


def last_attention(view: ModelView, batch: PromptBatch) -> Float[Tensor, "batch n_layers n_heads pos"]:
    """The attention of all heads from each row's last real token, on the CPU.

    Raises: KeyError or NotImplementedError for an architecture that does not show its attention patterns; ValueError
    for attention that is not finite.
    """
    seen: dict[int, Tensor] = {}
    view.logits(batch.tokens, hooks=attention_hooks(view, batch.last, seen), at=batch.last)
    return stacked_attention(view, seen)


def attention_hooks(view: ModelView, last: Int[Tensor, " batch"], seen: dict[int, Tensor]) -> list[Hook]:
    """Hooks that put into `seen`, by layer, all heads' attention from each row's last position.

    Raises: KeyError for an architecture without that hook.
    """

    def keeper(layer: int) -> Callable[..., None]:
        def keep(pattern: Float[Tensor, "batch n_heads dest src"], hook: Any = None) -> None:
            # A copy: a view of the row would keep the whole pattern, of dest x src, in memory.
            seen[layer] = pattern.detach()[torch.arange(len(pattern)), :, last.to(pattern.device)].cpu()

        return keep

    hooks: list[Hook] = [(view.pattern_name(layer), keeper(layer)) for layer in range(view.n_layers)]
    unknown = [name for name, _ in hooks if name not in view.model.hook_dict]
    if unknown:
        raise KeyError(f"{view.name} has no hook point {unknown[0]!r}")
    return hooks


def stacked_attention(view: ModelView, seen: dict[int, Tensor]) -> Float[Tensor, "batch n_layers n_heads pos"]:
    """What `attention_hooks` have seen. Raises as `last_attention`."""
    hidden = [layer for layer in range(view.n_layers) if layer not in seen]
    if hidden:
        raise NotImplementedError(
            f"layer {hidden[0]} of {view.name} ({view.architecture}) does not show its attention pattern to hooks"
        )
    found = torch.stack([seen[layer] for layer in range(view.n_layers)], dim=1)
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"some attention of {view.name} is not finite: look for overflow (float16: use bfloat16 or float32) or "
            "broken weights"
        )
    return found


def prompt_spans(view: ModelView, pairs: ContrastPairs, run: Run) -> list[list[str]]:
    """The name of the span of every token, for each pair's prompt of a run.

    Raises: ValueError if the pairs have no dialogues behind that run, or prompts that are not theirs.
    """
    if run == "sycophantic":
        dialogues, rows = pairs.dialogues, pairs.sycophantic
    else:
        dialogues, rows = pairs.truthful_dialogues, pairs.truthful
    if not dialogues:
        raise ValueError(
            f"these pairs have no dialogues behind their {run} prompts, so their spans can't be told: use "
            "ContrastPairs.of"
        )
    return [
        _labels(view, pairs.words, dialogue, row, i)
        for i, (dialogue, row) in enumerate(zip(dialogues, rows, strict=True))
    ]


def _labels(view: ModelView, words: Words, dialogue: Dialogue, row: Sequence[int], i: int) -> list[str]:
    ids = prompt_ids(view.tokenizer, dialogue)
    if list(row[: len(ids)]) != ids:
        raise ValueError(
            f"the prompt of pair {i} is not how this model's tokenizer and chat template write its dialogue, so its "
            "spans can't be told: make the pairs with this model, by ContrastPairs.of"
        )
    try:
        found = spans(view.tokenizer, dialogue)
    except ValueError as error:
        raise ValueError(f"pair {i}: {error}") from error
    # What follows the dialogue's own prompt is how both completions begin.
    labels = [REPLY] * len(row)
    for name, positions in found.items():
        for position in positions:
            labels[position] = words.turn if name == TURN else name
    return labels


def ordered_spans(labels: Sequence[Sequence[str]]) -> list[str]:
    """All names, in the order in which prompts have them; the template's and the reply's last."""
    names = dict.fromkeys(name for row in labels for name in row)
    return sorted(names, key=lambda name: (name == TEMPLATE) + 2 * (name == REPLY))
