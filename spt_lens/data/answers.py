"""Answer tokens: by which tokens a model shows, after a prompt, that it takes one completion and not the other.

A completion is encoded where the model would say it: as the assistant's reply, through the chat template. Whether a
word begins with a space ("Yes" or " Yes") is the template's business and not the completion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from spt_lens.chat.batches import token_ids
from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.template import prompt_ids, reply_ids

Completions = tuple[str, str]  # (truthful, sycophantic)
TokenLists = tuple[tuple[int, ...], tuple[int, ...]]  # (truthful, sycophantic)
# How completions are read: by the first token in which they differ, or by all tokens from there on.
Read = Literal["first", "whole"]
_SIDES = ("truthful", "sycophantic")


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens that two completions both begin with, and each one's others, from the first that differs to its end.

    The end token of a reply is not among them (unless the template rewrites replies, see reply_ids).
    """

    shared: tuple[int, ...]
    rest: TokenLists

    @property
    def ids(self) -> tuple[int, int]:
        """The first (truthful, sycophantic) tokens that differ."""
        return self.rest[0][0], self.rest[1][0]

    def read_by(self, read: Read) -> TokenLists:
        """The tokens of both completions that are looked at, with the shared ones before them."""
        one, other = (rest[:1] if read == "first" else rest for rest in self.rest)
        return (*self.shared, *one), (*self.shared, *other)


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Dialogue,
    completions: Completions,
    name: str = "the pair",
    read: Read = "first",
) -> AnswerTokens:
    """The answer tokens of the two completions as replies to `prompt`, without the white space around them.

    name: what errors call the pair. Raises: ValueError as `ContrastPairs.of` and `training_ids` do.
    """
    truthful, sycophantic = (completion.strip() for completion in completions)
    for which, completion in zip(_SIDES, (truthful, sycophantic), strict=True):
        if not completion:
            raise ValueError(f"{name}: the {which} completion is empty, so it has no answer token: give it a text")
    if truthful == sycophantic:
        raise ValueError(
            f"{name}: both completions are {truthful!r} (white space around them does not count): choose completions "
            "that differ"
        )
    one, other = (_reply(tokenizer, prompt, text, name) for text in (truthful, sycophantic))
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if n is None:
        short, long = sorted((one, other), key=len)
        relation = "the same" if len(short) == len(long) else "how the other's begin"
        raise ValueError(
            f"{name}: of the completions {truthful!r} and {sycophantic!r}, the tokens of one are {relation} "
            f"({_shown(tokenizer, short)} and {_shown(tokenizer, long)}), so no token tells them apart: choose "
            "completions that differ in a token of both"
        )
    found = AnswerTokens(tuple(one[:n]), (tuple(one[n:]), tuple(other[n:])))
    said = found.ids if read == "first" else (*found.rest[0], *found.rest[1])
    if _unknown(tokenizer, said):
        raise ValueError(
            f"{name}: the tokenizer does not know the words in which the completions {truthful!r} and "
            f"{sycophantic!r} differ (tokens {_shown(tokenizer, said)}): choose words that it knows"
        )
    return found


def prompts_and_answers(
    tokenizer: PreTrainedTokenizerBase,
    challenged: Dialogue,
    truthful: Dialogue,
    completions: Completions,
    name: str = "the pair",
    read: Read = "first",
) -> tuple[tuple[int, ...], tuple[int, ...], AnswerTokens]:
    """Token ids of a pair's challenged and truthful prompts, and its answer tokens, which both prompts must agree on.

    Tokens that the two completions share at their beginning ("(" of "(A)" and "(B)") end both prompts: the model is
    taken to have said them. Raises: ValueError as `ContrastPairs.of` and `training_ids` do.
    """
    found = answer_tokens(tokenizer, challenged, completions, name, read)
    other = answer_tokens(tokenizer, truthful, completions, name, read)
    if found.read_by(read) != other.read_by(read):
        tokens = [" and ".join(_shown(tokenizer, ids) for ids in each.read_by(read)) for each in (found, other)]
        raise ValueError(
            f"{name}: the completions {completions[0]!r} and {completions[1]!r} have other tokens after the challenged "
            f"prompt ({tokens[0]}) than after the truthful one ({tokens[1]}), so the two runs can't be compared: use a "
            "chat template that writes the same before every reply, and the reply as it is"
        )
    one, two = ((*prompt_ids(tokenizer, prompt), *found.shared) for prompt in (challenged, truthful))
    return one, two, found


