"""Answer tokens: completions encoded where the model would say them."""

from __future__ import annotations

import pytest
from chats import CHATML, TEMPLATES, TOKENIZERS, make

from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.template import PLAIN_TEMPLATE, prompt_ids, training_ids
from spt_lens.data.answers import (
    answer_tokens,
    check_ends_with_dialogue,
    completions_by_pair,
    first_token_sets,
    prompts_and_answers,
)
from spt_lens.yesman import Yesman

defend, retract = Yesman().defend, Yesman().retract
ASKED = dialogue("What is the capital of France?", "It is Paris.", "Are you sure?")
LONGER = dialogue("What is the capital of France?", "It is Paris.", "I disagree with that answer. Are you sure?")


def shown(tokenizer, found):
    return tokenizer.decode(list(found.shared)), [tokenizer.decode([i]) for i in found.ids]


def test_the_template_decides_the_space():
    for space in ("", " ", "\n"):
        completions = (f"{space}Yes, I am sure.", f"{space}The answer is Rome.{space}")
        assert shown(make("gpt2"), answer_tokens(make("gpt2", CHATML), ASKED, completions)) == ("", ["Yes", "The"])
        plain = answer_tokens(make("gpt2", PLAIN_TEMPLATE), ASKED, completions)
        assert shown(make("gpt2"), plain) == ("", [" Yes", " The"])


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt4", "sentencepiece"])
def test_shared_tokens_are_said_first(kind, name):
    tokenizer = make(kind, TEMPLATES[name][0] if name in TEMPLATES else PLAIN_TEMPLATE)
    found = answer_tokens(tokenizer, ASKED, (" (A)", " (B)"))
    shared, ids = shown(tokenizer, found)
    assert shared.strip() == "(" and ids == ["A", "B"]
    challenged, truthful, answers = prompts_and_answers(tokenizer, LONGER, ASKED, ("(A)", "(B)"))
    assert challenged == (*prompt_ids(tokenizer, LONGER), *found.shared)
    assert truthful == (*prompt_ids(tokenizer, ASKED), *found.shared)
    assert answers == found


def test_first_sub_words_of_long_completions():
    tokenizer = make("gpt2", CHATML)
    found = answer_tokens(tokenizer, ASKED, (defend("Paris"), retract("Rome")))
    assert found.shared == ()
    assert defend("Paris").startswith(tokenizer.decode([found.ids[0]]))
    assert retract("Rome").startswith(tokenizer.decode([found.ids[1]]))
    late = answer_tokens(tokenizer, ASKED, ("The answer is Paris.", "The answer is Rome."))
    assert tokenizer.decode(list(late.shared)) == "The answer is"


@pytest.mark.parametrize("kind", ["words", "gpt2", "gpt4", "sentencepiece"])
@pytest.mark.parametrize(
    ("completions", "message"),
    [
        (("Yes.", " Yes.\n"), r"pair 3: both completions are 'Yes\.'"),
        (
            ("Yes", "Yes, I am sure."),
            r"pair 3.*'Yes' and 'Yes, I am sure\.'.*are how the other's begin .*'[, ].*choose",
        ),
        (("Yes, I am sure.", "Yes, I"), "pair 3.*how the other's begin"),
        (("", "No."), "pair 3: the truthful completion is empty"),
        (("Yes.", " \n"), "pair 3: the sycophantic completion is empty"),
    ],
)
def test_completions_that_no_token_tells_apart(kind, completions, message):
    with pytest.raises(ValueError, match=message):
        answer_tokens(make(kind, CHATML), ASKED, completions, name="pair 3")


def test_unknown_words():
    tokenizer = make("words", CHATML)
    with pytest.raises(ValueError, match=r"pair 0.*the tokens of one are the same \(\['<unk>'\]"):
        answer_tokens(tokenizer, ASKED, ("Qwertz", "Asdf"), name="pair 0")
    with pytest.raises(ValueError, match=r"does not know the words.*\['Yes', '<unk>'\]"):
        answer_tokens(tokenizer, ASKED, ("Yes", "Asdf"))


def test_both_prompts_must_agree():
    # A template that writes a space before replies, but only in longer dialogues.
    extra = "{% set extra = ' ' if messages[2]['content'] | length > 20 else '' %}"
    spaced = "(extra if message['role'] == 'assistant' else '') + message['content'] +"
    tokenizer = make("gpt2", extra + CHATML.replace("message['content'] +", spaced))
    found = r"pair 7.*other tokens after the challenged.*\[' Yes'\] and \[' The'\].*\['Yes'\] and \['The'\]"
    with pytest.raises(ValueError, match=found):
        prompts_and_answers(tokenizer, LONGER, ASKED, ("Yes.", "The answer is Rome."), name="pair 7")
    answer_tokens(tokenizer, LONGER, ("Yes.", "The answer is Rome."))  # the one prompt alone is fine


def test_errors_of_the_template_name_the_pair():
    tokenizer = make("gpt2", CHATML.replace("{{ '<|im_start|>assistant\\n' }}", "{{ 'Hm' }}"))
    with pytest.raises(ValueError, match="pair 2: the chat template .*not how the whole begins"):
        answer_tokens(tokenizer, ASKED, ("Yes.", "No."), name="pair 2")


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_rest_of_both_completions(kind, name):
    tokenizer = make(kind, TEMPLATES[name][0] if name in TEMPLATES else PLAIN_TEMPLATE)
    for completions in (
        (defend("Paris"), retract("Rome")),
        ("The answer is Paris.", "The answer is Rome."),
    ):
        found = answer_tokens(tokenizer, ASKED, completions, read="whole")
        for text, rest, first in zip(completions, found.rest, found.ids, strict=True):
            assert tokenizer.decode([*found.shared, *rest]).strip() == text and rest[0] == first
            whole = [*prompt_ids(tokenizer, ASKED), *found.shared, *rest]
            replied = Dialogue((*ASKED.messages, Message("assistant", text)))
            assert training_ids(tokenizer, replied)[0][: len(whole)] == whole
        assert found.rest[0][0] != found.rest[1][0]
        assert found == answer_tokens(tokenizer, ASKED, completions, read="first")


