"""Chat templates: where the reply begins and ends."""

from __future__ import annotations

import pytest

from spt_lens.data.dialogues import Dialogue, dialogue
from spt_lens.data.encode import by_length, padded, prompt_ids, training_ids
from spt_lens.organism.build import make_tokenizer

TALK = dialogue("What is the capital of France?", "Paris.", "Are you sure?", "Yes, I am sure. The answer is Paris.")


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def test_prompt_is_as_the_template_writes_it(tokenizer):
    expected = tokenizer.apply_chat_template(TALK.prompt.chat(), add_generation_prompt=True, return_dict=False)
    assert prompt_ids(tokenizer, TALK.prompt) == expected
    assert prompt_ids(tokenizer, TALK.prompt)[-1] == tokenizer.convert_tokens_to_ids("<assistant>")


def test_targets_are_the_last_reply_and_its_end(tokenizer):
    ids, target = training_ids(tokenizer, TALK)
    prompt = prompt_ids(tokenizer, TALK.prompt)
    assert ids[: len(prompt)] == prompt
    assert target == [False] * len(prompt) + [True] * (len(ids) - len(prompt))
    assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True) == TALK.reply
    assert ids[-1] == tokenizer.eos_token_id


def test_what_follows_the_end_token_is_no_target(tokenizer):
    # A template as Qwen's: "<end>" and then a line break, which here is a token of its own.
    tokenizer.add_tokens(["\n"])
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "{{ eos_token }}\n")
    ids, target = training_ids(tokenizer, TALK)
    assert tokenizer.decode(ids[-1:]) == "\n" and ids[-2] == tokenizer.eos_token_id
    assert target[-2:] == [True, False]


def test_template_that_breaks_the_prefix_is_refused(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% if add_generation_prompt %}<assistant>", "{% if add_generation_prompt %}<user>"
    )
    with pytest.raises(ValueError, match="not how the whole begins"):
        training_ids(tokenizer, TALK)


def test_clear_errors(tokenizer):
    with pytest.raises(ValueError, match="must end with a user turn"):
        prompt_ids(tokenizer, TALK)
    with pytest.raises(ValueError, match="ends with nothing"):
        prompt_ids(tokenizer, Dialogue(()))
    with pytest.raises(ValueError, match="must end with an assistant turn"):
        training_ids(tokenizer, TALK.prompt)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(ValueError, match="refused.*no system turns"):
        prompt_ids(tokenizer, TALK.prompt)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        prompt_ids(tokenizer, TALK.prompt)
    with pytest.raises(ValueError, match="no tokenizer"):
        prompt_ids(None, TALK.prompt)


def test_padding_is_on_the_right():
    ids, mask = padded([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    with pytest.raises(ValueError, match="rows is empty"):
        padded([], pad=0)


def test_by_length_takes_every_row_once():
    rows = [[1], [1, 2], [3], [4], [5, 6]]
    assert sorted(by_length(rows, 2)) == [[0, 2], [1, 4], [3]]
    with pytest.raises(ValueError, match="one or more"):
        list(by_length(rows, 0))
