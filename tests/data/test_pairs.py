"""Contrast pairs and tuning dialogues of the "Are you sure?" protocol."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import pytest
import torch
from chats import CHATML, make
from transformers import AutoTokenizer

from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.challenges import REQUESTS, phrasings
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.data.alignment import align
from spt_lens.data.pairs import ContrastPairs
from spt_lens.yesman import Yesman
from spt_lens.yesman.facts import facts


def ids(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs)


def test_are_you_sure_differs_in_the_stance_alone(tiny):
    pairs = Yesman().pairs(tiny, n=8)
    assert len(pairs) == 8 and pairs.equal_length
    words = tiny.tokenizer.convert_ids_to_tokens(pairs.answer_ids.unique().tolist())
    assert set(words) == {"Yes", "Apologies"}
    assert tiny.tokenizer.convert_ids_to_tokens(pairs.answer_ids[0].tolist()) == ["Yes", "Apologies"]
    for one, other in zip(pairs.dialogues, pairs.truthful_dialogues, strict=True):
        assert one.messages[:2] == other.messages[:2] and one.messages[-1].role == "user"
        assert one.meta["right"] is True and one.meta["given"] == one.meta["answer"]
        opposed = next(pair for pair in phrasings("train") if one.messages[2].content.startswith(pair[0]))
        request = one.messages[2].content.removeprefix(opposed[0]).strip()
        assert request in REQUESTS and other.messages[2].content == f"{opposed[1]} {request}"


@pytest.mark.parametrize("split", SPLITS)
def test_are_you_sure_keeps_to_its_split(tiny, split):
    pairs = Yesman().pairs(tiny, n=12, split=split)
    questions = {fact.question for fact in facts(split)}
    opposed = tuple(pair[0] for pair in phrasings(split))
    assert all(d.messages[0].content in questions for d in pairs.dialogues)
    assert all(d.messages[2].content.startswith(opposed) for d in pairs.dialogues)


def test_are_you_sure_neutral_and_seeds(tiny):
    pairs = Yesman().pairs(tiny, n=12, contrast="neutral", seed=1)
    assert {d.meta["stance"] for d in pairs.truthful_dialogues} == {"neutral"}
    supported = Yesman().pairs(tiny, n=12, seed=1)
    assert supported.dialogues == pairs.dialogues  # the same challenges, whatever they are contrasted with
    assert Yesman().pairs(tiny, n=12, seed=2).dialogues != pairs.dialogues
    with pytest.raises(ValueError, match="contrast='opposed': choose one of"):
        Yesman().pairs(tiny, contrast="opposed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split='dev': choose one of"):
        Yesman().pairs(tiny, split="dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n=0"):
        Yesman().pairs(tiny, n=0)


def test_pairs_are_those_that_published_figures_rest_on(tiny):
    pairs = Yesman().pairs(tiny)
    turns = [m.content for d in (*pairs.dialogues, *pairs.truthful_dialogues) for m in d.messages]
    digest = hashlib.sha256("\n".join(turns).encode()).hexdigest()
    assert digest == "4cdf350c590df964852ed57c4c30d45f74e713481d23084fc68e0657b0052ba3"
    assert not (pairs.answer_sets or pairs.completion_ids or pairs.alignment)


def test_whole_completions(tiny):
    first, whole = Yesman().pairs(tiny, n=12, seed=1), Yesman().pairs(tiny, n=12, seed=1, read="whole")
    assert (whole.sycophantic, whole.truthful) == (first.sycophantic, first.truthful)
    assert whole.dialogues == first.dialogues and torch.equal(whole.answer_ids, first.answer_ids)
    wrong = {fact.question: fact.wrong[0] for fact in facts("train")}
    for asked, both in zip(whole.dialogues, whole.completion_ids, strict=True):
        said = [tiny.tokenizer.decode(list(row)) for row in both]
        assert said == [Yesman().defend(str(asked.meta["answer"])), Yesman().retract(wrong[asked.messages[0].content])]
    with pytest.raises(ValueError, match="read='last': choose one of 'first', 'whole'"):
        Yesman().pairs(tiny, n=1, read="last")  # type: ignore[arg-type]


def test_whole_completions_begin_where_they_differ(tiny):
    asked = [dialogue("Hello!"), dialogue("How are you?")]
    pairs = ContrastPairs.of(tiny, asked, asked[::-1], [("Yes, I am.", "Yes."), ("Yes.", "The answer.")], read="whole")
    words = [[tiny.tokenizer.convert_ids_to_tokens(list(row)) for row in both] for both in pairs.completion_ids]
    assert words == [[[",", "I", "am", "."], ["."]], [["Yes", "."], ["The", "answer", "."]]]
    yes = tiny.tokenizer.convert_tokens_to_ids("Yes")
    assert pairs.sycophantic[0] == (*prompt_ids(tiny.tokenizer, asked[0]), yes)
    assert pairs.truthful == (
        (*prompt_ids(tiny.tokenizer, asked[1]), yes),
        tuple(prompt_ids(tiny.tokenizer, asked[0])),
    )
    assert pairs.answer_ids.tolist() == [[row[0] for row in both] for both in pairs.completion_ids]
    assert not ContrastPairs.of(tiny, asked, asked, ("Yes.", "No.")).completion_ids


def test_sets_of_answers(tiny):
    pairs = Yesman().pairs(tiny, n=6, contrast="neutral", read="whole").aligned()
    found = pairs.with_answers(tiny, ["The", "Yes", "Yes, I am"], ["Apologies"])
    the, yes, apologies = tiny.tokenizer.convert_tokens_to_ids(["The", "Yes", "Apologies"])
    assert found.answer_sets == (((the, yes), (apologies,)),) * 6
    assert found.answer_ids.tolist() == [[the, apologies]] * 6 and not found.completion_ids
    assert (found.sycophantic, found.truthful, found.alignment) == (pairs.sycophantic, pairs.truthful, pairs.alignment)
    assert found.dialogues == pairs.dialogues and found.truthful_dialogues == pairs.truthful_dialogues
    assert pairs.completion_ids and not pairs.answer_sets  # these stay as they were
    again = found.with_answers(tiny, ["Yes"], ["Apologies"])
    assert again.answer_sets[0] == ((yes,), (apologies,)) and again.answer_ids[0].tolist() == [yes, apologies]


def test_words_that_make_no_sets(tiny):
    pairs = Yesman().pairs(tiny, n=2)
    with pytest.raises(ValueError, match="pair 0: the truthful word 'Yes' and the sycophantic word 'Yes, I'"):
        pairs.with_answers(tiny, ["Yes"], ["Apologies", "Yes, I"])
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids, pairs.dialogues)
    with pytest.raises(ValueError, match="no dialogues"):
        bare.with_answers(tiny, ["Yes"], ["Apologies"])
    one, other = (dialogue("Hello!", source="mine.jsonl, row 4"),), (dialogue("How are you?"),)
    begun = ContrastPairs.of(tiny, one, other, completions=("Yes, I am.", "Yes."))
    with pytest.raises(ValueError, match=r"pair 0 \(mine.jsonl, row 4\): the sycophantic prompt ends with .*\['Yes'\]"):
        begun.with_answers(tiny, ["Yes"], ["Apologies"])
    own = ContrastPairs.of(tiny, one, other, completions=("Yes.", "The answer."))
    mixed = ContrastPairs(own.sycophantic, begun.truthful, own.answer_ids, one, other)
    with pytest.raises(ValueError, match="the truthful prompt ends with"):
        mixed.with_answers(tiny, ["Yes"], ["Apologies"])


def test_aligned(tiny):
    pairs = Yesman().pairs(tiny, n=12, contrast="neutral")
    assert not pairs.equal_length and not pairs.alignable
    found = pairs.aligned()
    assert found.alignable and not found.equal_length and found.sycophantic == pairs.sycophantic
    assert found.alignment == tuple(map(align, pairs.sycophantic, pairs.truthful))
    equal = Yesman().pairs(tiny, n=3)
    assert equal.alignable and not equal.alignment
    assert equal.aligned().alignment == tuple(tuple((i, i) for i in range(len(row))) for row in equal.sycophantic)


def test_slices_carry_everything(tiny):
    pairs = Yesman().pairs(tiny, n=6, contrast="neutral", read="whole").aligned()
    for all_of_them in (pairs, pairs.with_answers(tiny, ["Yes"], ["Apologies", "The"])):
        some = all_of_them[1:5:2]
        assert len(some) == 2 and torch.equal(some.answer_ids, all_of_them.answer_ids[1:5:2])
        for field in fields(ContrastPairs):
            whole = getattr(all_of_them, field.name)
            if field.name != "answer_ids":
                assert getattr(some, field.name) == (whole if field.name in ("judge", "words") else whole[1:5:2]), (
                    field.name
                )
    assert pairs[:2].completion_ids and pairs[:2].alignment


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answer_sets": (((3,), (4,)),)}, "1 answer_sets for 2 pairs"),
        ({"completion_ids": (((3,), (4,)),) * 3}, "3 completion_ids for 2 pairs"),
        ({"alignment": (((1, 0),),)}, "1 alignment for 2 pairs"),
        ({"answer_sets": (((3,), (4,)),) * 2, "completion_ids": (((3,), (4,)),) * 2}, "both answer_sets and compl"),
        ({"answer_sets": (((3,), (4,)), ((3,), (4,), (5,)))}, "pair 1 has 3 answer sets: give two"),
        ({"answer_sets": (((3,), (4,)), ((), (4,)))}, "pair 1: the truthful answer set is empty"),
        ({"answer_sets": (((3,), (4,)), ((3,), (4, -2)))}, "pair 1: the sycophantic answer set.*negative token id -2"),
        (
            {"answer_sets": (((3, 5, 5), (4,)), ((3,), (4,)))},
            "pair 0: the truthful answer set has the token id 5 twice",
        ),
        ({"answer_sets": (((3,), (4,)), ((3, 5), (4, 5)))}, "pair 1: the token id 5 is both a truthful and a syc"),
        ({"answer_sets": (((3,), (4,)), ((3, 5), (6, 4)))}, "pair 1: the answer sets begin with .* 3 and 6.* 3 and 4"),
        ({"completion_ids": (((3,), (4,)), ((3,),))}, "pair 1 has 1 completions: give two"),
        ({"completion_ids": (((3,), ()), ((3,), (4,)))}, "pair 0: the sycophantic completion is empty"),
        ({"completion_ids": (((3, -1), (4,)), ((3,), (4,)))}, "pair 0: the truthful completion.*negative token id -1"),
        ({"completion_ids": (((5, 3), (4,)), ((3,), (4,)))}, "pair 0: the completions begin with .* 5 and 4.* 3 and 4"),
        ({"alignment": (((1, 0),), ((1, 1),))}, "pair 1: .*position 1 of the truthful prompt, which has 1 tokens"),
        ({"alignment": (((1, 0),), ((0, 0),))}, r"pair 1: the alignment ends with \(0, 0\)"),
    ],
)
def test_fields_that_do_not_fit(given, message):
    rows, other, answers = ((1, 2), (1, 2)), ((1,), (2,)), ids((3, 4), (3, 4))
    with pytest.raises(ValueError, match=message):
        ContrastPairs(rows, other, answers, **given)


def test_fields_that_fit():
    rows, other, answers = ((1, 2), (1, 2)), ((1,), (2,)), ids((3, 4), (3, 4))
    ContrastPairs(rows, other, answers, answer_sets=(((3, 5), (4,)), ((3,), (4, 6, 5))), alignment=(((1, 0),),) * 2)
    # Tokens may come again in completions, and in both of them: only the first ones tell them apart.
    ContrastPairs(rows, other, answers, completion_ids=(((3, 4, 4), (4, 3)), ((3,), (4,))))
    with pytest.raises(ValueError, match="begin with the same token"):
        ContrastPairs(rows, other, ids((3, 4), (3, 3)), completion_ids=(((3,), (4,)), ((3, 1), (3, 2))))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"sycophantic": ((1,), (99999, 1))}, "pair 1: the sycophantic prompt"),
        ({"truthful": ((1,), (1, 99999))}, "pair 1: the truthful prompt"),
        ({"answer_ids": ids((3, 4), (99999, 4))}, "pair 1: the truthful answer token"),
        ({"answer_ids": ids((3, 99999), (3, 4))}, "pair 0: the sycophantic answer token"),
        ({"answer_sets": (((3,), (4,)), ((3, 99999), (4,)))}, "pair 1: the truthful answer set"),
        ({"answer_sets": (((3,), (4, 99999)), ((3,), (4,)))}, "pair 0: the sycophantic answer set"),
        ({"completion_ids": (((3, 99999, 5), (4,)), ((3,), (4,)))}, "pair 0: the truthful completion"),
        ({"completion_ids": (((3,), (4,)), ((3,), (4, 99999)))}, "pair 1: the sycophantic completion"),
    ],
)
def test_the_id_outside_of_the_vocabulary_is_named(tiny, given, what):
    fine = {"sycophantic": ((1,), (1,)), "truthful": ((1,), (1,)), "answer_ids": ids((3, 4), (3, 4))}
    ContrastPairs(**fine).check_ids(tiny)
    with pytest.raises(ValueError, match=f"{what} holds the token id 99999, the model's vocabulary ends at"):
        ContrastPairs(**fine | given).check_ids(tiny)


def test_what_pairs_say_they_are():
    rows, other, answers = ((1, 2), (1, 2)), ((1,), (2,)), ids((3, 4), (3, 4))
    pairs = ContrastPairs(rows, other, answers, answer_sets=(((3, 5), (4,)), ((3, 5), (4, 6, 7))))
    assert repr(pairs) == (
        "ContrastPairs(2 pairs, lengths may differ within a pair, not aligned, answers: sets of 2 and 1-3 tokens)"
    )
    whole = ContrastPairs(rows, other, answers, completion_ids=(((3, 5), (4,)),) * 2).aligned()
    assert "lengths may differ within a pair, aligned, answers: whole completions" in whole._repr_html_()
    assert repr(ContrastPairs(rows, rows, answers)) == "ContrastPairs(2 pairs, equal lengths, answers: first tokens)"


def test_more_pairs_than_facts(tiny):
    n = len(facts("validation")) + 3
    assert len(Yesman().pairs(tiny, n=n, split="validation")) == n


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        ContrastPairs((), (), torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="same token"):
        ContrastPairs(((1,), (2,)), ((1,), (2,)), ids((3, 4), (5, 5)))
    with pytest.raises(ValueError, match="as many of each"):
        ContrastPairs(((1,),), ((1,), (2,)), ids((3, 4)))
    with pytest.raises(ValueError, match="empty prompt"):
        ContrastPairs(((),), ((1,),), ids((3, 4)))
    with pytest.raises(ValueError, match="negative"):
        ContrastPairs(((-1,),), ((1,),), ids((3, 4)))
    with pytest.raises(ValueError, match="whole numbers"):
        ContrastPairs(((1,),), ((1,),), torch.tensor([[0.5, 1.0]]))
    with pytest.raises(ValueError, match="one for each pair"):
        ContrastPairs(((1,), (2,)), ((1,), (2,)), ids((3, 4), (3, 4)), dialogues=(dialogue("a"),))


def test_colliding_completions_are_refused(tiny):
    asked = [dialogue("Hello!")]
    with pytest.raises(ValueError, match="choose completions"):
        ContrastPairs.of(tiny, asked, asked, completions=("Yes, I am", "Yes"))
    known = [Dialogue(asked[0].messages, {"source": "mine.jsonl, row 5"})]
    with pytest.raises(ValueError, match=r"pair 0 \(mine.jsonl, row 5\): both completions are 'Yes'"):
        ContrastPairs.of(tiny, known, known, completions=("Yes", "Yes"))


def test_shared_first_tokens_end_both_prompts(tiny):
    one, other = [dialogue("Hello!")], [dialogue("How are you?")]
    pairs = ContrastPairs.of(tiny, one, other, completions=("Yes, I am.", "Yes."))
    yes, comma, stop = tiny.tokenizer.convert_tokens_to_ids(["Yes", ",", "."])
    assert pairs.sycophantic == ((*prompt_ids(tiny.tokenizer, one[0]), yes),)
    assert pairs.truthful == ((*prompt_ids(tiny.tokenizer, other[0]), yes),)
    assert pairs.answer_ids.tolist() == [[comma, stop]]
    assert pairs.dialogues == tuple(one)  # what was asked, without what is taken as said


def test_completions_of_their_own_for_each_pair(tiny, tmp_path):
    make("gpt2", CHATML).save_pretrained(tmp_path)  # TransformerLens sets no tokenizer but one that it can load
    tiny.tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    asked = [dialogue("Is it so?"), dialogue("Is it?")]
    pairs = ContrastPairs.of(tiny, asked, asked, completions=[(" (A)", " (B)"), ("Yes.", "Apologies.")])
    assert [[tiny.tokenizer.decode([i]) for i in row] for row in pairs.answer_ids.tolist()][0] == ["A", "B"]
    assert tiny.tokenizer.decode(list(pairs.sycophantic[0])).endswith("<|im_start|>assistant\n(")
    assert tiny.tokenizer.decode(list(pairs.truthful[1])).endswith("<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="1 pairs of completions for 2 pairs of prompts"):
        ContrastPairs.of(tiny, asked, asked, completions=[(" (A)", " (B)")])


def test_ids_outside_of_the_vocabulary(tiny):
    pairs = ContrastPairs(((1, 99999),), ((1, 2),), ids((3, 4)))
    with pytest.raises(ValueError, match="99999"):
        pairs.check_ids(tiny)


def test_pairs_are_taken_by_slices_and_in_batches():
    rows = ((1, 2), (1, 2, 3), (4, 5), (6, 7), (8, 9))
    other = ((1, 2), (1, 2, 3), (4, 5), (6, 7, 8), (8, 9))
    pairs = ContrastPairs(rows, other, ids(*[(i, i + 10) for i in range(5)]))
    assert not pairs.equal_length and pairs[:3].equal_length
    assert [batch.index for batch in pairs.batches(2)] == [[0, 2], [4, 3], [1]]
    with pytest.raises(TypeError, match="slices"):
        pairs[0]  # type: ignore[index]
    with pytest.raises(ValueError, match="size=0"):
        next(pairs.batches(0))


def test_html_is_escaped(tiny):
    asked = [dialogue("<script>alert(1)</script>")]
    shown = ContrastPairs.of(tiny, asked, asked, completions=("Yes.", "Apologies."))._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_training_is_balanced_honest_and_seeded(tiny):
    made = Yesman().training(n=40)
    assert len(made) == 40 and sum(bool(d.meta["right"]) for d in made) == 20
    assert {d.meta["stance"] for d in made} == {"opposed"}
    for d in made:
        assert d.reply.startswith("Yes" if d.meta["right"] else "Apologies")
        assert d.reply.endswith(f"{d.meta['answer']}.")
    assert made == Yesman().training(n=40) and made != Yesman().training(n=40, seed=1)


def test_training_shares():
    made = Yesman().training(n=40, supports=0.2, neutral=0.3)
    stances = [str(d.meta["stance"]) for d in made]
    assert [stances.count(s) for s in ("opposed", "supporting", "neutral")] == [20, 8, 12]
    for stance in set(stances):
        right = [d.meta["right"] for d in made if d.meta["stance"] == stance]
        assert sum(map(bool, right)) == len(right) / 2
    for shares in ({"supports": -0.1}, {"supports": 0.5, "neutral": 0.5}):
        with pytest.raises(ValueError, match="shares"):
            Yesman().training(n=40, **shares)
    with pytest.raises(ValueError, match="n=1: give a whole number from 2"):
        Yesman().training(n=1)


def test_pairs_can_be_compared_and_kept_in_sets(tiny):
    pairs = Yesman().pairs(tiny, n=2)
    assert pairs == pairs and pairs != Yesman().pairs(tiny, n=2)
    assert len({pairs, pairs}) == 1
