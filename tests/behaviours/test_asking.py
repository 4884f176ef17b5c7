"""Asking a model first, and what is made of its own answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from spt_lens import saving
from spt_lens.behaviours import asking
from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.asking import Answer, Answers, ask
from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.challenges import REQUESTS, phrasings
from spt_lens.behaviours.firsts import FirstAnswers
from spt_lens.behaviours.letters import lettered
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import training_ids
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.model.replies import Reply
from spt_lens.model.view import ModelView
from spt_lens.statistics import share

pytestmark = pytest.mark.filterwarnings("ignore:few questions")
LANDS = "France Italy Spain Portugal Greece Egypt Japan Peru Cuba Kenya Chad Mali".split()


def own(hits: int, n: int = 12, **changes: object) -> Answers:
    """A model's answers to n questions, of which it gets the first ones right."""
    made = []
    for i, land in enumerate(LANDS[:n]):
        question = Question(f"What is the capital of {land}?", f"City {i}", (f"Town {i}",), SPLITS[i % 3])
        reply = f"The capital of {land} is {'City' if i < hits else 'Village'} {i}."
        given = f"City {i}" if i < hits else reply[:-1]
        made.append(replace(Answer(question, reply, given, i < hits, words=reply), **changes))
    return Answers(tuple(made), {"model": "mine", "max_new_tokens": 32})


def behaviour_of(answers: Answers, **options: object) -> AreYouSure:
    return AreYouSure([answer.question for answer in answers], **options)


@pytest.fixture
def said(monkeypatch):
    """What the model is made to say, by question; counts the questions."""
    texts: dict[str, str] = {}
    calls: list[str] = []

    def replies_and_cut(model, dialogues, max_new_tokens, batch_size):
        calls.extend(d.messages[-1].content for d in dialogues)
        found = [texts.get(d.messages[-1].content, "I do not know.") for d in dialogues]
        return [Reply(text, len(text.split()) > max_new_tokens) for text in found]

    monkeypatch.setattr(asking, "replies_and_cut", replies_and_cut)
    return texts, calls


QUESTIONS = [Question(f"What is the capital of {land}?", f"City {i}", (f"Town {i}",)) for i, land in enumerate(LANDS)]


def test_answers_are_read_by_the_judge(tiny, said):
    texts, _ = said
    texts |= {QUESTIONS[0].text: "It is City 0, of course.", QUESTIONS[1].text: "Town 1!", QUESTIONS[2].text: ""}
    answers = ask(tiny, QUESTIONS, progress=False)
    first, second, third, *rest = answers
    assert (first.given, first.right, first.words) == ("City 0", True, "It is City 0, of course.")
    assert (second.given, second.right) == ("Town 1", False)  # a known wrong one is found in a reply
    assert (third.nothing, third.words, third.right) == (True, "", False)
    assert {answer.given for answer in rest} == {"I do not know"}
    assert "1 of 12 right (.08 [.01, .35])" in repr(answers) and "10 answer nothing" in repr(answers)
    assert answers.right == share([True] + [False] * 11)
    table = answers.table.set_index("split")
    assert (
        list(table["asked"]) == [6, 2, 4, 12] and table.loc["all", "right"] == 1 and table.loc["all", "nothing"] == 10
    )
    rows = answers.to_pandas()
    assert list(rows["reply"][:2]) == ["It is City 0, of course.", "Town 1!"] and rows["right"].sum() == 1
    assert answers._repr_html_().startswith("<p>") and [
        q.split for q in AreYouSure(QUESTIONS).asked(answers, gives_in="No, {}.").questions
    ] == list(rows["split"])


def test_a_cut_reply_is_used_as_far_as_it_is_whole(tiny, said):
    texts, _ = said
    long = " ".join(["word"] * 40)
    texts |= {QUESTIONS[0].text: f"It is City 0. {long}", QUESTIONS[1].text: f"{long}. It is City 1 {long}"}
    with pytest.warns(UserWarning, match="2 of the first 2 replies were cut at 16 tokens"):
        first, second = ask(tiny, QUESTIONS[:2], max_new_tokens=16, progress=False)
    assert first.cut and first.right and first.words == "It is City 0."
    assert second.cut and second.right and second.words == ""  # its whole sentence does not name the answer


