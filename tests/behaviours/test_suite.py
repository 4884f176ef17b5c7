from __future__ import annotations

import pickle

import pytest

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.judge import FunctionJudge, Verdict, check_judge, judged

CASE = dialogue("One?", "Two.", "Sure?", "Yes.", answer="Two", given="Two")


def test_bad_input():
    with pytest.raises(ValueError, match=r"right\[0\].*does not end in question"):
        Suite("mine", right=(dialogue("One?", "Two."),))
    with pytest.raises(ValueError, match=r'wrong\[0\].*needs "answer" and "given"'):
        Suite("mine", wrong=(dialogue("One?", "Two.", "Sure?", "Yes."),))
    with pytest.raises(ValueError, match="'sums'.*has no dialogues"):
        Suite("mine", abilities={"sums": ()})
    with pytest.raises(ValueError, match="first_tokens=0"):
        Suite("mine", first_tokens=0)
    with pytest.raises(TypeError, match="judge must be a Judge, and is 'mine': give a Judge"):
        Suite("mine", judge="mine")  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"judge len can't be called with a dialogue and a reply: give a Judge.*function"
    ):
        Suite("mine", judge=len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="judge is the class AnswerJudge"):
        Suite("mine", judge=AnswerJudge)  # type: ignore[arg-type]
    for texts in ("Hello!", (5,), [{"role": "user", "content": "Hello!"}]):
        with pytest.raises(TypeError, match=r"texts.*(put it in|give) a (list|text)"):
            Suite("mine", texts=texts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beside='none': choose one of 'told'"):
        Suite("mine", groups={"told": (dialogue("One?", about="it"),)}, beside="none")
    with pytest.raises(ValueError, match=r"groups\['told'\] of suite 'mine' needs \"about\" in its meta"):
        Suite("mine", groups={"told": (dialogue("One?"),)}, beside="told")


def test_texts_and_chat_lists_are_dialogues():
    chat = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
    suite = Suite("mine", groups={"mine": ["One?", chat]}, texts=[chat])  # type: ignore[arg-type, list-item, dict-item]
    assert suite.groups == {"mine": (dialogue("One?"), dialogue("One?", "Two."))}
    assert suite.texts == (dialogue("One?", "Two."),)


def test_a_judge_is_whatever_reads_replies():
    class Short:
        max_new_tokens = 4

        def __call__(self, dialogue, reply):
            return Verdict("yes" in reply)

        def first_answer(self, reply):
            return reply

    class Sloppy(Short):
        def __call__(self, dialogue, reply):
            return "yes" in reply

    assert Suite("mine", judge=Short()).judge.max_new_tokens == 4
    assert judged(Short(), CASE, "yes") == Verdict(True)
    with pytest.raises(TypeError, match=r"what Sloppy returns must be a Verdict, and is True: return Verdict\("):
        judged(Sloppy(), CASE, "yes")
    with pytest.raises(ValueError, match="a verdict's kind"):
        Verdict(True, kind="maybe")  # type: ignore[arg-type]
    for wrong in ({"gives_in": "yes"}, {"gives_in": True, "answer": 5}, {"gives_in": True, "right": "Paris"}):
        with pytest.raises(TypeError, match=f"a verdict's {[*wrong][-1]} must be a"):
            Verdict(**wrong)
    assert repr(Suite("mine", texts=(CASE,))) == "Suite('mine': 0 abilities, 1 texts)"
    assert "1 right and 0 wrong answers challenged, 2 asked, 0 abilities" in repr(
        Suite("mine", (CASE,), groups={"asked": (CASE, CASE)})
    )


def says_sorry(dialogue, reply):
    return Verdict("sorry" in reply)


def test_a_function_is_a_judge():
    judge = Suite("mine", judge=says_sorry).judge
    assert judge == FunctionJudge(says_sorry) == check_judge(judge) and judge.max_new_tokens == 64
    assert judged(judge, CASE, "I am sorry.") == Verdict(True) and judge.first_answer(" Paris. ") == "Paris"
    assert pickle.loads(pickle.dumps(judge)) == judge
    assert repr(judge) == "FunctionJudge(says_sorry, 64)"  # without an address: comparisons go by it
    with pytest.raises(TypeError, match=r"what test_a_function_is_a_judge.<locals>.<lambda> returns must be a Verdict"):
        judged(FunctionJudge(lambda dialogue, reply: True), CASE, "Yes.")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        FunctionJudge(says_sorry, 0)


def test_a_final_turn_needs_somebody_to_read_it():
    class Asks:
        max_new_tokens, final_turn = 4, "So what is it?"

        def __call__(self, dialogue, reply):
            return Verdict(False)

        def first_answer(self, reply):
            return reply

    with pytest.raises(TypeError, match="final_turn but no final"):
        Suite("mine", judge=Asks())
    with pytest.raises(TypeError, match="AnswerJudge.final_turn must be a str, and is 3"):
        Suite("mine", judge=AnswerJudge(final_turn=3))  # type: ignore[arg-type]
