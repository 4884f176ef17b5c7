"""A study's folder: what it is of, whether it fits, and whether there is room in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AnySet
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from spt_lens import files, saving
from spt_lens.chat.template import chat_options
from spt_lens.evaluate.bench import config_of, entries_of
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import ModelView
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import FILES, RUNS, SECONDS, Work

KIND, FILE = "study", "study.json"
OTHERS = (RUNS, SECONDS, "table.csv", "frontier.csv", "picker.html")  # what is written beside the stages' files
BACK = f"put {FILE} back from a copy, or remove it all"
PACKAGES = ("spt-lens", "torch", "transformers", "transformer-lens", "peft")
ROOM = 64 * 2**20  # bytes of all that a study writes, but for weights
LATER = ("config", "tokenizer")  # of the model: earlier versions have no note of it
MOST = 6  # differences that a refusal names
Result = TypeVar("Result")


def about(work: Work, data: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what comes of a study. data: by behaviour, what is measured, tuned and judged with before anything
    is asked; it stands for the behaviours."""
    view = ModelView(work.model)
    template = [str(getattr(view.tokenizer, "chat_template", None)), repr(chat_options(view.tokenizer))]
    weights = saving.weights_digest(sorted(view.weights().items())).hexdigest()[:16]
    multiplied = torch.get_float32_matmul_precision()
    return {
        "model": {"name": view.name, "weights": weights, "class": type(work.model).__name__}
        | {"device": view.device.type, "template": digest(template)}
        | {"config": _words(config_of(view)), "tokenizer": _words([entries_of(view.tokenizer), view.end_tokens])}
        | ({} if multiplied == "highest" else {"matmul": multiplied}),
        "behaviour": {name: digest(each) for name, each in data.items()},
        "heads": None if work.given is None else str(work.given),
        "settings": work.settings.to_json(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def check_folder(out: Path, mine: Mapping[str, Any]) -> None:
    """Raises ValueError for a folder of another study, which names what differs, or of something else;
    NotADirectoryError for a file."""
    file = out / FILE
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{out} is a file: give a folder")
    if not file.exists():
        odd = [name for name in (*FILES.values(), *OTHERS) if (out / name).exists()]
        if odd and not file.exists():  # else another process begins it just now
            raise ValueError(f"{out} holds {odd[0]} and no {FILE}, so it is no study's: give another folder")
    if not file.exists():
        return
    theirs = loaded(file, lambda path: saving.load_json(path, KIND, dict), BACK)
    if isinstance(known := theirs.get("model"), dict) and "config" not in known:
        warn_caller(
            f"{out} was begun by an earlier version, which kept no note of the model's config and tokenizer: it goes "
            "on as it is, so give another folder if one of them was another"
        )
        mine = {**mine, "model": {name: value for name, value in mine["model"].items() if name not in LATER}}
    found = [f"{name}: {one!s:.40} there, {other!s:.40} now" for name, one, other in _differences(theirs, mine)]
    if found:
        more = f", and {len(found) - MOST} more" if len(found) > MOST else ""
        raise ValueError(
            f"{out} holds another study ({'; '.join(found[:MOST])}{more}): give another folder, or go on with what it "
            "was begun with"
        )


def open_folder(out: Path, mine: Mapping[str, Any]) -> None:
    """Makes the folder unless it is there, and writes what the study is. Raises as `check_folder`; OSError."""
    check_folder(out, mine)
    saving.writable(out, "the study")
    files.clear(out / FILE)  # which is written once
    if not (out / FILE).exists():
        with suppress(FileExistsError):  # another process was first
            saving.save_json(out / FILE, KIND, dict(mine), new=True)
        check_folder(out, mine)


def check_room(out: Path, more: int = 0) -> None:
    """Raises OSError if the folder can't be written to, or the disk has no room for a study and `more` bytes; nothing
    is made."""
    there = out.expanduser().absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OSError(errno.EACCES, f"{out} can't be written to: give another folder")
    need, free = ROOM + more, shutil.disk_usage(there).free
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"the disk of {out} has {free / 2**20:,.0f} MiB free, and the study needs about "
            f"{need / 2**20:,.0f}: make room, or give a folder on another disk",
        )


def settings_of(out: Path) -> StudySettings:
    """What the study in a folder was begun with. Raises FileNotFoundError, or ValueError for a damaged file."""
    make = partial(saving.load_json, kind=KIND, make=lambda data: StudySettings.from_json(data["settings"]))
    return loaded(out / FILE, make, BACK)


def loaded(path: Path, load: Callable[[Path], Result], way_out: str = "") -> Result:
    """What a stage left in its file. Raises ValueError, with the way out, if that is damaged."""
    try:
        return load(path)
    except ValueError as error:
        way_out = way_out or f"put {path.name} back from a copy, or remove it, and its stage is done again"
        raise ValueError(f"{error}. The way out: {way_out}") from error


def digest(data: Any) -> str:
    """Changes when any text or number in the data does, whatever objects hold it."""
    return hashlib.sha256(json.dumps(_said(data), sort_keys=True).encode()).hexdigest()[:16]


def _words(data: Any) -> str:
    """`digest` of what holds objects of other packages too."""
    return digest(json.dumps(data, sort_keys=True, default=str))


def _said(data: Any) -> Any:
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, Mapping):
        return {str(name): _said(value) for name, value in data.items()}
    if isinstance(data, AnySet):
        return sorted(json.dumps(_said(value), sort_keys=True) for value in data)
    if isinstance(data, Sequence):
        return [_said(value) for value in data]
    if is_dataclass(data):
        return [type(data).__name__, *(_said(getattr(data, each.name)) for each in fields(data))]
    return type(data).__qualname__  # a judge of one's own: its words are its file's


def _differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*other, *one]):
            if key != "kind":
                yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    elif one != other:
        yield name, one, other


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
