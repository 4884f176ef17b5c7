"""What a model is evaluated on: challenge cases, other dialogues to judge, abilities and ordinary texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from spt_lens.behaviours.choices import Choice, check_choices
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.chat.dialogues import Dialogue, as_dialogues, check_ends
from spt_lens.chat.judge import Judge, check_judge
from spt_lens.chat.words import Words
from spt_lens.checking import door, instance, one_of, whole_number


@door
@dataclass(frozen=True)
class Suite:
    """Dialogues to judge a model by.

    right, wrong: question, first answer (right or wrong), challenge, honest reply; meta holds `answer` (the right one)
        and `given`. For `right` the model's own first answer takes the place of the one that stands there
        (`evaluate/sycophancy.py`).
    groups: other dialogues, by name, of which the share of replies that give in is told: second turns that do not
        oppose the answer ("supported right", ...), questions with and without an opinion. A reply at the end is left
        out. Without right and wrong answers to challenge, a comparison goes by the first group.
    abilities: dialogues with one right last reply, each ability by its name.
    texts: ordinary dialogues without the behaviour, for drift. prompts: ordinary questions, for drift on the untuned
        model's own replies to them. choices: questions with options, for ability by likelihood (`choices_from`).
        passages: plain texts, for perplexity.
    judge: reads the replies; a function(dialogue, reply) that returns a Verdict will do. first_tokens: how many a model
        may take for its own first answer.
    ends_right: the groups of which the share of replies that end with a right answer is told too.
    beside: the group that all others are set beside, case by case, such as the questions without an opinion: of each
        other group the difference of both shares is told ("effect: GROUP"). Cases belong together by meta["about"].
    words: what tables call what its replies do.

    Raises:
        ValueError: a challenge case has no `answer` and `given` in its meta, or fewer than two user turns; a group or
            an ability has no dialogues; first_tokens below one;
            ends_right or beside names no group, or a case has no "about" where groups are set beside one.
        TypeError: something else where dialogues or a judge should be.
    """

    name: str
    right: tuple[Dialogue, ...] = ()
    wrong: tuple[Dialogue, ...] = ()
    groups: dict[str, tuple[Dialogue, ...]] = field(default_factory=dict)
    abilities: dict[str, tuple[Dialogue, ...]] = field(default_factory=dict)
    texts: tuple[Dialogue, ...] = ()
    judge: Judge = AnswerJudge()
    first_tokens: int = 48
    prompts: tuple[Dialogue, ...] = ()
    choices: tuple[Choice, ...] = ()
    passages: tuple[str, ...] = ()
    ends_right: tuple[str, ...] = ()
    beside: str = ""
    words: Words = Words()

    def __post_init__(self) -> None:
        for name in ("right", "wrong", "texts", "prompts"):
            object.__setattr__(self, name, as_dialogues(getattr(self, name), name))
        for part in ("groups", "abilities"):
            made = {name: as_dialogues(cases, f"{part}[{name!r}]") for name, cases in getattr(self, part).items()}
            for name, cases in made.items():
                if not cases:  # its share would be nan, and with it the mean over the abilities
                    raise ValueError(f"{part}[{name!r}] of suite {self.name!r} has no dialogues: leave it out")
            object.__setattr__(self, part, made)
        check_choices(self.choices)
        for i, passage in enumerate(instance(self.passages, "passages", (list, tuple), "give a list of texts")):
            instance(passage, f"passages[{i}]", str, "give a text")
        for prompt in self.prompts:
            check_ends(prompt, "user")
        object.__setattr__(self, "judge", check_judge(self.judge))
        for name in self.ends_right:
            one_of(name, "ends_right", list(self.groups))
        if self.beside:
            one_of(self.beside, "beside", list(self.groups))
            for name, cases in self.groups.items():
                if not all("about" in case.meta for case in cases):
                    raise ValueError(f'groups[{name!r}] of suite {self.name!r} needs "about" in its meta: see beside')
        whole_number(self.first_tokens, "first_tokens")
        for name, cases in {"right": self.right, "wrong": self.wrong}.items():
            for i, case in enumerate(cases):
                roles = [m.role for m in case.messages]
                if roles[-4:] != ["user", "assistant", "user", "assistant"]:
                    raise ValueError(
                        f"{name}[{i}] of suite {self.name!r} does not end in question, answer, challenge, reply: "
                        f"its roles are {roles}"
                    )
                if not {"answer", "given"} <= case.meta.keys():
                    raise ValueError(f'{name}[{i}] of suite {self.name!r} needs "answer" and "given" in its meta')

    def __repr__(self) -> str:
        challenged = f"{len(self.right)} right and {len(self.wrong)} wrong answers challenged"
        parts = [challenged] if self.right or self.wrong else []
        parts += [f"{len(cases)} {name}" for name, cases in self.groups.items()]
        parts += [f"{len(self.abilities)} abilities", f"{len(self.texts)} texts"]
        more = {"prompts": self.prompts, "choices": self.choices, "passages": self.passages}
        parts += [f"{len(cases)} {name}" for name, cases in more.items() if cases]
        return f"Suite({self.name!r}: {', '.join(parts)})"
