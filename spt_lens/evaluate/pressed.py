"""How long does an answer stand? The user doubts it turn after turn, and the turn at which it is given up is told."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.behaviour import Behaviour, Split
from spt_lens.behaviours.judging import AnswerJudge, read_first
from spt_lens.behaviours.pressure import INSISTING, texts_of
from spt_lens.chat.dialogues import Dialogue, Message, as_dialogues
from spt_lens.chat.judge import Judge, check_judge, judge_name
from spt_lens.chat.template import prompt_ids
from spt_lens.checking import MANY, door, instance, seed_number, whole_number
from spt_lens.evaluate.pressed_result import Pressed, Which
from spt_lens.evaluate.pressing import press
from spt_lens.evaluate.sycophancy import BATCH, warn_if_cut
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.ranks import shows
from spt_lens.model.replies import replies_and_cut
from spt_lens.model.view import Model, ModelView
from spt_lens.model.vocabulary import check_words

Item = TypeVar("Item")
WORDS = "give says=, what the user says at each turn, in words that it has"
WAY_OUT = "give an AreYouSure(questions), or a list of questions as Dialogues whose meta names the answer"


@door
def pressed(
    model: Model,
    behaviour: Behaviour | Sequence[Dialogue],
    *,
    split: Split | None = "test",
    n: int | None = None,
    which: Which = "right",
    turns: int = 5,
    says: str | Sequence[str] | None = None,
    judge: Judge | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Pressed:
    """Doubts a model's answers turn after turn, and tells at which turn it gives in. The model is left as it was.

    Each conversation begins with a question and the model's own first answer, given anew by this very model and kept
    where it is right; with which="wrong", with a pre-filled wrong answer. Then come the user's turns, the same whatever
    is replied: the model replies to each, greedily, and the judge reads every reply. A reply that refuses or answers
    nothing leaves no answer standing at that turn. As in SYCON-Bench (Hong et al. 2025, arXiv 2505.23840: "Turn of
    Flip", "Number of Flips"), but for questions with known answers and a judge by fixed patterns.

    Args:
        behaviour: an AreYouSure, asked or not: its questions of `split`; after `asked`, those that were answered right
            then. Or questions as Dialogues, ending in the user's turn, with the right `answer` in their meta (and
            `answers`, if more are accepted); with which="wrong", ending in the wrong reply, with `given` too.
        n: draws so many of the questions by `seed`; all, where there are fewer.
        says: what the user says at each turn; a text, or the last of fewer texts than `turns`, is said again. Default:
            the behaviour's own (`insists`), else five turns of growing insistence, `pressure.INSISTING`;
            `pressure.REPEATED` is the same doubt at every turn.
        judge: default: the behaviour's; of dialogues, AnswerJudge.
        max_new_tokens: of every reply; default: the judge's. A reply that was cut stands so in what follows.

    Raises:
        ValueError: no questions; no first answer that is right, or no wrong one to pre-fill; turns below one; a turn of
            which the tokenizer does not have half of the words (of fewer it warns), or a word of `INSISTING`; more
            tokens than the model has positions; a model in training mode or without a chat template.
        TypeError: something else in place of a behaviour, dialogues or a judge.
    """
    view = ModelView(model)
    whole_number(turns, "turns", 1, MANY)
    if n is not None:
        whole_number(n, "n", 1, MANY)
    seed_number(seed)
    if isinstance(behaviour, Behaviour):
        instance(behaviour, "behaviour", AreYouSure, WAY_OUT)
    own = behaviour.judge if isinstance(behaviour, AreYouSure) else AnswerJudge()
    reads = own if judge is None else check_judge(judge)
    length = reads.max_new_tokens if max_new_tokens is None else whole_number(max_new_tokens, "max_new_tokens", 1, MANY)
    insists = getattr(behaviour, "insists", None) if says is None else says
    said, own_words = _turns(insists, turns), insists is not None
    view.check_measurable()
    starts = _starts(behaviour, split, n, which, seed)
    check_words(view, {f"turn {i}": [text] for i, text in enumerate(said, 1)}, WORDS, own=own_words)
    _check_length(view, starts, said, length)
    with tqdm(total=turns + 1, desc="pressed", unit="turn", disable=not shows(progress)) as bar, without_patterns(view):
        asked = starts
        if which == "right":
            starts = _answered(view, starts, reads, length)
        bar.update()
        found = press(view, starts, said, reads, length, bar.update)
    warn_if_cut([turn.cut for each in found for turn in each.turns], "replies", length, "pressed")
    name = f"{behaviour.name} {split or ''}".strip() if isinstance(behaviour, AreYouSure) else "dialogues"
    questions = tuple(text.messages[-1 if which == "right" else -2].content for text in asked)
    how: dict[str, Any] = {"questions": questions, "judge": judge_name(reads), "max_new_tokens": length}
    return Pressed(view.name, name, which, said, tuple(found), len(asked), **how)


def _turns(says: str | Sequence[str] | None, turns: int) -> tuple[str, ...]:
    given = texts_of([says] if isinstance(says, str) else INSISTING if says is None else says, "says")
    return tuple(given[min(i, len(given) - 1)] for i in range(turns))


def _starts(behaviour: Any, split: Split | None, n: int | None, which: Which, seed: int) -> list[Dialogue]:
    """Questions, or with which="wrong" questions and wrong answers, which have `given` in their meta."""
    if not isinstance(behaviour, AreYouSure):
        return _drawn(_checked(behaviour, which), n, seed)
    pool = behaviour.pools(split, (which,)).get(which)
    if not pool:
        raise ValueError(
            f"no question of {behaviour.name!r} in the split {split!r} has a wrong answer to be pre-filled: give some, "
            'Question(text, answers, wrong=...), or use which="right"'
        )
    rng, made = random.Random(f"pressed wrong {seed}"), []
    for question in _drawn(pool, n, seed):
        given = behaviour.wrong_answer(question, rng) if which == "wrong" else behaviour.firsts.right(question)
        whole = behaviour.challenge(question, given, "opposed", "")
        if which == "right":  # its own words come later
            known = {key: value for key, value in whole.meta.items() if key not in ("given", "right")}
            made.append(Dialogue(question.asked, known))
        else:
            made.append(Dialogue(whole.messages[:-1], whole.meta))
    return made


def _drawn(items: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """At most n of the items, in their order."""
    if n is None or n >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(f"pressed {seed}").sample(range(len(items)), n))]


def _checked(dialogues: Any, which: Which) -> tuple[Dialogue, ...]:
    made = as_dialogues(dialogues, "behaviour", least=1)
    ends, needs = (("user",), ("answer",)) if which == "right" else (("user", "assistant"), ("answer", "given"))
    for i, each in enumerate(made):
        if tuple(message.role for message in each.messages[-len(ends) :]) != ends:
            what = "a question" if which == "right" else "a question and a wrong answer to it"
            raise ValueError(f"behaviour[{i}] must end with {what} (which={which!r}): {WAY_OUT}")
        if lacks := [name for name in needs if name not in each.meta]:
            raise ValueError(f"behaviour[{i}] has no {' and no '.join(map(repr, lacks))} in its meta: {WAY_OUT}")
    return made


def _check_length(view: ModelView, starts: Sequence[Dialogue], says: Sequence[str], length: int) -> None:
    """Raises ValueError if the longest conversation may outgrow the model's positions."""
    longest = 0
    for start in starts:
        each = start.unanswered
        for said in says:
            each = Dialogue((*each.replied("A.").messages, Message("user", said)))
        longest = max(longest, len(prompt_ids(view.tokenizer, each)) + len(says) * length)
    with warnings.catch_warnings():  # of positions that go on: whatever becomes so long says so
        warnings.simplefilter("ignore")
        try:
            view.backend.check_length(torch.empty(1, longest), length)
        except ValueError as error:
            raise ValueError(
                f"{len(says)} turns with replies of up to {length} tokens may come to {longest + length} tokens "
                f"({error}): give fewer turns, or a lower max_new_tokens"
            ) from error


def _answered(view: ModelView, starts: Sequence[Dialogue], judge: Judge, length: int) -> list[Dialogue]:
    """The questions whose first answer is right, with that. Raises ValueError if there is none."""
    replies = replies_and_cut(view, starts, length, batch_size=BATCH)
    warn_if_cut([reply.cut for reply in replies], "first answers", length, "pressed")
    made = []
    for start, reply in zip(starts, replies, strict=True):
        given, right, _ = read_first(judge, start, reply.text)
        if right:
            made.append(Dialogue(start.replied(reply.text).messages, {**start.meta, "given": given, "right": True}))
    if not made:
        raise ValueError(
            f"{view.name} has no right first answer to any of the {len(starts)} questions (its first reply: "
            f'{replies[0].text[:60]!r}): give easier ones, accepted answers in its words, or use which="wrong"'
        )
    return made
