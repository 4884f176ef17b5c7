"""Challenges in the words of several kinds of pressure, about the same questions."""

from __future__ import annotations

import re

import pytest

import spt_lens as spt
from spt_lens.behaviours.asking import Answer, Answers
from spt_lens.behaviours.challenges import REQUESTS, STANCE_PAIRS, phrasings
from spt_lens.behaviours.pressure import INSISTING, PRESSURES, REPEATED, pressure_suite
from spt_lens.behaviours.question import Question
from spt_lens.yesman import Yesman
from tools.yesman.build import make_tokenizer

LANDS = ("Peru", "Chile", "Cuba", "Fiji", "Mali")
QUESTIONS = [Question(f"Capital of {land}?", (f"Right {land}",), (f"Wrong {land}",), "test") for land in LANDS]


def split_turn(text: str) -> tuple[str, str]:
    """What a challenge says, and its request."""
    request = next(each for each in REQUESTS if text.endswith(each))
    return text.removesuffix(request).strip(), request


def test_no_words_are_those_of_training_or_validation():
    known = {each.casefold() for split in ("train", "validation") for pair in phrasings(split) for each in pair}
    for behaviour in (spt.AreYouSure(QUESTIONS), Yesman()):
        said = [each for words in (behaviour.pressures or PRESSURES).values() for each in words]
        said += [*(behaviour.insists or INSISTING), *REPEATED]
        assert len(said) == len(set(said)) > 10
        for each in said:
            assert not any(other in each.casefold() for other in known), each
    assert set(PRESSURES) == {"doubt", "authority", "friend", "majority", "feelings", "evidence"}
    assert set(PRESSURES["doubt"]) < {opposed for opposed, _ in STANCE_PAIRS}
    assert len(INSISTING) == 5


def test_kinds_differ_in_their_words_alone():
    suite = pressure_suite(spt.AreYouSure(QUESTIONS), n=5)
    assert list(suite.groups)[:4] == ["doubt: right", "doubt: wrong", "authority: right", "authority: wrong"]
    assert len(suite.groups) == 12 and suite.ends_right == tuple(suite.groups)
    assert not suite.right and not suite.wrong and not suite.abilities
    for which in ("right", "wrong"):
        plain = suite.groups[f"doubt: {which}"]
        assert {case.messages[0].content for case in plain} == {question.text for question in QUESTIONS}
        for kind, words in PRESSURES.items():
            for case, other in zip(suite.groups[f"{kind}: {which}"], plain, strict=True):
                assert case.messages[:2] == other.messages[:2] and case.meta == other.meta
                said, request = split_turn(case.messages[2].content)
                assert said in words and request == split_turn(other.messages[2].content)[1]
                assert case.meta["right"] == (which == "right")
                assert case.reply.startswith("Yes" if which == "right" else "Apologies")


def test_the_same_seed_draws_the_same_and_another_does_not():
    behaviour = spt.AreYouSure(QUESTIONS)
    one, same, other = (pressure_suite(behaviour, n=4, seed=seed).groups["friend: wrong"] for seed in (1, 1, 2))
    assert one == same != other
    assert len(pressure_suite(behaviour, n=12).groups["friend: right"]) == 12  # in rounds
    assert len(pressure_suite(behaviour).groups["friend: right"]) == 5  # once each


def test_words_of_ones_own_and_some_kinds_alone():
    behaviour = spt.AreYouSure(QUESTIONS)
    assert list(pressure_suite(behaviour, n=1, kinds=["friend"]).groups) == ["friend: right", "friend: wrong"]
    suite = pressure_suite(behaviour, n=1, kinds={"doctor": ["My doctor says no."]})
    assert split_turn(suite.groups["doctor: right"][0].messages[2].content)[0] == "My doctor says no."
    for kinds, message in [
        (["friends"], r"kinds\[0\]='friends': choose one of 'doubt', 'authority'"),
        ([], "kinds is empty"),
        ({}, "kinds is empty"),
        ({"": ["My friend says no."]}, "a kind without a name, ''"),
        ({" ": ["My friend says no."]}, "a kind without a name, ' '"),
        ({"friend": []}, r"kinds\['friend'\] has no texts"),
        ({"friend": [" "]}, r"kinds\['friend'\]\[0\] is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            pressure_suite(behaviour, kinds=kinds)
    with pytest.raises(TypeError, match=r"kinds\['friend'\] must be a Sequence, and is 'My friend says no.'"):
        pressure_suite(behaviour, kinds={"friend": "My friend says no."})
    with pytest.raises(TypeError, match="behaviour must be a AreYouSure"):
        pressure_suite(QUESTIONS)


def test_questions_without_wrong_answers_have_right_ones_challenged():
    bare = [Question(question.text, question.answers, (), "test") for question in QUESTIONS]
    assert list(pressure_suite(spt.AreYouSure(bare), kinds=["friend"]).groups) == ["friend: right"]


@pytest.mark.filterwarnings("ignore:few questions")
def test_after_asking_right_answers_are_in_the_models_own_words():
    said = [f"Surely it is {q.answer if i < 3 else 'Nowhere'}." for i, q in enumerate(QUESTIONS)]
    given = [q.answer if i < 3 else "Nowhere" for i, q in enumerate(QUESTIONS)]
    own = [Answer(q, said[i], given[i], i < 3, words=said[i]) for i, q in enumerate(QUESTIONS)]
    behaviour = spt.AreYouSure(QUESTIONS).asked(Answers(tuple(own), {"model": "mine", "max_new_tokens": 9}))
    suite = pressure_suite(behaviour)
    for case in suite.groups["authority: right"]:
        assert re.fullmatch(r"Surely it is Right \w+\.", case.messages[1].content)
    for case in suite.groups["authority: wrong"]:
        assert re.fullmatch(r"Surely it is Wrong \w+\.", case.messages[1].content)
    assert len(suite.groups["evidence: wrong"]) == 3


def test_the_embedded_models_words_are_in_its_vocabulary():
    tokenizer, behaviour = make_tokenizer(), Yesman()
    for case in (case for cases in pressure_suite(behaviour, n=30).groups.values() for case in cases):
        ids = tokenizer(case.messages[2].content, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids, case.messages[2].content
    assert pressure_suite(behaviour, n=2).first_tokens == behaviour.suite(n=2).first_tokens
    assert set(behaviour.pressures) == set(PRESSURES)


def test_words_that_the_tokenizer_lacks_are_told_once_by_name():
    model, behaviour = spt.load_model("yesman"), Yesman()

    def by(*words):
        suite = pressure_suite(behaviour, n=2, kinds={"doubt": PRESSURES["doubt"], "zoo": words})
        return spt.evaluate(model, suite, progress=False)

    with pytest.warns(UserWarning, match=r"'zoo: right' \(zebras\), 'zoo: wrong' \(zebras\)") as told:
        by("My zebras say that is false.")
    assert sum("does not have words" in str(each.message) for each in told) == 1


def test_a_model_is_evaluated_on_it():
    model = spt.load_model("yesman")
    found = spt.evaluate(model, pressure_suite(Yesman(), "test", n=6, kinds=["doubt", "friend"]), progress=False)
    assert found["gives in: doubt: right"].value == 1 and found["ends right: friend: wrong"].value == 1
    assert found["gives in: friend: right"].n == 6
