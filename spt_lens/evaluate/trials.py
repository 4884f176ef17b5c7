"""The trials of a comparison: a method at one learning rate and seed, evaluated on every split. Kept as JSON lines."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Self

from spt_lens.checking import door, existing_file, instance, number, seed_number
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.heads import HeadSet
from spt_lens.model.ranks import warn_caller
from spt_lens.saving import DAMAGE, entry, parsed, sealed, unsealed
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner


@door
@dataclass(frozen=True)
class Contender:
    """A tuner, or several draws of one (random heads, say), under a name, with the learning rates to try.

    lrs: default: the tuner's own. seeds: of the tuning; default: the comparison's. Raises ValueError for no tuner, or a
    learning rate that is not above zero.
    """

    name: str
    tuners: Tuner | Sequence[Tuner]
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        instance(self.name, "a method's name", str, "give it a text")
        given = isinstance(self.tuners, Tuner | Sequence) and self.draws
        if not given or not all(isinstance(tuner, Tuner) for tuner in self.draws):
            raise ValueError(f"method {self.name!r} needs a tuner, or several draws of one: Pinpoint(heads), say")
        instance(self.lrs, f"lrs of method {self.name!r}", Sequence, "give a list of learning rates, or leave it out")
        object.__setattr__(self, "lrs", tuple(self.lrs))
        object.__setattr__(self, "seeds", None if self.seeds is None else tuple(self.seeds))
        for lr in self.rates:
            number(lr, f"a learning rate of method {self.name!r}", above=0)

    @property
    def draws(self) -> tuple[Tuner, ...]:
        return (self.tuners,) if isinstance(self.tuners, Tuner) else tuple(self.tuners)

    @property
    def rates(self) -> tuple[float, ...]:
        return self.lrs or self.draws[0].lrs


@dataclass(frozen=True)
class Spec:
    """What sets a trial apart from the others of a comparison.

    draw: which of its method's tuners. tuner: how that shows itself; empty: the untuned model. heads: that it tunes.
    """

    method: str
    lr: float = 0.0
    seed: int = 0
    draw: int = 0
    tuner: str = ""
    heads: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Also of what was saved before methods were tuners, with "kind" and "rank"."""
        if "kind" in data:
            old = {"untuned": "", "full": repr(FullFineTuning()), "lora": repr(LoRA(data["rank"] or 1))}
            old["heads"] = repr(Pinpoint(HeadSet.parse(data["heads"])))
            data = {**data, "tuner": old[data["kind"]]}
        kinds = {"method": str, "lr": float, "seed": int, "draw": int, "tuner": str, "heads": str}
        return cls(**{name: entry(data, name, kind) for name, kind in kinds.items()})

    def key(self, fingerprint: str) -> str:
        """Names the trial in the results file. The method's name and the draw's number are labels, no part of it."""
        return hashlib.sha256(json.dumps([fingerprint, self.tuner, self.lr, self.seed]).encode()).hexdigest()[:16]


ASKED_WAY_OUT = 'give a list of names, or of Contender("name", Pinpoint(heads)), say'


