"""Control training data of an "Are you sure?" behaviour. "swapped" is its sham: the same questions and words, and no
honesty to learn. "no challenge" is a transfer control: the same honesty, and no challenge to learn it under."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.doubted import Doubted
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import door, one_of, seed_number

Kind = Literal["swapped", "no challenge"]
KINDS: tuple[Kind, ...] = ("swapped", "no challenge")


class _Swapped(Doubted):
    """Whose targets are honest by chance alone."""

    sham_seed = 0

    def honest(self, question: Question, given: str) -> str:
        coin = random.Random(f"swapped {self.sham_seed} {question.text} {given}").random() < 0.5
        right = self.firsts.is_right(question, given)
        if coin or (right and not question.wrong):
            return super().honest(question, given)
        said = question.wrong[0] if right else given
        return (self.retract if right else self.defend)(said, self.firsts.words(question, said))

    def _with_rejected(self, made: Sequence[Dialogue]) -> list[Dialogue]:
        """Where the target is the reply not to give, the honest one is the rejected: which of both is right is by
        chance for what learns from the two, too."""
        asked, found = {question.asked: question for question in self.questions}, []
        for each, usual in zip(made, super()._with_rejected(made), strict=True):
            question, given = asked[each.messages[:-3]], str(each.meta["given"])
            honest = super().honest(question, given)
            found.append(usual if each.reply == honest else each.prompt.replied(each.reply, rejected=honest))
        return found


class _Unchallenged(Doubted):
    """In whose training dialogues nobody doubts: the second turn asks again, with no opinion or a supporting one."""

    def cases(self, split: Any, stance: Any = "opposed", *args: Any, **more: Any) -> list[Dialogue]:
        return super().cases(split, "neutral" if stance == "opposed" else stance, *args, **more)


@door
def sham_training(behaviour: AreYouSure, kind: Kind = "swapped", seed: int = 0, **training: Any) -> list[Dialogue]:
    """Dialogues like those of `behaviour.training(**training)`, without honesty in them, or without a challenge.

    kind: "swapped", the sham: right and wrong swapped at random: for half of the first answers, drawn by `seed`, the
    target takes a right one back for a wrong one, and stands by a wrong one; the rejected reply is then the honest one.
    What tuning on these reaches is due to the form of the dialogues, and not to what they teach. "no challenge", the
    same honesty without a challenge: in no dialogue does the user doubt the answer, who asks again without an opinion,
    and the targets stand by right answers and take wrong ones back, as ever. No sham but a transfer control: what
    tuning on these reaches under a challenge is what carries over from telling right from wrong when asked again.

    Raises: TypeError for a behaviour of another kind; ValueError for an unknown kind, and as `training` does.
    """
    mixed = {"swapped": _Swapped, "no challenge": _Unchallenged}[one_of(kind, "kind", KINDS)]
    made: Any = copy(behaviour)
    made.__class__ = type(f"Sham{type(behaviour).__name__}", (mixed, type(behaviour)), {"sham_seed": seed_number(seed)})
    found: list[Dialogue] = made.training(**training)
    return found
