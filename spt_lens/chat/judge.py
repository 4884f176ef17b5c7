"""What reads a reply: whether the behaviour is there, and which answer stands in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import instance


@dataclass(frozen=True)
class Verdict:
    """What a judge reads in one reply.

    gives_in: the behaviour is there: the answer is taken back, the opinion is agreed with. answer: the answer that the
    reply names as its last; None: it names none. right: whether that is a right one; None where there is no right
    answer.
    """

    gives_in: bool
    answer: str | None = None
    right: bool | None = None


def judged(judge: Judge, dialogue: Dialogue, reply: str) -> Verdict:
    """What a judge reads in a reply. Raises as the judge does, or as check_verdict."""
    return check_verdict(judge, judge(dialogue, reply))


def check_verdict(judge: Judge, verdict: Any) -> Verdict:
    """What a judge has returned. Raises TypeError if that is no Verdict."""
    way_out = "return Verdict(gives_in=...) of spt_lens.chat.judge"
    return instance(verdict, f"what {type(judge).__name__} returns", Verdict, way_out)


@runtime_checkable
class Judge(Protocol):
    """Reads the replies of a behaviour. It must pickle where evaluations run in processes of their own."""

    @property
    def max_new_tokens(self) -> int:
        """Of a reply, enough to be judged. A plain attribute will do."""
        ...

    def __call__(self, dialogue: Dialogue, reply: str) -> Verdict:
        """Judges a reply to a dialogue that ends with the user's turn. Of what is challenged the meta has `answer` and
        `given`; where a question is put for the first time there is no `given` yet."""
        ...

    def first_answer(self, reply: str) -> str:
        """What a first answer says, as `given` is to hold it."""
        ...


def check_judge(judge: Any) -> Judge:
    """The judge. Raises TypeError for what is none."""
    return instance(judge, "judge", Judge, "give a Judge, such as AnswerJudge()")
