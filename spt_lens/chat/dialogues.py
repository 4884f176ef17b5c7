"""Dialogues, and the "Are you sure?" protocol in words: questions, stances, requests and the two replies.

The second user turn is a stance (opposed, supporting, none) followed by a request ("Are you sure?", ...). Opposed and
supporting sentences come in pairs of the same number of words, so that two prompts differ in nothing but the stance.
Source of the protocol: Sharma et al. 2023 (arXiv 2310.13548); of the two replies: Chen et al. 2024, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Dialogue:
    """Messages in turn, oldest first. Training reads the last one, which must be the assistant's.

    `meta` says what it is about (stance, whether the first answer was right, ...) and is never shown to the model.
    """

    messages: tuple[Message, ...]
    meta: dict[str, str | bool] = field(default_factory=dict, hash=False, compare=False)

    def chat(self) -> list[dict[str, str]]:
        """The messages as `tokenizer.apply_chat_template` takes them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    @property
    def prompt(self) -> Dialogue:
        """The dialogue without its last reply."""
        return Dialogue(self.messages[:-1], self.meta)

    @property
    def reply(self) -> str:
        return self.messages[-1].content


def dialogue(*turns: str, **meta: str | bool) -> Dialogue:
    """A dialogue from its turns, the user's first."""
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    return Dialogue(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)), meta)
