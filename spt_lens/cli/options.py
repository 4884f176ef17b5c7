"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spt_lens.checking import MANY, existing_file

if TYPE_CHECKING:
    from spt_lens.behaviours.are_you_sure import AreYouSure
    from spt_lens.heads import HeadSet

Dtype = Literal["float32", "bfloat16", "float16"]
Split = Literal["train", "validation", "test"]
Model = Annotated[
    str, typer.Option("--model", help='A local Hugging Face folder, a .gguf file, a hub name, or "yesman".')
]
Questions = Annotated[
    str,
    typer.Option(help='A .jsonl or .csv file of questions; "bank", which comes along; or "yesman", that model\'s own.'),
]
Device = Annotated[str | None, typer.Option(help="Default: CUDA where there is one, else the CPU.")]
Weights = Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")]
Template = Annotated[str | None, typer.Option(help='For base models: "plain", or a template\'s file.')]
System = Annotated[str | None, typer.Option(help="A system prompt for dialogues that have none.")]
Ask = Annotated[
    bool | None,
    typer.Option("--ask/--no-ask", help="Ask the model first, and go by its own answers; default: of all but yesman."),
]
Answers = Annotated[
    Path | None, typer.Option(help="A JSON file that keeps the model's answers: none is asked for twice.")
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", help="Of an answer.", min=1, max=MANY)]
Seed = Annotated[int, typer.Option(help="Of what is drawn.", min=0, max=2**63 - 1)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
Workers = Annotated[int, typer.Option(help="Processes of one thread each, for the trials.", min=1, max=1000)]


def behaviour_of(questions: str) -> AreYouSure:
    """The behaviour over the questions that are named. Raises as AreYouSure does for a file that can't be used."""
    from spt_lens.behaviours.are_you_sure import AreYouSure
    from spt_lens.behaviours.bank import question_bank

    if questions == "bank":
        return AreYouSure(question_bank(), name="question bank")
    if questions == "yesman":
        from spt_lens.yesman import Yesman

        return Yesman()
    return AreYouSure(questions if "://" in questions else existing_file(questions), name=Path(questions).stem)


def loaded(model: str, device: str | None, dtype: Dtype, chat_template: str | None, system: str | None) -> Any:
    """The model. Raises ValueError for a device that is not here before anything is read, and as load_model does."""
    import torch

    from spt_lens.model.devices import usable_device
    from spt_lens.model.loading import load_model

    place = None if device is None else usable_device(device, "--device")
    more: Any = {"chat_template": chat_template, "system": system}
    return load_model(model, device=place, dtype=getattr(torch, dtype), **more)


def asked(
    behaviour: AreYouSure, model: Any, splits: Sequence[Split], answers: Path | None, max_new_tokens: int
) -> AreYouSure:
    """The behaviour over the model's own first answers to the questions of some splits, which are told."""
    from dataclasses import replace

    from spt_lens.behaviours.asking import ask

    questions = [replace(question, split=split) for split in splits for question in behaviour.of_split(split)]
    more: Any = {"how": behaviour.how, "judge": behaviour.judge, "max_new_tokens": max_new_tokens}
    own = ask(model, questions, path=None if answers is None else answers.expanduser(), **more)
    typer.echo(repr(own))
    return behaviour.asked(own)


def asks(ask: bool | None, questions: str, answers: Path | None) -> bool:
    """Whether the model is asked first. The embedded model is not: it was taught its facts as they stand.

    Raises, before the model is loaded, for a file that can't take its answers, or that nothing would read.
    """
    ask = questions != "yesman" if ask is None else ask
    if answers is not None and not ask:
        raise ValueError("--answers keeps what the model is asked, and nothing is asked here: leave it out, or --ask")
    if answers is not None and answers.exists():
        from spt_lens.behaviours.asking import Answers

        Answers.load(existing_file(answers))
    elif answers is not None and not answers.expanduser().absolute().parent.is_dir():
        raise FileNotFoundError(f"--answers {answers}: {answers.parent} is no folder, make it first")
    return ask


def heads_of(text: str) -> HeadSet:
    """The heads of a file that a picker, its page or `spt-lens pick` saved, or of text such as "L5.H3 6.1"."""
    from spt_lens.heads import HeadSet

    path = Path(text).expanduser()
    if text.strip() and path.exists():
        return HeadSet.load(path)
    try:
        heads = HeadSet.parse(text)
    except ValueError as error:
        raise ValueError(f"--heads {text!r} is no file, and as text {error}") from None
    if not heads:
        raise ValueError('--heads names no head: give a file, or text such as "L5.H3 6.1"')
    return heads


def new_folder(out: Path, what: str, file: str, overwrite: bool) -> Path:
    """The folder to write into, known to be writable. Raises FileExistsError if it holds such a file already."""
    from spt_lens.saving import writable

    out = out.expanduser()
    if (out / file).exists() and not overwrite:
        raise FileExistsError(f"{out} holds {what} already: give another --out, or --overwrite to replace it")
    return writable(out, what)