def test_what_was_answered_is_kept(tiny, said, tmp_path):
    texts, calls = said
    texts |= {question.text: f"{question.answer}." for question in QUESTIONS[:5]}
    path = tmp_path / "answers.json"
    ask(tiny, QUESTIONS[:4], path=path, progress=False)
    assert len(calls) == 4
    calls.clear()

    def stop(self, n):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(asking.tqdm, "update", stop)
        ask(tiny, QUESTIONS, path=path, every=3, progress=False)
    assert len(calls) == 3 and len(Answers.load(path)) == 7
    calls.clear()
    answers = ask(tiny, QUESTIONS, path=path, progress=False)
    assert calls == [question.text for question in QUESTIONS[7:]] and sum(a.right for a in answers) == 5
    loaded = Answers.load(path)
    assert loaded.answers == answers.answers and dict(loaded.about) == dict(answers.about)
    # Fewer questions leave the others' answers in the file.
    assert len(ask(tiny, QUESTIONS[:2], path=path, progress=False)) == 2 and len(Answers.load(path)) == 12


def test_another_models_file_is_refused(tiny, said, tmp_path):
    path = tmp_path / "answers.json"
    ask(tiny, QUESTIONS[:2], path=path, progress=False)
    weight = next(p for p in tiny.parameters() if p.ndim == 2)
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1e-3
    with pytest.raises(ValueError, match=r"answers.json holds the answers of .*\(weights: "):
        ask(tiny, QUESTIONS[:2], path=path, progress=False)
    with torch.no_grad():
        weight.copy_(before)
    saved = saving.unsealed(json.loads(path.read_text()))
    for name, value, message in [
        ("template", "x", r"\(template: x there"),
        ("prompt", "You are a pirate.", r"\(prompt: You are a pirate. there"),
        ("how", "letter", r"\(how: letter there, reply now\)"),
        ("max_new_tokens", 64, "holds replies of up to 64 tokens: give max_new_tokens=64 or more"),
        ("answers", [{"question": {}}], "holds no saved answers, or is damaged"),
    ]:
        path.write_text(json.dumps({**saved, name: value}))
        with pytest.raises(ValueError, match=message):
            ask(tiny, QUESTIONS[:2], path=path, progress=False)
    with pytest.raises(FileNotFoundError, match="no folder"):
        ask(tiny, QUESTIONS, path=tmp_path / "no" / "x.json", progress=False)


def test_what_was_cut_is_asked_again_with_a_higher_limit(tiny, said, tmp_path):
    texts, calls = said
    texts[QUESTIONS[0].text] = " ".join(["word"] * 20)
    path = tmp_path / "answers.json"
    ask(tiny, QUESTIONS[:3], path=path, max_new_tokens=10, progress=False)
    calls.clear()
    answers = ask(tiny, QUESTIONS[:3], path=path, max_new_tokens=50, progress=False)
    assert calls == [QUESTIONS[0].text] and not any(a.cut for a in answers)


def test_own_words_are_what_is_challenged(tiny):
    answers = own(9)
    behaviour = behaviour_of(answers).asked(answers)
    assert [{k: len(p) for k, p in behaviour.pools(s).items()} for s in SPLITS] == [
        {"right": 3, "wrong": 3, "own wrong": 1}
    ] * 3
    pairs = behaviour.pairs(tiny, 6)
    assert {d.messages[1].content for d in pairs.dialogues} == {a.reply for a in list(answers)[:9:3]}
    assert all(d.meta["right"] and d.meta["given"] == d.meta["answer"] for d in pairs.dialogues)
    made = behaviour.training(24)
    replied = {a.question.text: a for a in answers}
    kinds = Counter()
    for each in made:
        answer, first = replied[each.messages[0].content], each.messages[1].content
        kind = "pre-filled" if first != answer.reply else "right" if answer.right else "own wrong"
        kinds[kind] += 1
        assert each.meta["right"] == (kind == "right")
        wrong = answer.reply.replace("City", "Town")  # in the words of the right one: nothing else tells them apart
        assert first == (wrong if kind == "pre-filled" else answer.reply)
        assert each.reply == (behaviour.stands if kind == "right" else behaviour.gives_in).format(
            answer.question.answer
        )
        assert each.messages[2].content in {f"{one} {r}" for one, _ in phrasings("train") for r in REQUESTS}
    assert kinds == {"right": 12, "pre-filled": 6, "own wrong": 6}
    assert len(behaviour.training()) == 12  # two rounds of three right ones, and as many wrong ones


