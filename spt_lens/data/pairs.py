"""Contrast pairs: the same conversation with a challenge and with support, and the completions that tell them apart."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

import torch
from jaxtyping import Int
from torch import Tensor

from spt_lens.chat.batches import PairBatch, PromptBatch, token_ids
from spt_lens.chat.dialogues import Dialogue, as_dialogues, turns_html
from spt_lens.chat.judge import Judge, check_judge
from spt_lens.chat.words import Words
from spt_lens.checking import door, one_of, whole_number
from spt_lens.data.alignment import Alignment, align, check_alignment
from spt_lens.data.answers import (
    Completions,
    Read,
    TokenLists,
    check_ends_with_dialogue,
    check_token_lists,
    completions_by_pair,
    first_token_sets,
    prompts_and_answers,
)
from spt_lens.data.check import PairsCheck, check_pairs
from spt_lens.data.readout import Sides, find_words
from spt_lens.data.wording import FoundWords, Wording
from spt_lens.model.view import Model, ModelView

_EACH = ("sycophantic", "truthful", "dialogues", "truthful_dialogues", "answer_sets", "completion_ids", "alignment")


@door
@dataclass(frozen=True, eq=False, repr=False)
class ContrastPairs:
    """Token ids of challenged ("sycophantic") and supported or neutral ("truthful") prompts, pair by pair.

    answer_ids holds the first tokens in which each pair's (truthful, sycophantic) completions differ; a prompt may end
    with tokens of the reply that both completions share. The dialogues behind the prompts end with a user turn; their
    meta has right, answer and given. They may be left out where only ids are at hand.

    judge reads whole replies to the prompts; without one only logits can be read. words: what tables and pages call
    the runs and the answers. Every other field has one entry for each pair, or none at all:

    answer_sets: All tokens that count as a truthful answer, and all that count as a sycophantic one. The logit
        difference is then the logsumexp over the first set less that over the second. answer_ids has their first ones.
    completion_ids: The tokens of both whole completions, (truthful, sycophantic), from the first that differs to the
        end. The logit difference is then that of their summed log-probabilities. answer_ids has their first ones.
    alignment: Which positions of the two prompts correspond: (sycophantic, truthful) position, counted from 0, both
        strictly increasing, the last ones aligned to each other.

    Raises: ValueError if there are no pairs, numbers do not match, a prompt, set or completion is empty, an id is
    negative, a pair's answers collide, there are both sets and completions, or an alignment is not as said above.
    """

    sycophantic: tuple[tuple[int, ...], ...]
    truthful: tuple[tuple[int, ...], ...]
    answer_ids: Int[Tensor, "n_pairs 2"]
    dialogues: tuple[Dialogue, ...] = ()
    truthful_dialogues: tuple[Dialogue, ...] = ()
    answer_sets: tuple[TokenLists, ...] = ()
    completion_ids: tuple[TokenLists, ...] = ()
    alignment: tuple[Alignment, ...] = ()
    judge: Judge | None = None
    words: Words = Words()

    def __post_init__(self) -> None:
        for name in ("dialogues", "truthful_dialogues"):
            object.__setattr__(self, name, as_dialogues(getattr(self, name), name))
        if self.judge is not None:
            object.__setattr__(self, "judge", check_judge(self.judge))
        for name in _EACH[:2]:
            rows = (token_ids(row, f"pair {i}: the {name} prompt") for i, row in enumerate(getattr(self, name)))
            object.__setattr__(self, name, tuple(rows))
        n = len(self.sycophantic)
        if n == 0:
            raise ValueError("there are no pairs: a measurement needs at least one")
        if len(self.truthful) != n or self.answer_ids.shape != (n, 2):
            raise ValueError(
                f"{n} sycophantic prompts, {len(self.truthful)} truthful ones and answer ids of shape "
                f"{tuple(self.answer_ids.shape)}: there must be as many of each, and answer ids of shape ({n}, 2)"
            )
        for name in _EACH[2:]:
            if getattr(self, name) and len(getattr(self, name)) != n:
                raise ValueError(f"{len(getattr(self, name))} {name} for {n} pairs: give one for each pair, or none")
        if self.answer_sets and self.completion_ids:
            raise ValueError("there are both answer_sets and completion_ids: answers are read by one of them, give one")
        if self.answer_ids.is_floating_point() or bool((self.answer_ids < 0).any()):
            raise ValueError("answer_ids must be whole numbers of zero or more")
        first = self.answer_ids.tolist()
        for i, (one, other) in enumerate(zip(self.sycophantic, self.truthful, strict=True)):
            if not one or not other:
                raise ValueError(f"pair {i} has an empty prompt")
            if self.answer_sets:
                check_token_lists(self.answer_sets[i], first[i], f"pair {i}", "answer set")
            if self.completion_ids:
                check_token_lists(self.completion_ids[i], first[i], f"pair {i}", "completion")
            if self.alignment:
                check_alignment(self.alignment[i], len(one), len(other), f"pair {i}")
        same = (self.answer_ids[:, 0] == self.answer_ids[:, 1]).nonzero().flatten().tolist()
        if same:
            raise ValueError(
                f"the two completions begin with the same token (id {int(self.answer_ids[same[0], 0])}) in "
                f"{len(same)} of {n} pairs, first in pair {same[0]}: choose completions that differ in their first "
                "token"
            )

    @classmethod
    def of(
        cls,
        model: Model,
        challenged: Sequence[Dialogue],
        truthful: Sequence[Dialogue],
        completions: Completions | Sequence[Completions],
        read: Read = "first",
        judge: Judge | None = None,
        words: Words | None = None,
    ) -> ContrastPairs:
        """Pairs from dialogues that end with a user turn: Dialogues, texts (one user turn each) or chat lists.

        Args:
            completions: The (truthful, sycophantic) replies: one pair of them for all, or one for each pair of prompts.
                The answer tokens are the first in which they differ; those before end both prompts (`answers.py`).
            read: By what a completion is read: "first", the first token that differs, or "whole", all from there to
                its end (`completion_ids`).
            judge: What reads whole replies to these prompts, where they are to be judged.
            words: What tables and pages call the runs and the answers; default: those of "Are you sure?".

        Raises: TypeError for what are no dialogues; ValueError as the class does, for an unknown `read`, if the model
        has no chat template, if two completions can't be told apart by a token (empty, the same, or one the beginning
        of the other), or if what is read of them is not known to the tokenizer or not the same after both prompts.
        """
        one_of(read, "read", get_args(Read))
        tokenizer = ModelView(model).tokenizer
        challenged, truthful = as_dialogues(challenged, "challenged"), as_dialogues(truthful, "truthful")
        if len(challenged) != len(truthful):
            n = f"{len(challenged)} challenged and {len(truthful)} truthful dialogues"
            raise ValueError(f"{n}: give as many of each")
        rows = []
        said = completions_by_pair(completions, len(challenged))
        for i, (one, other, both) in enumerate(zip(challenged, truthful, said, strict=True)):
            rows.append(prompts_and_answers(tokenizer, one, other, both, _name(i, one), read))
        return cls(
            sycophantic=tuple(row[0] for row in rows),
            truthful=tuple(row[1] for row in rows),
            answer_ids=torch.tensor([row[2].ids for row in rows], dtype=torch.long).reshape(-1, 2),
            dialogues=tuple(challenged),
            truthful_dialogues=tuple(truthful),
            completion_ids=tuple(row[2].rest for row in rows) if read == "whole" else (),
            judge=judge,
            words=Words() if words is None else words,
        )

    def with_answers(self, model: Model, truthful: Sequence[str], sycophantic: Sequence[str]) -> ContrastPairs:
        """The same prompts with sets of answers: all tokens that these words begin with, as the first of a reply.

        A word is encoded as a reply to each pair's dialogues; words that begin with the same token count once.

        Raises: ValueError without dialogues, if a prompt does not end where the reply begins (with a beginning that
        completions share) or is not of this model's tokenizer, if there is no word of a kind, one is empty or unknown,
        if a truthful and a sycophantic word begin with the same token, or one word with two, by the prompt.
        """
        if not (self.dialogues and self.truthful_dialogues):
            raise ValueError("there are no dialogues for words to reply to: make the pairs with ContrastPairs.of")
        tokenizer = ModelView(model).tokenizer
        sets = []
        for i, (one, other) in enumerate(zip(self.dialogues, self.truthful_dialogues, strict=True)):
            check_ends_with_dialogue(tokenizer, self.sycophantic[i], one, "sycophantic", _name(i, one))
            check_ends_with_dialogue(tokenizer, self.truthful[i], other, "truthful", _name(i, one))
            sets.append(first_token_sets(tokenizer, one, other, (truthful, sycophantic), _name(i, one)))
        first = torch.tensor([[one[0], other[0]] for one, other in sets], dtype=torch.long)
        return replace(self, answer_ids=first, answer_sets=tuple(sets), completion_ids=())

    def find_words(
        self,
        model: Model,
        n: int | None = None,
        *,
        sides: Sides = "auto",
        max_new_tokens: int | None = None,
        progress: bool = True,
    ) -> FoundWords:
        """Which words tell the two runs apart, in the model's own greedy replies to the first n pairs (24).

        They are found in every other pair, and tried on the rest. Sides (`readout.py`): a word is sycophantic if the
        judge says that replies which begin with it give in ("judge"), or if the sycophantic run says it more ("run");
        "auto" goes by the judge where there is one that finds both kinds of reply. max_new_tokens: the judge's, or 24.

        Raises: ValueError for fewer than four pairs, sides="judge" without a judge, a model in training mode.
        """
        return find_words(model, self, n, sides=sides, max_new_tokens=max_new_tokens, progress=progress)

    def with_words(self, words: FoundWords | Wording) -> ContrastPairs:
        """The same pairs read by words that were found: by the best, or by one of `found.wordings`; whole replies only
        of pairs that were asked. Raises ValueError if no words tell the runs apart."""
        chosen = words.best if isinstance(words, FoundWords) else words
        if chosen is None:
            raise ValueError(str(words))
        return replace(self, **chosen.fields(self))

    def aligned(self) -> ContrastPairs:
        """The same pairs with an alignment of each one's prompts, from their token ids (`alignment.align`)."""
        both = zip(self.sycophantic, self.truthful, strict=True)
        return replace(self, alignment=tuple(align(one, other) for one, other in both))

    def __len__(self) -> int:
        return len(self.sycophantic)

    def __getitem__(self, which: slice) -> ContrastPairs:
        """Some of the pairs, by a slice: `pairs[:16]`."""
        if not isinstance(which, slice):
            raise TypeError(f"pairs are taken by slices, such as pairs[:16], not by {type(which).__name__}")
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return ContrastPairs(
            **{name: each if name in ("judge", "words") else each[which] for name, each in held.items()}
        )

    @property
    def equal_length(self) -> bool:
        """Whether the two prompts of every pair have as many tokens, so that positions can be compared one by one."""
        return all(len(one) == len(other) for one, other in zip(self.sycophantic, self.truthful, strict=True))

    @property
    def alignable(self) -> bool:
        """Whether it is known which positions of a pair's two prompts correspond: equal lengths, or an alignment."""
        return self.equal_length or bool(self.alignment)

    def check_ids(self, model: Model) -> None:
        """Raises ValueError if a token id is outside of the model's vocabulary, and says which."""
        size = ModelView(model).vocab_size
        held = [("sycophantic prompt", self.sycophantic), ("truthful prompt", self.truthful)]
        for k, which in enumerate(("truthful", "sycophantic")):
            held.append((f"{which} answer token", tuple((token,) for token in self.answer_ids[:, k].tolist())))
            held.append((f"{which} answer set", tuple(both[k] for both in self.answer_sets)))
            held.append((f"{which} completion", tuple(both[k] for both in self.completion_ids)))
        for what, rows in held:
            for i, row in enumerate(rows):
                if max(row) >= size:
                    raise ValueError(
                        f"pair {i}: the {what} holds the token id {max(row)}, the model's vocabulary ends at "
                        f"{size - 1}: make the pairs with this model's tokenizer"
                    )

    def check(self, model: Model, n: int = 32, replies: int = 2) -> PairsCheck:
        """What scores of these pairs would rest on: is the behaviour there, and does the model say these words?

        Two forward passes for each of the first n pairs (of whole completions four), and `replies` short replies of
        either run. Every scoring function makes the same check, of all pairs, from what it reads anyway. The check's
        `warnings` say what is wrong, by the limits in `spt_lens.data.check`, and what would be better.

        Raises: ValueError for n below one, replies below zero, ids outside of the vocabulary, logits that are not
        finite, or a model in training mode.
        """
        return check_pairs(model, self, n, replies)

    def batches(self, size: int) -> Iterator[PairBatch]:
        """Batches of at most `size` pairs, each in one of them, shortest first, so that little is padded. Raises
        ValueError if size is below one."""
        whole_number(size, "size")
        order = sorted(range(len(self)), key=lambda i: (len(self.sycophantic[i]), len(self.truthful[i])))
        for start in range(0, len(order), size):
            index = order[start : start + size]
            one, other = (PromptBatch.of([rows[i] for i in index]) for rows in (self.sycophantic, self.truthful))
            yield PairBatch(index, one, other, self.answer_ids[index])

    def __repr__(self) -> str:
        return f"ContrastPairs({len(self)} pairs, {self._kind()})"

    def _kind(self) -> str:
        """How long the prompts are, whether they are aligned, and what the answers are."""
        lengths = "equal lengths" if self.equal_length else "lengths may differ within a pair"
        # Equal lengths need no alignment: that they have none is not worth a word.
        aligned = ", aligned" if self.alignment else "" if self.equal_length else ", not aligned"
        answers = "whole completions" if self.completion_ids else "first tokens"
        if self.answer_sets:
            sizes = [[len(both[k]) for both in self.answer_sets] for k in (0, 1)]
            shown = [str(min(each)) if min(each) == max(each) else f"{min(each)}-{max(each)}" for each in sizes]
            answers = f"sets of {shown[0]} and {shown[1]} tokens"
        return f"{lengths}{aligned}, answers: {answers}"

    def _repr_html_(self) -> str:
        head = f"<p><b>{len(self)} contrast pairs</b>, {self._kind()}</p>"
        if not (self.dialogues and self.truthful_dialogues):
            return head
        rows = "".join(
            f"<tr><td>{turns_html(one)}</td><td>{turns_html(other)}</td></tr>"
            for one, other in zip(self.dialogues[:2], self.truthful_dialogues[:2], strict=True)
        )
        one, other = map(html.escape, self.words.runs)
        return f"{head}<table><tr><th>{one}</th><th>{other}</th></tr>{rows}</table>"


def _name(i: int, dialogue: Dialogue) -> str:
    """What errors call a pair: its number, and its row in a data set."""
    return f"pair {i} ({dialogue.meta['source']})" if "source" in dialogue.meta else f"pair {i}"
