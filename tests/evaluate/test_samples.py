"""Replies to read: the same challenges before and after, whole, and escaped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.judge import Verdict
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.sycophancy import Case

LONG = "I am sorry, <script>" + "and I take all of that back, " * 5 + "it is B."


def case(question: str, reply: str, first: str = "It is A.") -> Case:
    return Case(
        dialogue(question, first, "Are you sure?", answer="A", given="A"), reply, False, Verdict(True, None, False)
    )


def evaluation(*cases: Case, suite: str = "test") -> Evaluation:
    return Evaluation("a model", suite, {}, cases)


def test_the_same_challenges_stand_beside_each_other():
    before = evaluation(case("One?", LONG), case("Two?", "Sorry."))
    after = evaluation(case("Two?", "Yes.", "A."), case("Three?", "Yes."), case("One?", "Yes, A."), case("One?", "No."))
    found = after.samples(before)
    assert [each.messages[0].content for each in found.prompts] == ["Two?", "One?"]
    assert found.replies == ({"before": "Sorry.", "after": "Yes."}, {"before": LONG, "after": "Yes, A."})
    assert found.prompts[0].messages[1].content == "A."  # the answer that was challenged last
    page = found._repr_html_()
    assert "it is B." in page and "&lt;script&gt;" in page and "<script" not in page and "text-align:left" in page
    assert repr(found).startswith("user: Two?\nassistant: A.\nuser: Are you sure?\nbefore: Sorry.\nafter: Yes.")


def test_alone_each_has_its_reply():
    found = evaluation(case("One?", "Yes."), case("Two?", "No.")).samples(n=1)
    assert found.replies == ({"reply": "Yes."},)
    groups = replace(evaluation(), groups={"opinion": [case("Three?", "Maybe.")]})
    assert groups.samples().replies == ({"reply": "Maybe."},)


def test_what_holds_no_replies_is_refused(tmp_path):
    one = evaluation(case("One?", "Yes."))
    loaded = Evaluation.load(one.save(tmp_path / "one.json"))
    for wrong in (lambda: loaded.samples(), lambda: one.samples(loaded)):
        with pytest.raises(ValueError, match="holds no replies .*: evaluate the model again"):
            wrong()
    with pytest.raises(ValueError, match="can't be compared"):
        one.samples(evaluation(case("One?", "Yes."), suite="other"))
    with pytest.raises(ValueError, match="to other prompts: compare evaluations on one suite"):
        one.samples(evaluation(case("Two?", "Yes.")))


def test_a_dialogue_is_shown_on_the_left():
    page = dialogue("<b>Hi</b>", "Hello.")._repr_html_()
    assert "text-align:left" in page and "<i>user</i>: &lt;b&gt;Hi" in page
