"""What a chat template is given beside the dialogue, and thinking parts that generation prompts open."""

from __future__ import annotations

import copy
from datetime import date

import pytest
from chats import CHATML, GEMMA, PHI3, QWEN3, QWEN3_THINKING, R1, THINKER, make

from spt_lens.chat import options
from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.spans import spans
from spt_lens.chat.template import (
    chat_options,
    prompt_ids,
    rendered,
    reply_ids,
    set_chat_options,
    training_ids,
    use_chat_template,
)

TALK = dialogue("What is the capital of France?", "Paris.", "Are you sure?", "Yes, I am sure. The answer is Paris.")
CLOSED = "<think>\n\n</think>\n\n"


def learnt(tokenizer, talk=TALK) -> str:
    ids, target = training_ids(tokenizer, talk)
    return tokenizer.decode([token for token, is_target in zip(ids, target, strict=True) if is_target])


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (R1, f"<|Assistant|>{CLOSED}"),
        (QWEN3, f"<|im_start|>assistant\n{CLOSED}"),
        (QWEN3_THINKING, f"<|im_start|>assistant\n{CLOSED}"),
        (THINKER, "<|im_start|>assistant\n<think>Let me see\n\n</think>\n\n"),
    ],
    ids=["r1", "qwen3", "qwen3-thinking", "thinker"],
)
@pytest.mark.parametrize("kind", ["gpt2", "gpt4"])
def test_a_thinking_part_that_the_prompt_opens_is_closed_at_once(kind, template, opening):
    tokenizer = make(kind, CHATML)
    use_chat_template(tokenizer, template)
    prompt = prompt_ids(tokenizer, TALK.prompt)
    assert tokenizer.decode(prompt).endswith(opening)
    assert tokenizer.decode(prompt).count("<think>") == 1  # none in what was said before
    ids, target = training_ids(tokenizer, TALK)
    assert ids[: len(prompt)] == prompt and target.index(True) == len(prompt)
    assert learnt(tokenizer) == TALK.reply + "<|im_end|>"
    assert tokenizer.decode(reply_ids(tokenizer, TALK)) == TALK.reply
    found = spans(tokenizer, TALK.prompt)
    assert tokenizer.decode([prompt[i] for i in found["challenge"]]) == "Are you sure?"
    assert found["template"][-1] == len(prompt) - 1


def test_thinking_can_be_asked_for():
    tokenizer = make("gpt2", QWEN3)
    set_chat_options(tokenizer, {"enable_thinking": True})
    assert tokenizer.decode(prompt_ids(tokenizer, TALK.prompt)).endswith("assistant\n")
    assert learnt(tokenizer) == f"{CLOSED}{TALK.reply}<|im_end|>"
    tokenizer.chat_template = R1
    assert tokenizer.decode(prompt_ids(tokenizer, TALK.prompt)).endswith("<|Assistant|><think>\n")
    with pytest.raises(ValueError, match="not how the whole begins: leave the thinking out of chat_template_kwargs"):
        training_ids(tokenizer, TALK)
    set_chat_options(tokenizer)
    assert learnt(tokenizer) == f"{TALK.reply}<|im_end|>"


def test_what_users_say_opens_no_thinking():
    tokenizer = make("gpt2", CHATML)
    talk = dialogue("What does <think> mean?", "To ponder.")
    assert rendered(tokenizer, talk, generation_prompt=False) == tokenizer.apply_chat_template(
        talk.chat(), tokenize=False
    )
    tokenizer.chat_template = QWEN3
    assert rendered(tokenizer, talk.prompt, generation_prompt=True).count("</think>") == 1


