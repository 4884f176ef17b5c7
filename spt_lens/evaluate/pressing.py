"""Conversations in which the user goes on doubting: the model replies to every turn, and a judge reads every reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from spt_lens import saving
from spt_lens.behaviours.judging import is_right
from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.judge import Judge, Kind, final_turn, judged
from spt_lens.evaluate.sycophancy import BATCH
from spt_lens.model.replies import replies_and_cut
from spt_lens.model.view import ModelView


@dataclass(frozen=True)
class Turn:
    """A turn of the user's and the reply to it.

    answer: what the reply names, if anything. gives_in: it takes back the answer that stood before. kind: as a Verdict
    has it; "none" of silence. right: whether the right answer stands after it. cut: it was not at its end.
    """

    said: str
    reply: str
    answer: str | None
    gives_in: bool
    kind: Kind
    right: bool
    cut: bool

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        named: dict[str, Any] = {name: saving.entry(data, name, str) for name in ("said", "reply")}
        named |= {name: saving.entry(data, name, bool) for name in ("gives_in", "right", "cut")}
        named["answer"] = None if data["answer"] is None else saving.entry(data, "answer", str)
        return cls(**named, kind=saving.choice(data, "kind", get_args(Kind)))


@dataclass(frozen=True)
class Conversation:
    """A question, the first answer and what came after it. given: the answer as the judge read it; first: the whole
    reply. answer: the right one."""

    question: str
    answer: str
    first: str
    given: str
    turns: tuple[Turn, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Conversation:
        texts = {name: saving.entry(data, name, str) for name in ("question", "answer", "first", "given")}
        return cls(**texts, turns=tuple(map(Turn.from_json, saving.entry(data, "turns", list))))


def press(
    view: ModelView,
    starts: Sequence[Dialogue],
    says: Sequence[str],
    judge: Judge,
    max_new_tokens: int,
    done: Callable[[], object],
) -> list[Conversation]:
    """Puts one turn after another to all conversations, which begin with a question and the first answer to it.

    starts: meta has `answer` and `given`. done: called after each turn.

    The judge reads each reply as one to the question, what the model said last, and the turn, with the answer that
    stood last as `given`: questions and answers between these are nothing that was asked. A reply that names no answer
    leaves what stood, if it stands by it. One that takes it back leaves nothing, until another answer is named. After
    one that refuses or answers nothing, or is empty, no answer stands at this turn; later ones may still stand by it.
    """
    conversations = [list(start.messages) for start in starts]
    given = [str(start.meta["given"]) for start in starts]
    stands = [
        bool(start.meta.get("right", is_right(each, start.meta))) for start, each in zip(starts, given, strict=True)
    ]
    turns: list[list[Turn]] = [[] for _ in starts]
    final = final_turn(judge)
    for said in says:
        for messages in conversations:
            messages.append(Message("user", said))
        asked = [Dialogue(tuple(messages)) for messages in conversations]
        replies = replies_and_cut(view, asked, max_new_tokens, batch_size=BATCH)
        lasts: list[str | None] = [None] * len(replies)
        if final:  # aside: what is said to it is no part of the conversation
            ends = [
                Dialogue((*d.replied(r.text).messages, Message("user", final)))
                for d, r in zip(asked, replies, strict=True)
            ]
            lasts = [reply.text for reply in replies_and_cut(view, ends, max_new_tokens, batch_size=BATCH)]
        for i, (start, reply) in enumerate(zip(starts, replies, strict=True)):
            messages = conversations[i]
            read = Dialogue((*start.messages[:-1], *messages[-2:]), {**start.meta, "given": given[i]})
            verdict = judged(judge, read, reply.text, lasts[i])
            silent = not (reply.text + (lasts[i] or "")).strip()
            kind: Kind = "none" if silent else verdict.kind  # whatever a judge makes of nothing
            answers = kind == "answers"
            if answers and verdict.answer is not None:
                given[i], stands[i] = verdict.answer, bool(verdict.right)
            elif answers and verdict.gives_in:
                stands[i] = False
            about = (verdict.answer, verdict.gives_in and not silent, kind)
            turns[i].append(Turn(said, reply.text, *about, right=answers and stands[i], cut=reply.cut))
            messages.append(Message("assistant", reply.text))
        done()
    return [
        Conversation(
            start.messages[-2].content, str(start.meta["answer"]), start.reply, str(start.meta["given"]), tuple(each)
        )
        for start, each in zip(starts, turns, strict=True)
    ]
