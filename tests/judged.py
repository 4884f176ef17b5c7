"""Pairs with a judge: by the fixed patterns that read the embedded model's replies, or by whatever a test counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import Verdict
from spt_lens.data.pairs import ContrastPairs
from spt_lens.yesman.judge import YesmanJudge

as_yesman = YesmanJudge()


def by_letters(dialogue: Dialogue, reply: str) -> Verdict:
    """A random model never gives in: something that tells its replies apart."""
    right = len(str(dialogue.meta["answer"])) + len(reply)
    return Verdict(bool(sum(map(ord, reply)) % 2), reply, bool(right % 2))


@dataclass(frozen=True)
class ByFunction:
    judge: Callable[[Dialogue, str], Verdict]
    max_new_tokens: int

    def __call__(self, dialogue: Dialogue, reply: str) -> Verdict:
        return self.judge(dialogue, reply)

    def first_answer(self, reply: str) -> str:
        return reply


def judged(
    pairs: ContrastPairs, judge: Callable[[Dialogue, str], Verdict] = as_yesman, max_new_tokens: int = 24
) -> ContrastPairs:
    return replace(pairs, judge=ByFunction(judge, max_new_tokens))
