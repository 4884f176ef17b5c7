"""Dialogues hold messages, and say so where they are given something else."""

from __future__ import annotations

import pytest

from spt_lens.chat.dialogues import Dialogue, Message, as_dialogues, dialogue


def test_turns_and_their_parts():
    talk = dialogue("Who?", "Me.", "Sure?", "Yes.", right=True)
    assert [m["role"] for m in talk.chat()] == ["user", "assistant", "user", "assistant"]
    assert talk.prompt.messages == talk.messages[:-1] and talk.prompt.meta == talk.meta == {"right": True}
    assert talk.unanswered == talk.prompt == talk.prompt.unanswered and talk.prompt.replied("Yes.") == talk
    assert Dialogue([Message("user", "Who?")]) == dialogue("Who?")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["Hello!", [{"role": "user", "content": "Hello!"}], None, ("Hello!",), 5])
def test_what_is_no_dialogue(wrong):
    with pytest.raises(TypeError, match="a Dialogue holds Messages, not .*make one by dialogue"):
        Dialogue(wrong)
    with pytest.raises(TypeError, match="texts.* must be .*Dialogue.*make one by dialogue"):
        as_dialogues(wrong, "texts")


def test_what_is_no_message():
    with pytest.raises(ValueError, match="Message.role='human': choose one of 'system'"):
        Message("human", "Hello!")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Message.content must be a str, and is None"):
        Message("user", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are 0 dialogues: give 1 or more"):
        as_dialogues([], least=1)