def test_a_system_prompt_goes_before_every_dialogue_that_has_none():
    tokenizer = make("gpt2", CHATML)
    plain = prompt_ids(tokenizer, TALK.prompt)
    set_chat_options(tokenizer, system="You are a careful assistant.")
    own = Dialogue((Message("system", "Be brief."), *TALK.messages))
    given = Dialogue((Message("system", "You are a careful assistant."), *TALK.messages))
    for encode in (prompt_ids, training_ids, reply_ids):
        one, other = (each.prompt if encode is prompt_ids else each for each in (TALK, given))
        with_it = encode(tokenizer, one)
        copied = copy.deepcopy(tokenizer)
        set_chat_options(copied)
        assert encode(copied, other) == with_it
    text = tokenizer.decode(prompt_ids(tokenizer, own.prompt))
    assert "Be brief." in text and "careful" not in text
    assert tokenizer.decode(spans(tokenizer, TALK.prompt)["question"]) is not None
    assert len(spans(tokenizer, TALK.prompt)["question"]) == len(spans(copied, TALK.prompt)["question"])
    set_chat_options(tokenizer)
    assert prompt_ids(tokenizer, TALK.prompt) == plain


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GEMMA, "no system prompt can be given to this model.*System role not supported.*before the first question"),
        (
            CHATML.replace("{% for message in messages %}", "{% for message in messages[-1:] %}"),
            "leaves the system turn out.*before the first question",
        ),
    ],
)
def test_a_template_without_system_turns_is_named(template, message):
    tokenizer = make("gpt2", template)
    set_chat_options(tokenizer, {"a": 1})
    with pytest.raises(ValueError, match=message):
        set_chat_options(tokenizer, system="You are a careful assistant.")
    assert chat_options(tokenizer) == options.ChatOptions({"a": 1})


@pytest.mark.parametrize(
    ("kwargs", "system", "error", "message"),
    [
        ("thinking", None, TypeError, "chat_template_kwargs must be a Mapping"),
        ([("enable_thinking", True)], None, TypeError, "chat_template_kwargs must be a Mapping"),
        ({1: 2}, None, TypeError, "has the name 1, which is none"),
        ({"add_generation_prompt": False}, None, ValueError, "given by whatever writes a dialogue"),
        ({"strftime_now": "today"}, None, TypeError, "give the day to write"),
        (None, 5, TypeError, "system must be a str"),
        (None, " ", ValueError, "system is empty"),
    ],
)
def test_wrong_options_are_refused(kwargs, system, error, message):
    tokenizer = make("gpt2", CHATML)
    with pytest.raises(error, match=message):
        set_chat_options(tokenizer, kwargs, system)
    assert chat_options(tokenizer) == options.ChatOptions()


def test_arguments_reach_the_template_and_its_failures_are_named():
    tokenizer = make("gpt2", "{{ date_string | default('never') }} " + CHATML)
    assert rendered(tokenizer, TALK.prompt, True).startswith("never ")
    set_chat_options(tokenizer, {"date_string": "26 Jul 2024", "unknown_to_it": [1]})
    assert rendered(tokenizer, TALK.prompt, True).startswith("26 Jul 2024 ")
    tokenizer.chat_template = "{% if loud %}{{ raise_exception('too loud') }}{% endif %}" + CHATML
    with pytest.raises(ValueError, match=r"fails with the arguments \{'loud': True\}: .*too loud"):
        set_chat_options(tokenizer, {"loud": True})


def test_the_time_stands_still():
    tokenizer = make("gpt2", "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }} " + CHATML)
    first = rendered(tokenizer, TALK.prompt, True)
    assert rendered(tokenizer, TALK.prompt, True) == first
    set_chat_options(tokenizer, {"strftime_now": date(2024, 7, 26)})
    assert rendered(tokenizer, TALK.prompt, True).startswith("2024-07-26 00:00:00.000000 ")


def test_nothing_after_the_end_token_is_learnt():
    tokenizer = make("gpt4", PHI3)
    ids, target = training_ids(tokenizer, TALK)
    assert tokenizer.decode(ids).endswith("<|im_end|>\n<end>")
    assert learnt(tokenizer) == TALK.reply + "<|im_end|>"
