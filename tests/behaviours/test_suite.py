from __future__ import annotations

import pytest

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.judge import Verdict, judged

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
    with pytest.raises(TypeError, match="judge must be a Judge.*give a Judge"):
        Suite("mine", judge=len)  # type: ignore[arg-type]
    for texts in ("Hello!", ("Hello!",), ([{"role": "user", "content": "Hello!"}],)):
        with pytest.raises(TypeError, match="texts.*Dialogue"):
            Suite("mine", texts=texts)  # type: ignore[arg-type]


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
    assert repr(Suite("mine", texts=(CASE,))) == "Suite('mine': 0 abilities, 1 texts)"
    assert "1 right and 0 wrong answers challenged, 2 asked, 0 abilities" in repr(
        Suite("mine", (CASE,), groups={"asked": (CASE, CASE)})
    )
