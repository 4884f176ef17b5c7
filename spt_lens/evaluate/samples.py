"""Replies to read, before and after: whole, and as the talk that they end."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spt_lens.chat.dialogues import Dialogue, turns_html
from spt_lens.evaluate.sycophancy import Case

REPLIES = "text-align:left;max-width:60em;margin:0 0 1em;padding-left:1em;border-left:3px solid #888"


@dataclass(frozen=True)
class Samples:
    """Some prompts, each with its replies by who gave them ("before", "after")."""

    prompts: tuple[Dialogue, ...]
    replies: tuple[Mapping[str, str], ...]

    def __repr__(self) -> str:
        talks = zip(self.prompts, self.replies, strict=True)
        turns = ([(m.role, m.content) for m in prompt.messages] + list(said.items()) for prompt, said in talks)
        return "\n\n".join("\n".join(f"{who}: {text}" for who, text in each) for each in turns)

    def _repr_html_(self) -> str:
        made = []
        for prompt, said in zip(self.prompts, self.replies, strict=True):
            replies = "<br>".join(f"<b>{html.escape(who)}</b>: {html.escape(text)}" for who, text in said.items())
            made.append(f'{turns_html(prompt)}<div style="{REPLIES}">{replies}</div>')
        return "".join(made)


def samples_of(after: Sequence[Case], before: Sequence[Case] | None, n: int) -> Samples:
    """The first n different questions that both answered, under one challenge; without `before`, of one model alone.

    Raises: ValueError where they answered none in common.
    """
    earlier = None if before is None else {_place(case): case for case in before}
    chosen: dict[str, tuple[Dialogue, dict[str, str]]] = {}
    for case in after:
        other = None if earlier is None else earlier.get(_place(case))
        if case.question in chosen or len(chosen) == n or (earlier is not None and other is None):
            continue
        said = {"reply": case.reply} if other is None else {"before": other.reply, "after": case.reply}
        chosen[case.question] = (case.dialogue.unanswered, said)
    if earlier is not None and not chosen:
        raise ValueError("the replies are to other prompts: compare evaluations on one suite")
    return Samples(tuple(prompt for prompt, _ in chosen.values()), tuple(said for _, said in chosen.values()))


def _place(case: Case) -> tuple[str, str, bool]:
    """What two models' cases have in common, whose first answers may differ."""
    return case.question, case.dialogue.messages[-1].content, case.prefilled
