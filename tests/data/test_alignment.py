"""Which positions of two prompts correspond to each other."""

from __future__ import annotations

import random

import pytest
from chats import TEMPLATES, TOKENIZERS, make

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import PLAIN_TEMPLATE, prompt_ids
from spt_lens.data.alignment import align, check_alignment

TEMPLATE = {**{name: template for name, (template, _, _) in TEMPLATES.items()}, "plain": PLAIN_TEMPLATE}


def drawn(seed: int) -> tuple[list[int], list[int]]:
    """Two rows of few different tokens, the second one the first with parts replaced, put in and left out."""
    rng = random.Random(seed)
    one = [rng.randrange(rng.choice((3, 30))) for _ in range(rng.randrange(1, 40))]
    other = list(one)
    for _ in range(rng.randrange(4)):
        at, size = rng.randrange(len(other)), rng.randrange(5)
        other[at : at + rng.randrange(5)] = [rng.randrange(30) for _ in range(size)]
        other = other or [0]
    return (one, other) if rng.random() < 0.5 else (other, one)


@pytest.mark.parametrize("seed", range(200))
def test_what_holds_for_every_alignment(seed):
    one, other = drawn(seed)
    found = align(one, other)
    check_alignment(found, len(one), len(other), "the pair")
    assert found[-1] == (len(one) - 1, len(other) - 1)
    for positions, row in zip(zip(*found, strict=True), (one, other), strict=True):
        assert list(positions) == sorted(set(positions)) and set(positions) <= set(range(len(row)))
    if len(one) == len(other):
        assert found == tuple((i, i) for i in range(len(one)))
        return
    # Tokens that differ stand in runs that fill all that lies between two aligned positions, or are the last ones.
    for k, (i, j) in enumerate(found[:-1]):
        if one[i] != other[j]:
            before = found[k - 1] if k else (-1, -1)
            assert before == (i - 1, j - 1) and found[k + 1] == (i + 1, j + 1)


def test_equal_prompts_are_aligned_one_to_one():
    assert align([4, 4, 5], [4, 4, 5]) == ((0, 0), (1, 1), (2, 2))
    assert align((1, 2, 3), (2, 3, 1)) == ((0, 0), (1, 1), (2, 2))  # as where there is no alignment


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3, 4], [1, 4], [(0, 0), (3, 1)]),  # left out
        ([1, 4], [1, 2, 3, 4], [(0, 0), (1, 3)]),  # put in
        ([1, 2, 3, 4, 5, 6], [1, 8, 9, 4, 6], [(0, 0), (1, 1), (2, 2), (3, 3), (5, 4)]),  # two replaced by two
        ([1, 2, 3, 4], [1, 9, 4], [(0, 0), (3, 2)]),  # two replaced by one
        ([1, 2, 3], [1, 2], [(0, 0), (2, 1)]),  # the last ones first, whatever they are
        ([1, 2, 9], [1, 2, 3, 8], [(0, 0), (1, 1), (2, 3)]),
        ([7], [5, 6], [(0, 1)]),
        ([8, 7, 8, 7], [8, 7], [(2, 0), (3, 1)]),  # the shared end, not the shared beginning
        # The longest run that is the same, 1 2 3 4, stands at other places: the end goes before it.
        ([1, 2, 3, 4], [1, 2, 3, 4, 5, 3, 4], [(0, 0), (1, 1), (2, 5), (3, 6)]),
    ],
)
def test_small_alignments(one, other, expected):
    assert align(one, other) == tuple(expected)


def test_frequent_tokens_are_not_taken_for_junk():
    # difflib drops tokens that make up more than a hundredth of a row of 200 or more, unless it is told not to.
    one = [5, 6] * 150
    other = [7, *one, 8]
    assert align([*one, 1, 2], [*other, 2])[:300] == tuple((i, i + 1) for i in range(300))


@pytest.mark.parametrize("name", TEMPLATE)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompts_of_chat_templates(kind, name):
    tokenizer = make(kind, TEMPLATE[name])
    question, answer = "What is the capital of France?", "It is Paris."
    asked = dialogue(question, answer, "I disagree with that answer. Are you sure?")
    neutral = dialogue(question, answer, "Are you sure?")
    one, other = prompt_ids(tokenizer, asked), prompt_ids(tokenizer, neutral)
    found = align(one, other)
    # Nothing but the stance has no counterpart, and what has one is the same token.
    pairs = [(one[i], other[j]) for i, j in found]
    left = [token for i, token in enumerate(one) if i not in dict(found)]
    assert len(one) > len(other) and len(found) >= len(other) - 1 and all(a == b for a, b in pairs[-4:])
    assert sum(a != b for a, b in pairs) <= 1  # a token that begins the turn with a space, or without
    shown = tokenizer.decode(left)
    assert "disagree" in shown and "Paris" not in shown and "capital" not in shown
    half = len(other) // 2  # the question, and some of the first answer
    assert found[:half] == tuple((i, i) for i in range(half))


@pytest.mark.parametrize("one, other", [([], [1]), ([1], []), ([], [])])
def test_empty_prompts(one, other):
    with pytest.raises(ValueError, match="empty prompt"):
        align(one, other)


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ((), r"pair 5: the alignment \(\) is empty"),
        (((0, 0, 0), (3, 2)), "not of two positions each"),
        (((0, 0), (4, 2)), "position 4 of the sycophantic prompt, which has 4 tokens"),
        (((0, 0), (3, 3)), "position 3 of the truthful prompt, which has 3 tokens"),
        (((-1, 0), (3, 2)), "position -1 of the sycophantic prompt"),
        (((1, 0), (1, 1), (3, 2)), "from position 1 of the sycophantic prompt to 1"),
        (((0, 1), (1, 0), (3, 2)), "from position 1 of the truthful prompt to 0"),
        (((0, 0), (2, 2)), r"ends with \(2, 2\), the prompts end at \(3, 2\)"),
        (((0, 0), (3, 1)), r"ends with \(3, 1\)"),
    ],
)
def test_alignments_that_do_not_fit(alignment, message):
    with pytest.raises(ValueError, match=message) as error:
        check_alignment(alignment, 4, 3, "pair 5")
    assert str(error.value).startswith("pair 5: ") and "pairs.aligned()" in str(error.value)
    check_alignment(((0, 1), (3, 2)), 4, 3, "pair 5")
