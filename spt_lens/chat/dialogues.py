"""Dialogues: messages in turn, and what they are about."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spt_lens.checking import door, instance, shown

Role = Literal["system", "user", "assistant"]
Meta = dict[str, str | bool | tuple[str, ...]]
Chat = list[dict[str, str]]  # as transformers takes it: [{"role": "user", "content": "Who?"}]
_WAY_OUT = (
    'give a text (one user turn), a chat list ([{"role": "user", "content": "..."}]), or make one by '
    'dialogue("What is it?", "It is 5.", "Are you sure?") of spt_lens.chat.dialogues'
)
_MANY = 'put it in a list, also where it is only one: ["..."]; each is a text, a chat list or a Dialogue'


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
    messages: Messages, or as `Dialogue.of` takes them: a chat list, or a text, which is one user turn.

    Raises: TypeError for anything else; ValueError for a message without a known role and a content.
    """

    messages: tuple[Message, ...]
    meta: Meta = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", _messages(self.messages, "a Dialogue"))
        instance(self.meta, "Dialogue.meta", Mapping, 'give a dict, such as {"topic": "capitals"}')

    @classmethod
    def of(cls, value: Any, name: str = "a dialogue") -> Dialogue:
        """A text as one user turn, a chat list as its turns, a Dialogue as it is. name: what errors call it."""
        return value if isinstance(value, Dialogue) else cls(_messages(value, name))

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
    def replied(self, reply: str, rejected: str | None = None) -> Dialogue:
        """The dialogue with the assistant's reply at its end.

        rejected: the reply that is not wanted, for what learns from both (DPO, steering, ITI); none if it is the same.
        That of an earlier reply is dropped.
        """
        meta = {name: value for name, value in self.meta.items() if name != "rejected"}
        meta |= {} if rejected in (None, reply) else {"rejected": str(rejected)}
        return Dialogue((*self.messages, Message("assistant", reply)), meta)

    @property
    def rejected(self) -> Dialogue | None:
        """The dialogue with the rejected reply in place of its own, if it has one."""
        other = self.meta.get("rejected")
        return Dialogue((*self.messages[:-1], Message("assistant", other)), {}) if isinstance(other, str) else None


@door
def dialogue(*turns: str, **meta: str | bool | tuple[str, ...]) -> Dialogue:
    """A dialogue from its turns, the user's first."""
    roles: tuple[Role, ...] = ("user", "assistant")
    return Dialogue(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)), meta)


def turns_html(dialogue: Dialogue) -> str:
    """Its turns below each other, escaped, and on the left wherever they stand."""
    turns = "<br>".join(f"<i>{html.escape(m.role)}</i>: {html.escape(m.content)}" for m in dialogue.messages)
    return f'<div style="text-align:left;max-width:60em;overflow-wrap:anywhere">{turns}</div>'


def as_dialogues(dialogues: Any, name: str = "dialogues", least: int = 0) -> tuple[Dialogue, ...]:
    """A list of dialogues, each of them as `Dialogue.of` takes it.

    Raises: TypeError for anything else, such as one dialogue that is not in a list; ValueError if there are too few.
    """
    if hasattr(dialogues, "tolist"):  # a column of a table
        dialogues = dialogues.tolist()
    alone = isinstance(dialogues, str | Dialogue | Mapping) or not isinstance(dialogues, Sequence)
    if alone or (dialogues and all(isinstance(each, Mapping | Message) for each in dialogues)):
        raise TypeError(f"{name} must be a list of dialogues, and is {_called(dialogues)}: {_MANY}")
    found = tuple(Dialogue.of(each, f"{name}[{i}]") for i, each in enumerate(dialogues))
    if len(found) < least:
        raise ValueError(f"there are {len(found)} {name}: give {least} or more")
    return found


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    """What a dialogue's messages can be given as. Raises as `Dialogue.of` does."""
    if isinstance(value, str):
        value = [Message("user", value)]
    if not isinstance(value, list | tuple) or any(not isinstance(each, Message | Mapping) for each in value):
        raise TypeError(f"{name} holds messages, and is given {_called(value)}: {_WAY_OUT}")
    made = []
    for i, each in enumerate(value):
        if isinstance(each, Mapping):
            if not {"role", "content"} <= each.keys():
                fields = ", ".join(map(repr, each)) or "no fields"
                raise ValueError(f"message {i} of {name} has {fields}: it must have 'role' and 'content'")
            try:
                each = Message(each["role"], each["content"])
            except (TypeError, ValueError) as error:
                raise type(error)(f"message {i} of {name}: {error}") from None
        made.append(each)
    return tuple(made)


def _called(value: Any) -> str:
    """What an error calls something else."""
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return f"a list of {len(value)} texts"
    return shown(value)


def check_ends(dialogue: Any, role: Literal["user", "assistant"]) -> None:
    """Raises TypeError for what is no Dialogue, ValueError for one whose last message is of another role."""
    instance(dialogue, "dialogue", Dialogue, _WAY_OUT)
    last = dialogue.messages[-1].role if dialogue.messages else "nothing"
    if role == "user" and last != role:
        raise ValueError(f"a prompt must end with a user turn, this one ends with {last}: take dialogue.unanswered")
    if role == "assistant" and last != role:
        raise ValueError(f"what is learnt must end with an assistant turn, this one ends with {last}: add the reply")