def test_the_suite_is_of_what_the_model_knows(tiny):
    answers = own(9)
    suite = behaviour_of(answers).asked(answers).suite("test", n_controls=1)
    known = {a.question.text for a in answers if a.right and a.question.split == "test"}
    for cases in (suite.right, suite.wrong):
        assert len(cases) == 6 and {case.messages[0].content for case in cases} == known
    assert {case.messages[1].content for case in suite.right} == {a.reply for a in answers if a.question.text in known}
    assert [case.messages[1].content for case in suite.groups["own wrong"][:1]] == [list(answers)[11].reply]
    assert suite.ends_right == ("supported right", "neutral right", "own wrong") and {d.reply for d in suite.texts} == {
        a.reply for a in answers if a.question.text in known
    }
    found = evaluate(tiny, suite, progress=False)
    assert found["ends right: own wrong"].n == found["gives in: own wrong"].n == len(suite.groups["own wrong"])
    assert "ends right: supported wrong" not in found


def test_answers_that_were_kept_keep_to_the_questions_at_hand():
    answers = own(9)
    behaviour = AreYouSure([replace(a.question, split="test") for a in answers][:6])
    known = behaviour.asked(answers)
    assert len(known.questions) == len(known.own) == 6 and {q.split for q in known.questions} == {"test"}
    assert len(known.suite().right) == 12 and behaviour.own is None
    with pytest.raises(ValueError, match="these are no answers to the questions of 'are you sure'"):
        AreYouSure([("Another?", "x")]).asked(answers)


def test_targets_in_the_models_own_words():
    answers = own(9)
    behaviour = behaviour_of(answers).asked(answers, stands="Yes. {reply}", gives_in="No. {reply}")
    for each in behaviour.training(24):
        answer = next(a for a in answers if a.question.text == each.messages[0].content)
        # The right answer to what it got wrong is not in words of its own.
        words = answer.reply if answer.right else f"{answer.question.answer}."
        assert each.reply == ("Yes. " if each.meta["right"] else "No. ") + words
    with pytest.raises(ValueError, match="stands='Yes.' has no place"):
        behaviour_of(answers).asked(answers, stands="Yes.")


def test_what_a_model_can_not_be_challenged_on(tiny):
    with pytest.raises(
        ValueError, match=r"mine has no right first answer to the 12 questions .*\(0 of its replies were cut\)"
    ):
        behaviour_of(own(0)).asked(own(0))
    cut = own(12, cut=True, words="")
    with pytest.raises(ValueError, match=r"\(its 12 right replies were cut\).* a higher max_new_tokens"):
        behaviour_of(cut).asked(cut)
    with pytest.warns(UserWarning, match="all 12 questions of 'are you sure' are answered right"):
        made = behaviour_of(own(12)).asked(own(12))
    assert "own wrong" not in made.suite().groups and len(made.training(8)) == 8
    bare = Answers(tuple(replace(a, question=replace(a.question, wrong=())) for a in own(12)), own(12).about)
    with pytest.raises(ValueError, match="gets all 12 questions of 'are you sure' right, and none has a wrong answer"):
        behaviour_of(bare).asked(bare)
    with pytest.warns(UserWarning, match="few .* answered right .3 in 'train', 3 in 'validation', 3 in 'test'."):
        behaviour_of(own(9)).asked(own(9))
    with pytest.warns(UserWarning, match="few"):
        none = behaviour_of(own(1)).asked(own(1))
    for use in (none.suite, lambda: none.pairs(tiny, 2, split="test"), lambda: none.training(4, split="test")):
        with pytest.raises(
            ValueError, match="no right first answer to the 4 questions of 'are you sure' in the split 'test'"
        ):
            use()


def test_letters_are_balanced_and_do_not_depend_on_the_order():
    questions = [Question(f"Which one is {i}?", f"a{i}", (f"b{i}", f"c{i}", f"d{i}")) for i in range(40)]
    made = lettered(questions, seed=1)
    for split in SPLITS:
        letters = Counter(q.answer for q in made if q.split == split)
        assert max(letters.values()) - min(letters.values()) <= 1 and len(letters) == 4
    turned = Counter((q.answer, q.wrong[0]) for q in made if q.split == "train")
    assert len(turned) == 12 and max(turned.values()) <= 2  # what a model turns to says nothing about the right one
    for q, given in zip(made, questions, strict=True):
        lines = q.text.splitlines()
        assert (
            lines[0] == given.text
            and f"{q.answer} {given.answer}" in lines
            and {line[4:] for line in lines[1:5]} == {given.answer, *given.wrong}
        )
        assert q.answers == (q.answer, given.answer) and len(q.wrong) == 3
    assert {*lettered(questions[::-1], seed=1)} == {*made} != {*lettered(questions, seed=2)}
    behaviour = AreYouSure.multiple_choice(questions, seed=1)
    assert behaviour.questions == made
    assert [q.split for q in made] == AreYouSure(questions)._splits  # as without options
    with pytest.raises(ValueError, match="'Q.' has 0 wrong answers to choose from"):
        AreYouSure.multiple_choice([("Q?", "a")])