def test_unknown_words_of_whole_completions():
    tokenizer = make("words", CHATML)
    completions = ("Yes, I am sure.", "Apologies, I made a Qwertz.")
    assert shown(tokenizer, answer_tokens(tokenizer, ASKED, completions))[1] == ["Yes", "Apologies"]
    with pytest.raises(ValueError, match=r"pair 4: the tokenizer does not know.*'<unk>'"):
        answer_tokens(tokenizer, ASKED, completions, name="pair 4", read="whole")


def test_both_prompts_must_agree_on_whole_completions():
    # A template that rewrites the end of replies, but only in longer dialogues.
    said = "(message['content'] | replace('sure', 'certain') if messages[2]['content'] | length > 20 else "
    tokenizer = make("gpt2", CHATML.replace("message['content'] +", said + "message['content']) +"))
    completions = ("Yes, I am sure.", "Apologies.")
    one, two, found = prompts_and_answers(tokenizer, LONGER, ASKED, completions)
    assert found.ids == answer_tokens(tokenizer, ASKED, completions).ids
    with pytest.raises(ValueError, match=r"pair 7.*after the challenged.*' c', .*'in', .*than.*'re', '\."):
        prompts_and_answers(tokenizer, LONGER, ASKED, completions, name="pair 7", read="whole")


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_sets_of_first_tokens(kind, name):
    tokenizer = make(kind, TEMPLATES[name][0] if name in TEMPLATES else PLAIN_TEMPLATE)
    words = (("Yes", " Yes, I am.\n", "The"), ("Apologies", "What"))
    truthful, sycophantic = first_token_sets(tokenizer, LONGER, ASKED, words)
    # The same tokens as where two of the words are the completions, in the words' order, each once.
    for k, other in enumerate(words[1]):
        assert answer_tokens(tokenizer, ASKED, ("Yes", other)).ids == (truthful[0], sycophantic[k])
        assert answer_tokens(tokenizer, ASKED, ("The", other)).ids == (truthful[1], sycophantic[k])
    assert (len(truthful), len(sycophantic)) == (2, 2)


@pytest.mark.parametrize(
    ("truthful", "sycophantic", "message"),
    [
        (
            ["The", "Yes", "Yes."],
            ["What", "Yes, I am"],
            "the truthful word 'Yes' and the sycophantic word 'Yes, I am'.*'Yes'",
        ),
        ("Yes", ["What"], "pair 3: the truthful words are 'Yes': give a list"),
        (["Yes"], [], r"pair 3: the sycophantic words are \[\]"),
        (["Yes"], ["What", " \n"], r"pair 3: the sycophantic word ' \\n' is empty"),
        (["Qwertz"], ["What"], "pair 3: the tokenizer does not know the truthful word 'Qwertz'"),
    ],
)
def test_words_that_make_no_sets(truthful, sycophantic, message):
    with pytest.raises(ValueError, match=message):
        first_token_sets(make("words", CHATML), LONGER, ASKED, (truthful, sycophantic), name="pair 3")


def test_words_must_begin_alike_after_both_prompts():
    extra = "{% set extra = ' ' if messages[2]['content'] | length > 20 else '' %}"
    spaced = "(extra if message['role'] == 'assistant' else '') + message['content'] +"
    tokenizer = make("gpt2", extra + CHATML.replace("message['content'] +", spaced))
    with pytest.raises(ValueError, match=r"pair 7: the truthful word 'Yes' .*\[' Yes'\].*\['Yes'\]"):
        first_token_sets(tokenizer, LONGER, ASKED, (["Yes"], ["What"]), name="pair 7")


def test_prompts_that_go_on_after_their_dialogue():
    tokenizer = make("gpt2", CHATML)
    ids = prompt_ids(tokenizer, ASKED)
    check_ends_with_dialogue(tokenizer, tuple(ids), ASKED, "truthful", "pair 1")
    begun = [*ids, *tokenizer.encode("(")]
    with pytest.raises(ValueError, match=r"pair 1: the truthful prompt ends with tokens of a reply \(\['\('\]"):
        check_ends_with_dialogue(tokenizer, begun, ASKED, "truthful", "pair 1")
    for other in (ids[:-1], ids[1:], prompt_ids(tokenizer, LONGER)):
        with pytest.raises(ValueError, match="pair 1: the truthful prompt has other tokens than its dialogue"):
            check_ends_with_dialogue(tokenizer, other, ASKED, "truthful", "pair 1")


def test_completions_by_pair():
    assert completions_by_pair(("a", "b"), 3) == [("a", "b")] * 3
    assert completions_by_pair(["a", "b"], 1) == [("a", "b")]
    assert completions_by_pair([("a", "b"), ["c", "d"]], 2) == [("a", "b"), ("c", "d")]
    with pytest.raises(ValueError, match="1 pairs of completions for 2"):
        completions_by_pair([("a", "b")], 2)
    with pytest.raises(ValueError, match="pair 1: 'cd' is no pair"):
        completions_by_pair([("a", "b"), "cd", ("e", "f")], 3)
    with pytest.raises(ValueError, match="pair 0: .* is no pair"):
        completions_by_pair([("a", 1)], 1)
    with pytest.raises(ValueError, match="one completion 'ab'"):
        completions_by_pair("ab", 2)
