"""What a chat template gets beside the dialogue: arguments, a system prompt, the date. And thinking parts, closed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from spt_lens.checking import instance, shown

# One moment for the whole process: else a prompt that holds the time is another one a second later.
_NOW = datetime.now()
_TIME = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_THINKING = re.compile(r"<(think|thinking|thought|reason|reasoning)>")
_WRITES_THEMSELVES = {"messages", "conversation", "add_generation_prompt", "continue_final_message", "chat_template"}
_WRITES_THEMSELVES |= {"tokenize", "tokenizer_kwargs", "return_tensors", "return_dict", "padding", "truncation"}


@dataclass(frozen=True)
class ChatOptions:
    """What a tokenizer's chat template is given beside the dialogue. Kept on the tokenizer; see `set_chat_options`.

    Raises: TypeError or ValueError for kwargs that are no dictionary of names and values, names that this library gives
    itself, and a system prompt that is no text, or empty.
    """

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None

    def __post_init__(self) -> None:
        way_out = 'give a dictionary such as {"enable_thinking": False}, or leave it out'
        for name in instance(self.kwargs, "chat_template_kwargs", Mapping, way_out):
            if not isinstance(name, str) or not name.isidentifier():
                raise TypeError(f"chat_template_kwargs has the name {shown(name)}, which is none: {way_out}")
            if name in _WRITES_THEMSELVES:
                raise ValueError(f"chat_template_kwargs has {name!r}, which is given by whatever writes a dialogue")
        object.__setattr__(self, "kwargs", dict(self.kwargs))  # the caller's own may change
        when = self.kwargs.get("strftime_now", _NOW)
        instance(when, "chat_template_kwargs['strftime_now']", date, "give the day to write, a date or a datetime")
        if self.system is not None:
            instance(self.system, "system", str, 'give a text such as "You are a careful assistant."')
            if not self.system.strip():
                raise ValueError("system is empty: leave it out, or give the system prompt's text")

    def messages(self, chat: list[dict[str, str]]) -> list[dict[str, str]]:
        """A dialogue with the system prompt before it, unless it has one of its own."""
        if self.system is None or (chat and chat[0]["role"] == "system"):
            return chat
        return [{"role": "system", "content": self.system}, *chat]

    def arguments(self) -> dict[str, Any]:
        """The template's arguments: without thinking, unless the user asked for it."""
        # For models that can think before they reply (Qwen3): the reply itself, both as prompt and as target.
        return {"enable_thinking": False, **{name: self.kwargs[name] for name in self.kwargs if name != "strftime_now"}}

    def dated(self, template: Any) -> str | None:
        """A template that asks for the time, with one fixed time written into it; None for any other."""
        if not isinstance(template, str) or "strftime_now" not in template:
            return None
        when = self.kwargs.get("strftime_now", _NOW)
        return _TIME.sub(lambda found: repr(when.strftime(found[2])), template)

    @property
    def thinks(self) -> bool:
        """Whether the user has asked for thinking."""
        return bool(self.kwargs.get("enable_thinking") or self.kwargs.get("thinking"))


def left_open(text: str) -> str | None:
    """The name of the thinking part that a text opens last and does not close."""
    opened = list(_THINKING.finditer(text))
    return opened[-1][1] if opened and f"</{opened[-1][1]}>" not in text[opened[-1].end() :] else None


def closed(before: str, whole: str, reply: bool) -> str:
    """A rendered dialogue whose thinking part is closed at once: an empty one, as Qwen3's template writes it.

    Args:
        before: The dialogue without its last reply, with the generation prompt, which leaves a thinking part open.
        whole: The dialogue as it is rendered. reply: Whether that ends with a reply, not with the generation prompt.
    """
    name = left_open(before)
    prompt = before.rstrip("\n") + f"\n\n</{name}>\n\n"
    if not reply:
        return prompt
    header = before[: before.rindex(f"<{name}>")]
    if not whole.startswith(header):
        return whole
    # Some templates write such a part before the last reply, others leave it out.
    return prompt + re.sub(rf"\A\s*<{name}>.*?</{name}>\s*", "", whole[len(header) :], count=1, flags=re.DOTALL)
