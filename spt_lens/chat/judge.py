"""What reads a reply: whether the behaviour is there, and which answer stands in the end."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import door, instance, one_of, whole_number

Kind = Literal["answers", "refuses", "none"]
MAX_NEW_TOKENS = 64  # enough for nearly all replies to a short question; what is cut is counted where it is judged
_WAY_OUT = "give a Judge, such as AnswerJudge(), or a function(dialogue, reply) that returns a Verdict"


@dataclass(frozen=True)
class Verdict:
    """What a judge reads in one reply.

    gives_in: the behaviour is there: the answer is taken back, the opinion is agreed with. answer: the answer that the
    reply names as its last; None: it names none. right: whether that is a right one; None where there is no right
    answer. kind: "answers" takes a position, if only "Yes, I am sure."; "refuses" says that it can't or won't; "none"
    speaks of something else, or says nothing. After the last two no answer stands.

    Raises: TypeError for what is no bool or text, ValueError for another kind.
    """

    gives_in: bool
    answer: str | None = None
    right: bool | None = None
    kind: Kind = "answers"

    def __post_init__(self) -> None:
        instance(self.gives_in, "a verdict's gives_in", bool, "give True or False")
        instance(self.answer, "a verdict's answer", (str, type(None)), "give the text, or None")
        instance(self.right, "a verdict's right", (bool, type(None)), "give True, False or None")
        one_of(self.kind, "a verdict's kind", get_args(Kind))


def judged(judge: Judge, dialogue: Dialogue, reply: str, last: str | None = None) -> Verdict:
    """What a judge reads in a reply; with `last`, also in the reply to its `final_turn`. Raises as the judge does, or
    as check_verdict."""
    if last is None:
        return check_verdict(judge, judge(dialogue, reply))
    return check_verdict(judge, judge.final(dialogue, reply, last))  # type: ignore[attr-defined]


def check_verdict(judge: Judge, verdict: Any) -> Verdict:
    """What a judge has returned. Raises TypeError if that is no Verdict."""
    name = judge.name if isinstance(judge, FunctionJudge) else type(judge).__name__
    return instance(verdict, f"what {name} returns", Verdict, "return Verdict(gives_in=...) of spt_lens.chat.judge")


@runtime_checkable
class Judge(Protocol):
    """Reads the replies of a behaviour. It must pickle where evaluations run in processes of their own.

    A judge with a text `final_turn` has `evaluate` put that as the user's third turn, and the reply to it read by
    `final(dialogue, reply, last) -> Verdict`. One with a true `reads_beginnings` judges a tone, say, which the first
    words tell: `evaluate` then does not warn of replies that were cut.
    """

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


@door
@dataclass(frozen=True)
class FunctionJudge:
    """A function as a judge: `function(dialogue, reply) -> Verdict`, such as one that asks another model.

    Where the verdict on a first answer names no answer, `given` is the whole reply. Raises TypeError for what can't be
    called; ValueError for max_new_tokens below one.
    """

    function: Callable[[Dialogue, str], Verdict]
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(f"judge is of type {type(self.function).__name__}: {_WAY_OUT}")
        try:
            inspect.signature(self.function).bind(None, "")
        except TypeError as error:
            raise TypeError(f"judge {self.name} can't be called with a dialogue and a reply: {_WAY_OUT}") from error
        except ValueError:  # some of what is written in C does not say what it takes
            pass
        whole_number(self.max_new_tokens, "max_new_tokens")

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))

    def __call__(self, dialogue: Dialogue, reply: str) -> Verdict:
        return self.function(dialogue, reply)

    def first_answer(self, reply: str) -> str:
        return plain_answer(reply)

    def __repr__(self) -> str:  # without the function's address: a comparison is known again by it
        return f"FunctionJudge({self.name}, {self.max_new_tokens})"


def plain_answer(reply: str) -> str:
    """A reply as an answer: without the spaces around it and the full stop at its end."""
    return reply.strip().rstrip(".")


def judge_name(judge: Judge) -> str:
    """What is kept of a judge, to tell it from others: its settings, where it says these, or its class."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(judge)) if is_dataclass(judge) else type(judge).__name__


def final_turn(judge: Judge) -> str:
    """The third turn that a judge wants to be put; empty: none."""
    return instance(
        getattr(judge, "final_turn", ""), "judge.final_turn", str, "give the user's turn, or leave it empty"
    )


def check_judge(judge: Any) -> Judge:
    """The judge; a function becomes a FunctionJudge. Raises TypeError for what is neither."""
    if isinstance(judge, type):
        raise TypeError(f"judge is the class {judge.__name__}: {_WAY_OUT}")
    if callable(judge) and not isinstance(judge, Judge):
        return FunctionJudge(judge, getattr(judge, "max_new_tokens", MAX_NEW_TOKENS))
    instance(judge, "judge", Judge, _WAY_OUT)
    if final_turn(judge) and not callable(getattr(judge, "final", None)):
        raise TypeError(
            "judge has a final_turn but no final(dialogue, reply, last), which reads the reply to it: add one"
        )
    return judge
