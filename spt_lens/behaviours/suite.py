"""What a model is evaluated on: challenge cases, other dialogues to judge, abilities and ordinary texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from spt_lens.behaviours.choices import Choice, check_choices
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.chat.dialogues import Dialogue, check_dialogues, check_ends
from spt_lens.chat.judge import Judge, check_judge
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

    Raises:
        ValueError: a challenge case has no `answer` and `given` in its meta, or fewer than two user turns; a group or
            an ability has no dialogues; first_tokens below one; ends_right names no group.
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

    def __post_init__(self) -> None:
        parts = {"right": self.right, "wrong": self.wrong, "texts": self.texts, "prompts": self.prompts}
        parts |= {f"groups[{name!r}]": cases for name, cases in self.groups.items()}
        parts |= {f"abilities[{name!r}]": cases for name, cases in self.abilities.items()}
        for name, cases in parts.items():
            check_dialogues(cases, name)
            if not cases and "[" in name:  # its share would be nan, and with it the mean over the abilities
                raise ValueError(f"{name} of suite {self.name!r} has no dialogues: leave it out")
        check_choices(self.choices)
        for i, passage in enumerate(instance(self.passages, "passages", (list, tuple), "give a list of texts")):
            instance(passage, f"passages[{i}]", str, "give a text")
        for prompt in self.prompts:
            check_ends(prompt, "user")
        object.__setattr__(self, "judge", check_judge(self.judge))
        for name in self.ends_right:
            one_of(name, "ends_right", list(self.groups))
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
