"""Asking the model first: which questions does it get right, and in which words?"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from tqdm.auto import tqdm

from spt_lens import saving
from spt_lens.behaviours.behaviour import SPLITS, Behaviour
from spt_lens.behaviours.jsonl import OnError
from spt_lens.behaviours.judging import AnswerJudge, read_first
from spt_lens.behaviours.letters import lettered, likeliest
from spt_lens.behaviours.question import Question, said, splits_of
from spt_lens.behaviours.reading import read_questions
from spt_lens.chat.dialogues import Dialogue, Message, Meta, dialogue
from spt_lens.chat.judge import Judge, check_judge
from spt_lens.chat.template import rendered
from spt_lens.checking import a_path, door, instance, one_of, whole_number
from spt_lens.model import ranks
from spt_lens.model.ranks import warn_caller
from spt_lens.model.replies import replies_and_cut
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, share
from spt_lens.view.tables import table_html

KIND = "answers"
How = Literal["reply", "letter", "likelihood"]
Key = tuple[Message, ...]
_SENTENCES = re.compile(r".*[.!?][\"')*]*(?=\s|$)", re.DOTALL)
_DATES = re.compile(r"\d+|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\b")


@dataclass(frozen=True)
class Answer:
    """What a model said to a question.

    reply: all it said. given: the answer in it, as the judge reads it. right: whether that is accepted. cut: the reply
    was not at its end. nothing: it answers nothing. words: the reply as the first turn of a dialogue; of one that was
    cut, its whole sentences, as far as they say the same; else "", and no dialogue is made of it.
    """

    question: Question
    reply: str
    given: str
    right: bool
    cut: bool = False
    nothing: bool = False
    words: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """A model's own first answers, in the order of the questions, each of which names its split.

    about: whose they are: model, fingerprint, weights (a hash of a sample of them), template (a hash), prompt (what the
    template writes around a question, a system prompt too), how, max_new_tokens.
    """

    answers: tuple[Answer, ...]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    @property
    def right(self) -> Estimate:
        """The share of right answers."""
        return share([answer.right for answer in self.answers])

    @property
    def table(self) -> pd.DataFrame:
        """One row a split, and one for all: split, asked, right, share, low, high, cut, nothing."""
        parts: dict[str, list[Answer]] = {
            name: [a for a in self.answers if a.question.split == name] for name in SPLITS
        }
        rows: list[dict[str, Any]] = []
        parts["all"] = list(self.answers)
        for name, part in parts.items():
            rate = share([answer.right for answer in part])
            row: dict[str, Any] = {"split": name, "asked": len(part), "right": sum(answer.right for answer in part)}
            row |= {"share": rate.value, "low": rate.low, "high": rate.high}
            rows.append({**row, "cut": sum(a.cut for a in part), "nothing": sum(a.nothing for a in part)})
        return pd.DataFrame(rows)

    def to_pandas(self) -> pd.DataFrame:
        """One row a question: question, split, category, answer (the first accepted), reply, given, right, cut,
        nothing."""
        fields = ("reply", "given", "right", "cut", "nothing")
        rows: list[dict[str, Any]] = []
        for a in self.answers:
            asked = {"question": a.question.text, "split": a.question.split, "category": a.question.category}
            rows.append({**asked, "answer": a.question.answer, **{name: getattr(a, name) for name in fields}})
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Writes all as JSON, and returns the path. Raises: OSError if the file can't be written."""
        return saving.save_json(path, KIND, {**self.about, "answers": [asdict(answer) for answer in self.answers]})

    @classmethod
    def load(cls, path: str | Path) -> Answers:
        """What `save` or `ask(path=)` wrote. Raises: FileNotFoundError, or ValueError for a damaged or another file."""
        return saving.load_json(path, KIND, cls._of)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Answers:
        made = []
        for each in saving.entry(data, "answers", list):
            about = saving.entry(each, "question", dict)
            before = tuple(Message(**message) for message in about["before"])
            question = Question(**{**about, "before": before})
            texts = {name: saving.entry(each, name, str) for name in ("reply", "given", "words")}
            flags = {name: saving.entry(each, name, bool) for name in ("right", "cut", "nothing")}
            made.append(Answer(question, **texts, **flags))  # type: ignore[arg-type]
        known = {name: value for name, value in data.items() if name not in ("kind", "answers")}
        kinds = {"model": str, "max_new_tokens": int}
        return cls(tuple(made), {**{name: saving.entry(data, name, kind) for name, kind in kinds.items()}, **known})

    def __repr__(self) -> str:
        rate = self.right
        ends = " [{}, {}]".format(*(_short(x) for x in rate[1:3]))
        cut, nothing = (sum(getattr(a, name) for a in self.answers) for name in ("cut", "nothing"))
        return (
            f"{self.about['model']}: {sum(a.right for a in self):,} of {len(self):,} right ({_short(rate.value)}{ends})"
            f"; {cut:,} replies cut at {self.about['max_new_tokens']} tokens, {nothing:,} answer nothing"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{table_html(self.table, '.2f')}"


@door
def ask(
    model: Model,
    questions: Any,
    *,
    path: str | Path | None = None,
    how: How | None = None,
    judge: Judge | None = None,
    max_new_tokens: int = 32,
    batch_size: int = 64,
    every: int = 128,
    seed: int = 0,
    on_error: OnError = "raise",
    progress: bool = True,
) -> Answers:
    """Asks a model each question, and keeps its own first answers.

    Args:
        questions: an AreYouSure, whose judge reads the replies, or whatever `AreYouSure` takes.
        path: a JSON file that holds what was answered so far: written after every `every` replies, so that a call that
            was stopped goes on where it was. Answers to other questions stay in it; what was cut is asked again where
            `max_new_tokens` is higher.
        how: "reply", the default: in the model's own words, by greedy decoding. "letter": of choices that stand below
            the question, in an order drawn by `seed`. "likelihood": the likeliest of the right answer and the wrong
            ones, each as a whole reply; the default for AreYouSure.multiple_choice(how="likelihood").
        on_error: "skip" leaves out questions that can't be read.

    Raises: TypeError or ValueError for questions that can't be read or, of choices, have no wrong answers; a file of
        another model, template, system prompt or `how`; and as `replies` does.
    """
    view = ModelView(model)
    view.check_measurable()
    for name, value in {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "every": every}.items():
        whole_number(value, name)
    chosen: How = one_of(getattr(questions, "how", "reply") if how is None else how, "how", get_args(How))
    if isinstance(questions, Behaviour):
        judge = questions.judge if judge is None else judge
        questions = instance(getattr(questions, "questions", None), "its questions", tuple, "give an AreYouSure")
    reads = AnswerJudge() if judge is None else check_judge(judge)
    asked, _ = read_questions(questions, on_error)
    asked = tuple(replace(q, split=split) for q, split in zip(asked, splits_of(asked), strict=True))
    if chosen == "letter":
        asked = lettered(asked, seed)
    about = {**_whose(view), "how": chosen, "max_new_tokens": max_new_tokens}
    known: dict[Key, Answer] = {}

    def read_file(path: str | Path) -> list[tuple[int, str, bool]]:
        known.update(_kept(path, about))
        there = ((i, known.get(question.asked)) for i, question in enumerate(asked))
        return [(i, answer.reply, answer.cut) for i, answer in there if answer is not None]

    ranks.agree("asking", {"questions": asked, "settings": about})
    kept = [] if path is None else ranks.from_first(partial(read_file, path))  # only rank 0 reads and writes
    old = {asked[i].asked: (reply, cut) for i, reply, cut in kept}
    todo = [question for question in asked if question.asked not in old]

    read: dict[Key, Answer] = {}

    def made() -> Answers:
        new = [question for question in asked if question.asked in old and question.asked not in read]
        read.update({question.asked: read_answer(question, *old[question.asked], reads, chosen) for question in new})
        return Answers(tuple(read[question.asked] for question in asked if question.asked in read), about)

    def write_file(path: str | Path) -> None:
        own = {question.asked for question in asked}
        others = [answer for key, answer in known.items() if key not in own]
        Answers((*made().answers, *others), about).save(path)

    every *= ranks.size()  # of each rank
    with tqdm(total=len(todo), desc="asking", unit="question", disable=not (todo and ranks.shows(progress))) as bar:
        for start in range(0, len(todo), every):
            part = todo[start : start + every]
            if chosen == "likelihood":
                found = [(reply, False) for reply in likeliest(view, part, batch_size)]
            else:
                asks = [Dialogue(question.asked) for question in part]
                new = replies_and_cut(model, asks, max_new_tokens, batch_size=batch_size)
                found = [(reply.text, reply.cut) for reply in new]
            old |= dict(zip((q.asked for q in part), found, strict=True))
            if path is not None:
                ranks.from_first(partial(write_file, path))
            bar.update(len(part))
            n_cut = sum(cut for _, cut in found)
            if not start and 2 * n_cut > len(found):
                warn_caller(
                    f"{n_cut} of the first {len(found)} replies were cut at {max_new_tokens} tokens, maybe before they "
                    "name an answer: give a higher max_new_tokens, or a system prompt that asks for short answers"
                )
    return made()


def read_answer(question: Question, reply: str, cut: bool, judge: Judge, how: How) -> Answer:
    """A reply as an answer."""
    if how == "likelihood":
        given = next((each for each in (*question.answers, *question.wrong) if said(each) == reply), reply)
        return Answer(question, reply, given, given in question.answers, words=reply)
    given, right, nothing = first_answer(judge, question, reply)
    whole = _SENTENCES.match(reply) if cut else None
    words = reply if not cut else whole[0] if whole else ""
    if words and cut and first_answer(judge, question, words)[1] != right:
        words = ""
    return Answer(question, reply, given, right, cut, nothing, "" if nothing else words)


def first_answer(judge: Judge, question: Question, reply: str) -> tuple[str, bool, bool]:
    """What a first reply answers, whether that is right, and whether it answers nothing."""
    meta: Meta = {"answer": question.answer, "answers": question.answers}
    return read_first(judge, Dialogue(question.asked, meta), reply, question.wrong)


def _whose(view: ModelView) -> dict[str, Any]:
    """What must be the same for a model to give the same answers."""
    digest = hashlib.sha256()
    for weight in view.weights().values():
        flat = weight.detach().reshape(-1)
        # An odd step goes through rows and columns alike, so that a tuned head shows.
        digest.update(flat[:: max(1, len(flat) // 1024) | 1].float().cpu().numpy().tobytes())
    template = str(getattr(view.tokenizer, "chat_template", None))
    return {
        "model": view.name,
        "fingerprint": view.fingerprint(),
        "weights": digest.hexdigest()[:16],
        "template": hashlib.sha256(template.encode()).hexdigest()[:16],
        "prompt": rendered(view.tokenizer, dialogue("..."), generation_prompt=True),
    }


def _kept(path: str | Path, about: Mapping[str, Any]) -> dict[Key, Answer]:
    """What a file holds already. Raises ValueError where it is not for this model and way of asking."""
    file = a_path(path)
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is no folder: make it, or give another path")
    if not file.exists():
        return {}
    old = Answers.load(file)
    for name in ("fingerprint", "weights", "template", "prompt", "how"):
        there, here = old.about.get(name), about[name]
        if name == "prompt":
            there, here = (_DATES.sub("", str(each)) for each in (there, here))
        if there != here:
            raise ValueError(
                f"{path} holds the answers of {old.about.get('model')}, asked otherwise ({name}: {there!s:.60} there, "
                f"{here!s:.60} now): give another path for these"
            )
    if (limit := old.about["max_new_tokens"]) > about["max_new_tokens"]:
        raise ValueError(
            f"{path} holds replies of up to {limit} tokens: give max_new_tokens={limit} or more, or another path"
        )
    again = limit < about["max_new_tokens"]
    return {answer.question.asked: answer for answer in old if not (answer.cut and again)}


def _short(value: float) -> str:
    """A share with two places and no zero before its point."""
    return f"{value:.2f}".removeprefix("0")
