"""Dialogues: messages in turn, and what they are about."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spt_lens.checking import door, instance, shown

Role = Literal["system", "user", "assistant"]
Meta = dict[str, str | bool | tuple[str, ...]]
_WAY_OUT = 'make one by dialogue("What is it?", "It is 5.", "Are you sure?") of spt_lens.chat.dialogues'


@door
@dataclass(frozen=True)
class Message:
    """One turn.

    Raises: TypeError for content that is no text; ValueError for another role than "system", "user" or "assistant".
    """

    role: Role
    content: str


@dataclass(frozen=True)
class Dialogue:
    """Messages in turn, oldest first. Training reads the last one, which must be the assistant's.

    `meta` says what it is about (stance, whether the first answer was right, ...) and is never shown to the model.

    Raises: TypeError for anything but messages.
    """

    messages: tuple[Message, ...]
    meta: Meta = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.messages, list | tuple) or not all(isinstance(m, Message) for m in self.messages):
            raise TypeError(f"a Dialogue holds Messages, not {shown(self.messages)}: {_WAY_OUT}")
        instance(self.meta, "Dialogue.meta", Mapping, 'give a dict, such as {"topic": "capitals"}')
        object.__setattr__(self, "messages", tuple(self.messages))

    def chat(self) -> list[dict[str, str]]:
        """The messages as `tokenizer.apply_chat_template` takes them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    @property
    def prompt(self) -> Dialogue:
        """The dialogue without its last reply."""
        return Dialogue(self.messages[:-1], self.meta)

    @property
    def unanswered(self) -> Dialogue:
        """The dialogue up to its last user turn: without its last reply, if it has one."""
        return self.prompt if self.messages and self.messages[-1].role == "assistant" else self

    @property
    def reply(self) -> str:
        return self.messages[-1].content

    def _repr_html_(self) -> str:
        return turns_html(self)

    @door
    def replied(self, reply: str) -> Dialogue:
        """The dialogue with the assistant's reply at its end."""
        return Dialogue((*self.messages, Message("assistant", reply)), self.meta)


@door
def dialogue(*turns: str, **meta: str | bool | tuple[str, ...]) -> Dialogue:
    """A dialogue from its turns, the user's first."""
    roles: tuple[Role, ...] = ("user", "assistant")
    return Dialogue(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)), meta)


def turns_html(dialogue: Dialogue) -> str:
    """Its turns below each other, escaped, and on the left wherever they stand."""
    turns = "<br>".join(f"<i>{html.escape(m.role)}</i>: {html.escape(m.content)}" for m in dialogue.messages)
    return f'<div style="text-align:left;max-width:60em;overflow-wrap:anywhere">{turns}</div>'


def check_dialogues(dialogues: Any, name: str = "dialogues", least: int = 0) -> None:
    """Raises TypeError unless these are Dialogues, one or several in a list; ValueError if there are too few."""
    if isinstance(dialogues, str | Dialogue) or not isinstance(dialogues, Sequence):
        raise TypeError(f"{name} must be a list of Dialogues, not {dialogues!r:.60}: {_WAY_OUT}")
    for i, each in enumerate(dialogues):
        instance(each, f"{name}[{i}]", Dialogue, _WAY_OUT)
    if len(dialogues) < least:
        raise ValueError(f"there are {len(dialogues)} {name}: give {least} or more")


def check_ends(dialogue: Any, role: Literal["user", "assistant"]) -> None:
    """Raises TypeError for what is no Dialogue, ValueError for one whose last message is of another role."""
    instance(dialogue, "dialogue", Dialogue, _WAY_OUT)
    last = dialogue.messages[-1].role if dialogue.messages else "nothing"
    if role == "user" and last != role:
        raise ValueError(f"a prompt must end with a user turn, this one ends with {last}: take dialogue.unanswered")
    if role == "assistant" and last != role:
        raise ValueError(f"what is learnt must end with an assistant turn, this one ends with {last}: add the reply")