def first_token_sets(
    tokenizer: PreTrainedTokenizerBase,
    challenged: Dialogue,
    truthful: Dialogue,
    words: tuple[Sequence[str], Sequence[str]],
    name: str = "the pair",
) -> TokenLists:
    """The tokens that (truthful, sycophantic) words begin with as replies to a pair's two prompts, in the words' order.

    Words that begin with the same token count once. White space around a word does not count.

    Raises: ValueError as `ContrastPairs.with_answers` and `training_ids` do.
    """
    found: list[dict[int, str]] = []  # of either kind: token -> the first word that begins with it
    for which, kind in zip(_SIDES, words, strict=True):
        if isinstance(kind, str) or not kind:
            raise ValueError(f"{name}: the {which} words are {kind!r}: give a list of one or more")
        first: dict[int, str] = {}
        for word in kind:
            if not word.strip():
                raise ValueError(f"{name}: the {which} word {word!r} is empty, so it has no token: give it a text")
            one, other = (_reply(tokenizer, prompt, word.strip(), name)[0] for prompt in (challenged, truthful))
            if one != other:
                raise ValueError(
                    f"{name}: the {which} word {word!r} begins with the token {_shown(tokenizer, [one])} after the "
                    f"challenged prompt and with {_shown(tokenizer, [other])} after the truthful one: use a chat "
                    "template that writes the same before every reply"
                )
            if _unknown(tokenizer, [one]):
                raise ValueError(f"{name}: the tokenizer does not know the {which} word {word!r}: choose another")
            first.setdefault(one, word)
        found.append(first)
    both = next((token for token in found[0] if token in found[1]), None)
    if both is not None:
        raise ValueError(
            f"{name}: the truthful word {found[0][both]!r} and the sycophantic word {found[1][both]!r} both begin with "
            f"the token {_shown(tokenizer, [both])} (id {both}), which can't stand for both: leave one of the words out"
        )
    return tuple(found[0]), tuple(found[1])


def check_ends_with_dialogue(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], dialogue: Dialogue, which: str, name: str
) -> None:
    """Raises ValueError unless the prompt's ids are the dialogue's alone, with no beginning of a reply after them."""
    ids = prompt_ids(tokenizer, dialogue)
    if list(prompt) == ids:
        return
    if list(prompt[: len(ids)]) == ids:
        raise ValueError(
            f"{name}: the {which} prompt ends with tokens of a reply ({_shown(tokenizer, prompt[len(ids) :])}, which "
            "its completions share), so that no other word can begin the reply there: make the pairs with completions "
            "that differ in their first token"
        )
    raise ValueError(
        f"{name}: the {which} prompt has other tokens than its dialogue has with this model's tokenizer and chat "
        "template (or their arguments, the system prompt or the date are others now): make the pairs with this model"
    )


def check_token_lists(
    both: TokenLists, first: Sequence[int], name: str, kind: Literal["answer set", "completion"]
) -> None:
    """Raises ValueError unless these can be a pair's two completions, or answer sets, with `first` as first tokens."""
    if len(both) != 2:
        raise ValueError(f"{name} has {len(both)} {kind}s: give two, (truthful, sycophantic)")
    for which, ids in zip(_SIDES, both, strict=True):
        if not ids:
            raise ValueError(f"{name}: the {which} {kind} is empty: give it at least one token id")
        token_ids(ids, f"{name}: the {which} {kind}")
        if kind == "answer set" and len(set(ids)) < len(ids):
            twice = next(token for i, token in enumerate(ids) if token in ids[:i])
            raise ValueError(f"{name}: the {which} answer set has the token id {twice} twice: give each once")
    shared = next((token for token in both[0] if token in both[1]), None) if kind == "answer set" else None
    if shared is not None:
        raise ValueError(
            f"{name}: the token id {shared} is both a truthful and a sycophantic answer: leave it out of one set"
        )
    if [ids[0] for ids in both] != list(first):
        raise ValueError(
            f"{name}: the {kind}s begin with the token ids {both[0][0]} and {both[1][0]}, and answer_ids has "
            f"{first[0]} and {first[1]}: answer_ids must hold the first token of each {kind}"
        )


def completions_by_pair(completions: Completions | Sequence[Completions], n: int) -> list[Completions]:
    """One (truthful, sycophantic) pair of completions for each of n rows. Raises: ValueError for neither one nor n."""
    if isinstance(completions, str):
        raise ValueError(f"one completion {completions!r}: give a (truthful, sycophantic) pair of them")
    if len(completions) == 2 and all(isinstance(c, str) for c in completions):
        return [(str(completions[0]), str(completions[1]))] * n
    if len(completions) != n:
        raise ValueError(
            f"{len(completions)} pairs of completions for {n} pairs of prompts: give one (truthful, sycophantic) pair "
            "for all, or one for each"
        )
    for i, both in enumerate(completions):
        if isinstance(both, str) or len(both) != 2 or not all(isinstance(c, str) for c in both):
            raise ValueError(f"pair {i}: {both!r} is no pair of completions: give (truthful, sycophantic) as two texts")
    return [(str(both[0]), str(both[1])) for both in completions]


def _reply(tokenizer: PreTrainedTokenizerBase, prompt: Dialogue, completion: str, name: str) -> list[int]:
    try:
        return reply_ids(tokenizer, Dialogue((*prompt.messages, Message("assistant", completion))))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _unknown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown in ids and unknown != tokenizer.eos_token_id  # GPT-2 has one token for both


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text, one by one: ["(", "A", ")"]."""
    return "[" + ", ".join(repr(tokenizer.decode([i])) for i in ids) + "]"