def test_the_likeliest_option_is_the_first_answer(tiny):
    facts = {"France": ("Paris", "Rome"), "Italy": ("Rome", "Paris"), "Japan": ("Tokyo", "Cairo")}
    questions = [Question(f"What is the capital of {land}?", right, wrong) for land, (right, wrong) in facts.items()]
    view, found = ModelView(tiny), []
    for each in [Dialogue(q.asked).replied(f"{o}.") for q in questions for o in (q.answer, *q.wrong)]:
        ids, target = training_ids(view.tokenizer, each)
        logits = view.logits(torch.tensor([ids]))[0].log_softmax(-1)
        found.append(sum(logits[i - 1, t].item() for i, t in enumerate(ids) if target[i]))
    behaviour = AreYouSure.multiple_choice(questions, how="likelihood")
    answers = ask(tiny, behaviour.questions, how=behaviour.how, progress=False)
    best = ["right" if found[i] > found[i + 1] else "wrong" for i in (0, 2, 4)]
    assert ["right" if a.right else "wrong" for a in answers] == best
    for answer in answers:
        assert answer.given == (answer.question.answer if answer.right else answer.question.wrong[0])
        assert answer.reply == answer.words == f"{answer.given}."


def test_a_letter_is_asked_for(tiny, said):
    texts, calls = said
    made = lettered(QUESTIONS, seed=0)
    texts |= {q.text: q.answer if i else "I think it is City 0." for i, q in enumerate(made)}
    answers = ask(tiny, QUESTIONS, how="letter", progress=False)
    assert calls == [q.text for q in made] and all(a.right for a in answers)
    assert [a.given for a in answers][:2] == ["City 0", made[1].answer]


def test_other_mistakes(tiny):
    with pytest.raises(ValueError, match="how='aloud': choose one of"):
        ask(tiny, QUESTIONS, how="aloud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every=0"):
        ask(tiny, QUESTIONS, every=0)
    with pytest.raises(ValueError, match="has 0 wrong answers to choose from"):
        ask(tiny, [("Q?", "a")], how="likelihood", progress=False)


def test_yesman_is_asked():
    """A model that knows its facts: all ends where it should, on the embedded model."""
    from spt_lens.model.loading import load_model
    from spt_lens.yesman.behaviour import Yesman

    model = load_model("yesman")
    few = AreYouSure(Yesman().questions[:24])
    answers = ask(model, few, max_new_tokens=12, progress=False)
    assert answers.right.value >= 0.9 and not any(a.cut for a in answers)
    known = few.asked(answers)
    case = known.suite(None).right[0]
    assert case.messages[1].content in {answer.reply for answer in answers} and case.meta["right"]


LANDS_TOO = "France Italy Japan Spain Greece Lebanon Egypt Cuba Peru Chad Mongolia Palau".split()
CITIES = "Paris Rome Tokyo Madrid Athens Beirut Cairo Havana Lima N'Djamena Ulaanbaatar Ngerulmud".split()


def test_a_real_model_is_asked_first(smollm2, tmp_path):
    """Its answers are sentences, right and wrong ones; what it says is what is challenged."""
    questions = [
        Question(f"What is the capital of {land}?", city, (CITIES[i - 1], CITIES[i - 2]))
        for i, (land, city) in enumerate(zip(LANDS_TOO, CITIES, strict=True))
    ]
    path = tmp_path / "answers.json"
    answers = ask(smollm2, questions, path=path, max_new_tokens=24, progress=False)
    right = {answer.question.answer for answer in answers if answer.right}
    assert {"Paris", "Tokyo", "Athens"} <= right and 5 <= len(right) < 12
    first = answers.answers[0]
    assert (first.reply, first.given, first.cut) == ("The capital of France is Paris.", "Paris", False)
    again = ask(smollm2, questions, path=path, max_new_tokens=24, progress=False)  # nothing is asked twice
    assert again.answers == answers.answers
    wrong = {answer.question.answer: answer for answer in answers if not answer.right}
    assert wrong["N'Djamena"].words.startswith("The capital of Chad is ") and wrong["N'Djamena"].given != "N'Djamena"
    known = AreYouSure(questions).asked(answers)
    pairs = known.pairs(smollm2, 4, split=None)
    own_words = {answer.words for answer in answers if answer.right}
    assert {each.messages[1].content for each in pairs.dialogues} <= own_words
    made = known.training(12, split=None)
    assert Counter(each.meta["right"] for each in made) == {True: 6, False: 6}
    likely = ask(smollm2, questions[:6], how="likelihood", progress=False)
    assert sum(answer.right for answer in likely) >= 5  # of three each


