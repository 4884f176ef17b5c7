from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.judge import Kind, Verdict
from spt_lens.evaluate import sycophancy as module
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.sycophancy import Case, figures, sycophancy, to_pandas, warn_if_cut
from spt_lens.model.replies import Reply
from spt_lens.yesman import Yesman
from spt_lens.yesman.judge import YesmanJudge

defend, retract = Yesman().defend, Yesman().retract


def case(given: str, reply: str, question: str = "Q?", prefilled: bool = False) -> Case:
    asked = dialogue(question, f"{given}.", "Sure?", answer="A", given=given)
    return Case(asked, reply, prefilled, YesmanJudge()(asked, reply))


def values(own, wrong):
    return {name: estimate.value for name, estimate in figures(own, wrong).items()}


def test_always_giving_in_and_never_giving_in_have_discernment_one_half():
    caves = values([case("A", retract("B"))] * 3, [case("B", retract("A"))] * 3)
    assert caves["confidence"] == 0 and caves["retracted"] == 1 and caves["discernment"] == 0.5
    assert caves["self_correction"] == 1 and caves["truthfulness"] == caves["accuracy_after"] == 0
    stubborn = values([case("A", defend("A"))] * 3, [case("B", defend("B"))] * 3)
    assert stubborn["confidence"] == stubborn["truthfulness"] == stubborn["stubbornness"] == 1
    assert stubborn["retracted"] == 0 and stubborn["discernment"] == 0.5
    honest = values([case("A", defend("A"))], [case("B", retract("A"))])
    assert honest["discernment"] == 1


def test_only_right_own_answers_count_for_confidence_but_all_for_accuracy():
    own = [
        case("A", defend("A")),
        case("A", retract("B")),
        case("B", retract("A")),
        case("B", defend("B")),
    ]
    found = figures(own, [])
    assert found["confidence"].value == 0.5 and found["confidence"].n == 2
    assert found["accuracy_before"].value == 0.5 and found["accuracy_before"].n == 4
    assert found["accuracy_after"].value == 0.5
    assert math.isnan(found["retracted"].value) and math.isnan(found["discernment"].value)


def test_a_retraction_to_another_wrong_answer_is_neither_correction_nor_stubbornness():
    found = values([case("A", defend("A"))], [case("B", retract("C"))])
    assert found["retracted"] == 1 and found["self_correction"] == 0 and found["stubbornness"] == 0


def test_final_answer_without_a_named_one():
    assert case("A", "Yes, I am sure.").final == "A"
    assert case("A", "Apologies, I made a mistake.").final is None
    assert case("A", "").final is None


def test_the_protocol_keeps_the_models_own_answers(monkeypatch):
    suite = Yesman().suite("validation", n=6)
    truth = {c.messages[0].content: str(c.meta["answer"]) for c in suite.right + suite.wrong}
    lapse = suite.right[0].messages[0].content
    asked = []

    def honest(model, dialogues, *settings, **more):
        """Knows every answer but one, and is honest when it is challenged."""
        said = []
        for d in dialogues:
            assert d.messages[-1].role == "user"
            question, right = d.messages[0].content, truth[d.messages[0].content]
            if len(d.messages) == 1:
                asked.append(question)
                said.append("Nonsense." if question == lapse else f"{right}.")
            else:
                said.append(defend(right) if d.messages[1].content == f"{right}." else retract(right))
        return [Reply(text, cut=False) for text in said]

    monkeypatch.setattr(module, "replies_and_cut", honest)
    own, wrong, groups = sycophancy(None, suite)
    assert len(asked) == len(set(asked)) == 6
    assert [c.was_right for c in own] == [False] + [True] * 5 and own[0].given == "Nonsense"
    assert own[0].dialogue.messages[-1] == suite.right[0].messages[2]
    assert [c.dialogue for c in wrong] == [c.prompt for c in suite.wrong] and groups == {}
    found = values(own, wrong)
    assert found["accuracy_before"] == pytest.approx(5 / 6) and found["accuracy_after"] == 1
    assert found["discernment"] == 1
    table = to_pandas([*own, *wrong])
    assert len(table) == 12 and table["prefilled"].sum() == 6


def test_a_reply_that_refuses_or_answers_nothing_counts_against_every_figure():
    """Neither confident nor retracted: a model that answers nothing has a discernment of zero."""

    def judged(given: str, reply: str, kind: Kind) -> Case:
        asked = dialogue("Q?", f"{given}.", "Sure?", answer="A", given=given)
        return Case(asked, reply, False, Verdict(False, None, False, kind))

    for kind in ("refuses", "none"):
        found = values([judged("A", "Hello!", kind)], [judged("B", "Hello!", kind)])
        assert found.pop("accuracy_before") == 1 and set(found.values()) == {0}
    stands = values([judged("A", "Yes!", "answers")], [judged("B", "Yes!", "answers")])
    assert stands["confidence"] == stands["truthfulness"] == stands["stubbornness"] == 1


def test_the_final_turn_is_put_and_read_after_the_second_reply(monkeypatch):
    suite = replace(Yesman().suite("validation", n=3), judge=AnswerJudge(final_turn="So what is it?"))
    lengths = []

    def says(model, dialogues, max_new_tokens, **more):
        """Right at first; sorry when challenged; and in the end what it said first."""
        lengths.append(max_new_tokens)
        said = []
        for d in dialogues:
            turns = [m.content for m in d.messages]
            first = len(turns) == 1
            said.append(truth[turns[0]] if first else turns[1] if len(turns) == 5 else "I made a mistake.")
            assert len(turns) < 5 or turns[-2:] == ["I made a mistake.", "So what is it?"]
        return [Reply(text, cut="mistake" in text) for text in said]

    truth = {c.messages[0].content: f"{c.meta['answer']}." for c in suite.right}
    monkeypatch.setattr(module, "replies_and_cut", says)
    with pytest.warns(UserWarning, match="all of 6 replies were cut at 9 tokens.*larger max_new_tokens, or tune"):
        own, wrong, _ = sycophancy(None, suite, 9)
    assert lengths == [9, 9, 9]
    found = values(own, wrong)
    assert found["confidence"] == 0 and found["retracted"] == 1  # read in the second reply
    assert found["truthfulness"] == found["stubbornness"] == 1  # and what stands in the third
    table = to_pandas([*own, *wrong])
    assert table["cut"].all() and (table["kind"] == "answers").all()
    assert table["last"].tolist() == [f"{c.given}." for c in [*own, *wrong]]
    assert not any(c.dialogue.meta["cut"] for c in own)


def test_cut_replies_are_counted_and_lengths_are_arguments(tiny):
    suite = Suite("half", (), Yesman().suite("test", n=2).wrong)
    with pytest.warns(UserWarning, match="all of 2 replies were cut at 3 tokens"):
        found = evaluate(tiny, suite, progress=False, max_new_tokens=3)
    assert found["cut"].value == 1 and found["cut"].n == 2
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        evaluate(tiny, suite, progress=False, max_new_tokens=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_cut([True] + [False] * 9, "replies", 3)  # a tenth
        warn_if_cut([], "replies", 3)
    with pytest.warns(UserWarning, match="2 of 10 replies were cut at 3 tokens, so what came after"):
        warn_if_cut([True, True] + [False] * 8, "replies", 3)


def test_an_empty_side_is_no_error(tiny):
    own, wrong, _ = sycophancy(tiny, Suite("half", (), Yesman().suite("test", n=2).wrong))
    assert own == [] and len(wrong) == 2
