"""One run of a comparison: tune by some method, evaluate on every split, put the model back. Kept as JSON lines."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.evaluate import Evaluation, evaluate
from spt_lens.heads import HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.baselines import full_finetune, lora_tune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig

Kind = Literal["untuned", "heads", "full", "lora"]


@dataclass(frozen=True)
class Method:
    """A way to tune, with the learning rates to try.

    heads: of kind "heads", one selection, or several draws of random heads. seeds: tuning seeds, None for the
        comparison's.
    """

    name: str
    kind: Kind
    lrs: tuple[float, ...]
    heads: tuple[HeadSet, ...] = ()
    rank: int = 16
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind == "heads" and not self.heads:
            raise ValueError(f"method {self.name!r} tunes heads, but has none: give it at least one HeadSet")
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"method {self.name!r} needs learning rates above zero, got {self.lrs}")


@dataclass(frozen=True)
class Spec:
    """One run: everything that sets it apart from the others of a comparison. draw: which selection of its method."""

    method: str
    kind: Kind
    lr: float = 0.0
    seed: int = 0
    draw: int = 0
    heads: str = ""
    rank: int = 0


def specs(methods: Sequence[Method], seeds: Sequence[int]) -> list[Spec]:
    """All runs of the methods, the untuned model first, each once.

    Raises ValueError for two methods of one name, or a method without seeds.
    """
    names = [method.name for method in methods]
    if len(set(names)) < len(names) or "untuned" in names:
        raise ValueError(f'methods need names of their own, other than "untuned"; got {", ".join(names)}')
    found = [Spec("untuned", "untuned")]
    for method in methods:
        if not (seeds if method.seeds is None else method.seeds):
            raise ValueError(f"method {method.name!r} has no seeds: give at least one")
        rank = method.rank if method.kind == "lora" else 0
        for draw, heads in enumerate(map(str, method.heads or ("",))):
            for lr in method.lrs:
                for seed in seeds if method.seeds is None else method.seeds:
                    found.append(Spec(method.name, method.kind, lr, seed, draw, heads, rank))
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Plan:
    """What all runs of a comparison share. `config.lr` and `config.seed` are each run's own."""

    dialogues: tuple[Dialogue, ...]
    config: TuneConfig
    suites: dict[str, Suite]
    keep: tuple[Dialogue, ...] = ()

    def fingerprint(self, model: Model) -> str:
        """Changes when the model's weights, the data, the suites or the settings do."""
        digest = hashlib.sha256()
        for name, weight in sorted(ModelView(model).weights().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        config = asdict(replace(self.config, lr=1.0, seed=0))
        parts: list[Any] = [config, _words(self.dialogues), _words(self.keep)]
        for name, suite in self.suites.items():
            groups = {
                **suite.groups,
                **suite.abilities,
                "right": suite.right,
                "wrong": suite.wrong,
                "texts": suite.texts,
            }
            parts.append([name, {group: _words(dialogues) for group, dialogues in groups.items()}])
        digest.update(json.dumps(parts, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _words(dialogues: Iterable[Dialogue]) -> list[list[str]]:
    return [[text for message in d.messages for text in (message.role, message.content)] for d in dialogues]


@dataclass(frozen=True, eq=False)
class Run:
    """What came of one run. evaluations: by split. error: why it has none, if training diverged."""

    spec: Spec
    parameters: int
    seconds: float
    evaluations: dict[str, Evaluation] = field(repr=False)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": asdict(self.spec),
            "parameters": self.parameters,
            "seconds": self.seconds,
            "evaluations": {split: e.to_json() for split, e in self.evaluations.items()},
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        evaluations = {split: Evaluation.from_json(e) for split, e in data["evaluations"].items()}
        return cls(Spec(**data["spec"]), data["parameters"], data["seconds"], evaluations, data["error"])


class Bench:
    """Does runs on one model, which is put back after each, also after an error or an interrupt."""

    def __init__(self, model: Model, plan: Plan):
        self.view = ModelView(model)
        self.plan = plan
        self._untuned = {name: weight.detach().clone() for name, weight in self.view.weights().items()}
        self._references = {split: Reference.of(self.view, s.texts) for split, s in plan.suites.items() if s.texts}

    def run(self, spec: Spec) -> Run:
        began = time.perf_counter()
        try:
            parameters = self._tune(spec)
            seconds = time.perf_counter() - began
            found = {
                split: evaluate(self.view, suite, self._references.get(split), progress=False)
                for split, suite in self.plan.suites.items()
            }
        except FloatingPointError as error:  # a learning rate too high: a result too, but no figures
            return Run(spec, 0, time.perf_counter() - began, {}, str(error))
        finally:
            self.view.load_weights(self._untuned)
        return Run(spec, parameters, seconds, found)

    def _tune(self, spec: Spec) -> int:
        """Tunes the model; returns the number of trainable parameters."""
        if spec.kind == "untuned":
            return 0
        config = replace(self.plan.config, lr=spec.lr, seed=spec.seed)
        data, keep = self.plan.dialogues, self.plan.keep or None
        if spec.kind == "heads":
            run = pinpoint_tune(self.view, HeadSet.parse(spec.heads), data, config, keep=keep, progress=False)
            if run.interrupted:
                raise KeyboardInterrupt
            return run.adapter.numel()
        if spec.kind == "full":
            return full_finetune(self.view, data, config, keep=keep, progress=False).parameters
        return lora_tune(self.view, data, config, spec.rank, keep=keep, progress=False).parameters


def key(spec: Spec, fingerprint: str) -> str:
    """Names a run in the results file. The method's name and the draw's number are only labels, and not part of it."""
    parts = [fingerprint, spec.kind, spec.lr, spec.seed, spec.heads, spec.rank]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


_BEGINNING = '{"key": "'  # of every line of a results file


def read_runs(path: Path) -> dict[str, Run]:
    """The runs of a results file, by key; none if there is no file. A last line that was cut off is left out.

    Raises:
        ValueError: a line is no result of a run, or what stands after the last line is no beginning of one.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found: dict[str, Run] = {}
    *lines, rest = text.split("\n")
    # `write_run` removes what was cut off. A file of one line that is something else must not be lost that way.
    if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise ValueError(f"{path} does not hold results of runs: give another file")
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line)
            found[data["key"]] = Run.from_json(data["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not the result of a run ({error!r}): give another file"
            ) from error
    return found


def write_run(path: Path, name: str, run: Run) -> None:
    """Appends a run to the results file, after what is left of a line that was cut off is removed."""
    line = json.dumps({"key": name, "run": run.to_json()}, allow_nan=False) + "\n"
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())
