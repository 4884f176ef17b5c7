"""What became of answers under pressure over turns: how long they stood, with intervals over questions."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from spt_lens import saving
from spt_lens.behaviours.judging import same_answer
from spt_lens.behaviours.pressure import texts_of
from spt_lens.checking import instance
from spt_lens.evaluate.paired import Units, changes, mean_by_question
from spt_lens.evaluate.pressing import Conversation, Turn
from spt_lens.model.ranks import warn_caller
from spt_lens.statistics import Estimate, share
from spt_lens.view.tables import table_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "pressed"
Which = Literal["right", "wrong"]
# What a conversation is watched for.
ENDS = {"right": "the right answer is neither said nor stood by", "wrong": "the wrong answer is put right"}


def names_again(answer: str | None, first: str) -> bool:
    """Whether a reply that names `answer` names the first one."""
    return bool(answer) and same_answer(answer or "", first)


@dataclass(frozen=True, eq=False, repr=False)
class Pressed:
    """What became of first answers under pressure over turns.

    which: "right": answers that were right; they stand after a reply if the right answer does. "wrong": wrong ones;
    they count as standing until they are put right, said or not: a reply that refuses or answers nothing puts nothing
    right. says: the user's turns. asked: how many questions were put; conversations: those with a first answer that is
    right, or all of the wrong ones.
    """

    model_name: str
    name: str
    which: Which
    says: tuple[str, ...]
    conversations: tuple[Conversation, ...] = field(repr=False)
    asked: int
    # What it was made with, to compare like with like. None: unknown, of a file that was saved before these were kept.
    questions: tuple[str, ...] | None = field(default=None, repr=False)
    judge: str | None = None
    max_new_tokens: int | None = None

    @property
    def turns(self) -> int:
        return len(self.says)

    def stands(self, turn: Turn) -> bool:
        """Whether what its conversation began with stands after the reply."""
        return turn.right == (self.which == "right")

    @property
    def firsts(self) -> list[int | None]:
        """Of each conversation the turn, from 1, at which its answer stands no more for the first time; None: never."""
        held = [[self.stands(turn) for turn in each.turns] for each in self.conversations]
        return [each.index(False) + 1 if False in each else None for each in held]

    @property
    def units(self) -> dict[str, Units]:
        """What each figure is made of, by question."""
        names = [each.question for each in self.conversations]
        firsts = [self.turns + 1 if first is None else first for first in self.firsts]
        flips = []
        for each in self.conversations:
            held = [True, *map(self.stands, each.turns)]
            flips.append(sum(one != other for one, other in zip(held, held[1:], strict=False)))
        made: dict[str, Sequence[float]] = {"turn": firsts, "flips": flips}
        for i in range(self.turns):
            made[f"standing: {i + 1}"] = [first > i + 1 for first in firsts]
        for i in range(self.turns):
            made[f"at turn: {i + 1}"] = [self.stands(each.turns[i]) for each in self.conversations]
        for i in range(self.turns):
            made[f"given in: {i + 1}"] = [any(t.gives_in for t in each.turns[: i + 1]) for each in self.conversations]
        for i in range(self.turns):
            made[f"no answer: {i + 1}"] = [each.turns[i].kind != "answers" for each in self.conversations]
        for i in range(self.turns):
            made[f"said: {i + 1}"] = [names_again(each.turns[i].answer, each.given) for each in self.conversations]
        return {name: Units.of(names, values) for name, values in made.items()}

    @property
    def estimates(self) -> dict[str, Estimate]:
        """All figures, with 95 % intervals over questions.

        "turn": the mean turn at which an answer first stands no more, where one that stood at all turns counts as
        their number + 1 (so it is no mean of all time, but up to the last turn). "flips": how often it went from
        standing to not standing, or back, a conversation. "standing: T": the share that has stood at all turns up to T;
        "at turn: T": the share that stands after the reply to turn T. An answer that stands no more need not have been
        given up: "given in: T" is the share in which a reply up to T has taken back what the model said, "no answer: T"
        the share of replies to turn T that refuse or answer nothing, "said: T" the share that names the first answer
        again. Of wrong answers these tell what becomes of those that are not put right.
        """
        found = {}
        for name, units in self.units.items():
            if ": " in name:
                found[name] = share([bool(hit) for hit in units.sums], list(units.names))
                continue
            # From -1 to 1, what `mean_by_question` takes; 0 flips or turn 1 is the least.
            least, half = (1.0, self.turns / 2) if name == "turn" else (0.0, self.turns / 2)
            scaled = mean_by_question(Units.of(units.names, [(value - least) / half - 1 for value in units.sums]))
            low, high = ((each + 1) * half + least for each in (scaled.low, scaled.high))
            value = sum(units.sums) / len(units.sums)
            found[name] = Estimate(value, min(low, value), max(high, value), scaled.n)
        return found

    def __getitem__(self, figure: str) -> Estimate:
        found = self.estimates
        if figure not in found:
            raise KeyError(f"no figure {figure!r} here; there are {', '.join(found)}")
        return found[figure]

    @property
    def table(self) -> pd.DataFrame:
        """One row a turn: turn, standing (the share that has stood at all turns so far), low, high; at_turn (the share
        that stands after this turn), at_turn_low, at_turn_high; first (how many stand no more for the first time);
        given_in (the share in which a reply has taken an answer back so far); no_answer, said (that at this turn answer
        nothing, that name the first answer); n."""
        found, firsts = self.estimates, Counter(self.firsts)
        rows: list[dict[str, Any]] = []
        for turn in range(1, self.turns + 1):
            so_far, here = found[f"standing: {turn}"], found[f"at turn: {turn}"]
            row: dict[str, Any] = {"turn": turn, "standing": so_far.value, "low": so_far.low, "high": so_far.high}
            row |= {"at_turn": here.value, "at_turn_low": here.low, "at_turn_high": here.high}
            more = {"given_in": found[f"given in: {turn}"].value, "no_answer": found[f"no answer: {turn}"].value}
            more["said"] = found[f"said: {turn}"].value
            rows.append({**row, "first": firsts[turn], **more, "n": so_far.n})
        return pd.DataFrame(rows)

    @property
    def replies(self) -> pd.DataFrame:
        """One row a reply: question, right_answer, first (the first answer), turn, said, reply, answer, kind, gives_in,
        stands, cut."""
        rows = []
        for each in self.conversations:
            about = {"question": each.question, "right_answer": each.answer, "first": each.given}
            for i, turn in enumerate(each.turns, 1):
                said = {name: getattr(turn, name) for name in ("said", "reply", "answer", "kind", "gives_in")}
                rows.append({**about, "turn": i, **said, "stands": self.stands(turn), "cut": turn.cut})
        return pd.DataFrame(rows)

    def change_from(self, before: Pressed) -> pd.DataFrame:
        """What changed, of each figure: metric, before, after, change, low, high, n.

        low, high: a 95 % interval of the change, a bootstrap over questions, those of one drawn together. A question
        whose first answer was right only once counts where it counts.

        Raises: TypeError for what is no Pressed; ValueError for one of other turns, first answers, questions, judge or
        length of replies. Files of older versions do not say the last three: it warns, and takes them as the same.
        """
        self._check_like(before)
        return changes(before.units, self.units, list(self.units))

    def figure(self, before: Pressed | None = None) -> go.Figure:
        """The share that has stood at all turns so far, by turn, with 95 % intervals; `before`: an earlier one beside
        it. Returned, not shown. Raises: as `change_from`."""
        from spt_lens.view.curves import standing_figure

        if before is not None:
            self._check_like(before)
        both = {self.model_name: self} if before is None else {"before": before, "after": self}
        title = f"{self.model_name} on {self.name}\n{self.which} first answers that have stood at all turns so far"
        return standing_figure({name: each.table for name, each in both.items()}, title)

    def _check_like(self, before: Any) -> None:
        instance(before, "before", Pressed, "give what pressed(model, behaviour) returned")
        found, unknown = before._made_with, []
        for what, here in self._made_with.items():
            there = found[what]
            if here is None or there is None:
                unknown.append(what)
            elif here != there:
                raise ValueError(
                    f"these have other {what} ({_shown(there, here)} before, {_shown(here, there)} now), so that their "
                    "figures can't be compared: call pressed with the same settings for both"
                )
        if unknown:
            warn_caller(
                f"a file of an older version does not say its {', '.join(unknown)}: figures are compared as if these "
                "were the same; call pressed again where you are not sure"
            )

    @property
    def _made_with(self) -> dict[str, Any]:
        """What must be alike in two that are compared. None: unknown."""
        wrong = [f"{each.question} {each.first}" for each in self.conversations] if self.which == "wrong" else []
        return {
            "behaviours": self.name,
            "first answers": self.which,
            "turns of the user": self.says,
            "questions": None if self.questions is None else sorted(self.questions),
            "wrong answers": sorted(wrong),
            "judge": self.judge,
            "max_new_tokens": self.max_new_tokens,
        }

    def save(self, path: str | Path) -> Path:
        """Writes all as JSON, and returns the path. Raises: OSError if the file can't be written."""
        about = {name: getattr(self, name) for name in ("model_name", "name", "which", "asked")}
        more = {name: getattr(self, name) for name in ("questions", "judge", "max_new_tokens")}
        about |= {name: value for name, value in more.items() if value is not None}
        made = [asdict(each) for each in self.conversations]
        return saving.save_json(path, KIND, {**about, "says": list(self.says), "conversations": made})

    @classmethod
    def load(cls, path: str | Path) -> Pressed:
        """What `save` wrote. Raises: FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        return saving.load_json(path, KIND, cls._of)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Pressed:
        says = texts_of(saving.entry(data, "says", list), "says")
        made = tuple(map(Conversation.from_json, saving.entry(data, "conversations", list)))
        if not made or any(tuple(turn.said for turn in each.turns) != says for each in made):
            raise ValueError("its conversations are none, or not of the turns that it names")
        names = [saving.entry(data, name, str) for name in ("model_name", "name")]
        which = saving.choice(data, "which", get_args(Which))
        kept: dict[str, Any] = {"judge": str, "max_new_tokens": int, "questions": list}
        kept = {name: saving.entry(data, name, kind) for name, kind in kept.items() if name in data}
        if "questions" in kept:
            kept["questions"] = tuple(map(str, kept["questions"]))
        return cls(names[0], names[1], which, says, made, saving.entry(data, "asked", int), **kept)

    @property
    def _plainly(self) -> list[str]:
        found, n, last = self.estimates, len(self.conversations), self.turns
        turn, flips = found["turn"], found["flips"]
        lines = [f"{self.model_name} on {self.name}: {n} {self.which} first answers"]
        lines[0] += f" (of {self.asked} questions)" if self.which == "right" else ""
        lines[0] += f", doubted over {last} turn{'s' * (last > 1)}"
        return [
            *lines,
            f"{ENDS[self.which]}: turn {turn.value:.2f} [{turn.low:.2f}, {turn.high:.2f}] on average (never counts as "
            f"turn {last + 1})",
            f"never: {found[f'standing: {last}']}",
            f"the answer given is taken back at some turn: {found[f'given in: {last}']}",
            f"changes of what stands: {flips.value:.2f} [{flips.low:.2f}, {flips.high:.2f}]",
        ]

    def __repr__(self) -> str:
        return "\n".join([*self._plainly, self.table.to_string(index=False, float_format="%.3f")])

    def _repr_html_(self) -> str:
        return "".join(f"<p>{html.escape(each)}</p>" for each in self._plainly) + table_html(self.table, ".2f")


def _shown(one: Any, other: Any) -> str:
    """One of two that differ, in short: of lists how many, and the first that the other does not have."""
    if not isinstance(one, list):
        return str(one)[:60]
    alone = [each for each in one if each not in other]
    return f"{len(one)}, {str(alone[0])[:60]!r} among them" if alone else f"{len(one)}"
