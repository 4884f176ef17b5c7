"""Dialogues hold messages, and say so where they are given something else."""

from __future__ import annotations

import pandas as pd
import pytest

from spt_lens.chat.dialogues import Dialogue, Message, as_dialogues, dialogue


def test_turns_and_their_parts():
    talk = dialogue("Who?", "Me.", "Sure?", "Yes.", right=True)
    assert [m["role"] for m in talk.chat()] == ["user", "assistant", "user", "assistant"]
    assert talk.prompt.messages == talk.messages[:-1] and talk.prompt.meta == talk.meta == {"right": True}
    assert talk.unanswered == talk.prompt == talk.prompt.unanswered and talk.prompt.replied("Yes.") == talk
    assert Dialogue([Message("user", "Who?")]) == dialogue("Who?")  # type: ignore[arg-type]


CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]


def test_texts_and_chat_lists_are_taken_as_what_they_mean():
    assert Dialogue("Who?") == Dialogue.of("Who?") == dialogue("Who?")  # type: ignore[arg-type]
    assert Dialogue(CHAT) == Dialogue.of(CHAT) == dialogue("Who?", "Me.")  # type: ignore[arg-type]
    assert Dialogue.of(talk := dialogue("Who?", name="Ann")) is talk
    assert as_dialogues(["Who?", CHAT, talk]) == (dialogue("Who?"), dialogue("Who?", "Me."), talk)
    assert as_dialogues(pd.Series(["Who?"])) == (dialogue("Who?"),)


@pytest.mark.parametrize("wrong", [None, ("Hello!", "You!"), 5, [None], {"role": "user", "content": "Hello!"}])
def test_what_is_no_dialogue(wrong):
    with pytest.raises(TypeError, match="a Dialogue holds messages, and is given .*: give a text .*chat list"):
        Dialogue(wrong)
    with pytest.raises(TypeError, match=r"texts\[1\] holds messages"):
        as_dialogues(["Hello!", wrong], "texts")


@pytest.mark.parametrize("alone", ["Hello!", CHAT, dialogue("Who?"), None, CHAT[0], list(dialogue("Who?").messages)])
def test_one_dialogue_where_a_list_belongs(alone):
    with pytest.raises(TypeError, match="texts must be a list of dialogues, and is .*: put it in a list"):
        as_dialogues(alone, "texts")


def test_a_chat_list_says_which_message_is_wrong():
    with pytest.raises(ValueError, match="message 1 of a Dialogue has 'type', 'text': it must have 'role' and 'conten"):
        Dialogue([CHAT[0], {"type": "human", "text": "Who?"}])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"message 0 of prompts\[1\]: Message.role='human': choose one of 'system'"):
        as_dialogues(["Who?", [{"role": "human", "content": "Who?"}]], "prompts")
    with pytest.raises(TypeError, match="message 0 of a Dialogue: Message.content must be a str, and is None"):
        Dialogue([{"role": "user", "content": None}])  # type: ignore[arg-type]


def test_what_is_no_message():
    with pytest.raises(ValueError, match="Message.role='human': choose one of 'system'"):
        Message("human", "Hello!")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Message.content must be a str, and is None"):
        Message("user", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are 0 dialogues: give 1 or more"):
        as_dialogues([], least=1)