def asked(methods: Sequence[Contender], seeds: Sequence[int]) -> dict[Spec, Tuner | None]:
    """All trials of the methods and what tunes in each: nothing in the first one, the untuned model.

    Raises ValueError for two methods of one name, or a method without seeds.
    """
    for i, method in enumerate(instance(methods, "methods", Sequence, ASKED_WAY_OUT)):
        instance(method, f"methods[{i}]", Contender, ASKED_WAY_OUT)
    names = [method.name for method in methods]
    if len(set(names)) < len(names) or "untuned" in names:
        raise ValueError(f'methods need names of their own, other than "untuned"; got {", ".join(names)}')
    found: dict[Spec, Tuner | None] = {Spec("untuned"): None}
    for method in methods:
        its_seeds = seeds if method.seeds is None else method.seeds
        for seed in instance(its_seeds, f"seeds of method {method.name!r}", Sequence, "give a list, such as (0, 1)"):
            seed_number(seed, f"a seed of method {method.name!r}")
        if not its_seeds:
            raise ValueError(f"method {method.name!r} has no seeds: give at least one")
        for (draw, tuner), lr, seed in product(enumerate(method.draws), method.rates, its_seeds):
            found[Spec(method.name, lr, seed, draw, repr(tuner), str(getattr(tuner, "heads", None) or ""))] = tuner
    return found


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of it. parameters: how many were trained. evaluations: by split. error: why none, if it diverged.

    made: in a results file, what it was made with (`bench.Made`).
    """

    spec: Spec
    parameters: int
    seconds: float
    evaluations: dict[str, Evaluation] = field(repr=False)
    error: str = ""
    made: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        evaluations = {split: evaluation.to_json() for split, evaluation in self.evaluations.items()}
        found = {**vars(self), "spec": asdict(self.spec), "evaluations": evaluations, "made": dict(self.made)}
        return {name: value for name, value in found.items() if value or name != "made"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        spec, error = Spec.from_json(entry(data, "spec", dict)), entry(data, "error", str)
        found = {split: Evaluation.from_json(each) for split, each in entry(data, "evaluations", dict).items()}
        made = entry(data, "made", dict) if "made" in data else {}
        return cls(spec, entry(data, "parameters", int), entry(data, "seconds", float), found, error, made)


_BEGINNING = '{"key": "'  # of every line of a results file
ROOM = 2**20  # bytes: a line is some ten thousand


def read_trials(path: Path, say: bool = False) -> dict[str, Trial]:
    """The trials of a results file, by key; none if there is no file.

    A line that was cut off, as the last one by a kill, is left out, so that its trial is done again. say: warns of one
    that others come after.

    Raises ValueError if a line is no result of a trial, or what stands after the last line is no beginning of one.
    """
    try:
        text = existing_file(path).read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds no text: give another file") from error
    found: dict[str, Trial] = {}
    *lines, rest = text.split("\n")
    # `append_trial` removes what was cut off. A file of one line that is something else must not be lost that way.
    if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise ValueError(f"{path} does not hold results of trials: give another file")
    lines += [rest] if _is_whole(rest) else []
    cut = []
    for i, line in enumerate(lines, start=1):
        try:
            data = unsealed(parsed(line))
            found[entry(data, "key", str)] = Trial.from_json(data["run"])
        except DAMAGE as error:
            if isinstance(error, json.JSONDecodeError) and line.startswith(_BEGINNING):
                cut.append(str(i))
                continue
            way_out = "remove that line, and its trial alone is done again, or give another file"
            raise ValueError(f"{path}, line {i} is not the result of a trial ({error!r}): {way_out}") from error
    if cut and say:
        warn_caller(f"{path} was damaged in line {', '.join(cut)}: what is whole is used, and the rest is done again")
    return found


def check_room(path: Path) -> None:
    """Before a trial, of which nothing is to be lost. Raises OSError if the disk of the results file is full."""
    free = shutil.disk_usage(path.absolute().parent).free
    if free < ROOM:
        raise OSError(errno.ENOSPC, _full(path, f"{free / 2**20:.2f} MiB are free"))


def append_trial(path: Path, key: str, trial: Trial) -> None:
    """Adds a line to the results file, after what is left of one that was cut off is removed.

    Raises OSError if it can't be written whole; the file is then as it was.
    """
    line = (json.dumps(sealed({"key": key, "run": trial.to_json()}), allow_nan=False) + "\n").encode()
    try:
        with path.open("a+b", buffering=0) as file:
            file.seek(0)
            known = file.read()
            whole = len(known) if _is_whole(known[known.rfind(b"\n") + 1 :]) else known.rfind(b"\n") + 1
            file.truncate(whole)
            if whole and known[whole - 1 : whole] != b"\n":  # an editor's, or a kill's before the last letter
                line = b"\n" + line
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())  # some file systems say only now that there is no room
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise OSError(error.errno, _full(path, error.strerror or str(error))) from error


def _is_whole(line: str | bytes) -> bool:
    """Whether a line's end alone may be missing."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _full(path: Path, why: str) -> str:
    return f"no trial can be added to {path} ({why}): make room and start again; all that is in it counts"