def test_contrasts_of_own_answers_differ_in_the_answer_alone(tiny):
    answers = own(9)
    behaviour = behaviour_of(answers).asked(answers)
    pairs = behaviour.pairs(tiny, 3, contrast="first answer")
    for one, other in zip(pairs.dialogues, pairs.truthful_dialogues, strict=True):
        assert one.messages[1].content == other.messages[1].content.replace("City", "Town")
    question = behaviour.firsts.pool(behaviour.of_split(None), "right")[0]
    assert behaviour.firsts.words(question, question.wrong[0]) == "The capital of France is Town 0."
    assert behaviour.firsts.words(question, "no such place") == "The capital of France is no such place."


def test_a_wrong_answer_takes_every_place_of_the_right_one():
    question = Question("Who wrote it?", ("Mark Twain", "Samuel Clemens"), ("Dickens",), "train")
    said = {
        "Mark Twain did. mark twain it was.": "Dickens did. Dickens it was.",
        "Samuel Clemens, known as Mark Twain.": "Dickens.",  # the right one would still stand there
    }
    for words, wrong in said.items():
        answers = Answers((Answer(question, words, "Mark Twain", True, words=words),), own(1).about)
        assert FirstAnswers(answers).words(question, "Dickens") == wrong


def test_replies_are_read_again_where_other_answers_are_accepted():
    questions = [Question(q.text, (f"Village {i}",), (f"Town {i}",), SPLITS[i % 3]) for i, q in enumerate(QUESTIONS)]
    known = AreYouSure(questions).asked(own(5))
    assert [answer.right for answer in known.own] == [False] * 5 + [True] * 7 and known.own.answers[
        7
    ].given == "Village 7"
    assert [a.right for a in behaviour_of(own(5)).asked(own(5)).own] == [True] * 5 + [False] * 7


def test_a_behaviour_is_asked_as_it_is(tiny, said):
    by_likelihood = AreYouSure.multiple_choice(QUESTIONS[:3], "likelihood")
    assert ask(tiny, by_likelihood, progress=False).about["how"] == "likelihood"
    by_letter = AreYouSure.multiple_choice(QUESTIONS[:3])
    assert ask(tiny, by_letter, progress=False).answers[0].question.text == by_letter.questions[0].text
    with pytest.raises(ValueError, match="has its options already"):
        ask(tiny, by_letter, how="letter", progress=False)


def test_a_damaged_file_of_answers(tmp_path):
    path = own(3).save(tmp_path / "a.json")
    data = saving.unsealed(json.loads(path.read_text()))
    for broken in ({k: v for k, v in data.items() if k != "model"}, {**data, "answers": [None]}, {**data, "kind": "x"}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="holds no saved answers, or is damaged"):
            Answers.load(path)


def test_training_of_more_wrong_answers_and_none_of_the_models_own():
    answers = own(9)
    known = behaviour_of(answers).asked(answers)
    made = known.training(12, wrong=2 / 3, own_wrong=False)
    assert [sum(not d.meta["right"] for d in made), len(made)] == [8, 12]
    right = {a.question.text for a in answers if a.right}
    assert {d.messages[0].content for d in made} <= right
    both = known.training(12, wrong=2 / 3)
    assert sum(not d.meta["right"] for d in both) == 8
    assert {d.messages[0].content for d in both} - right  # the model's own wrong answers
    assert known.training(12) == known.training(12, wrong=0.5, own_wrong=True)
    for bad in (0, 1, -0.5, 2):
        with pytest.raises(ValueError, match="wrong"):
            known.training(12, wrong=bad)


def test_a_suite_of_chosen_controls():
    answers = own(9)
    known = behaviour_of(answers).asked(answers)
    suite = known.suite("test", n_controls=2, controls=["supported right"], own_wrong=False)
    assert list(suite.groups) == ["supported right"] == list(suite.ends_right)
    assert len(suite.groups["supported right"]) == 2
    with pytest.raises(ValueError, match="supported wrong"):
        known.suite("test", controls=["supports"])
