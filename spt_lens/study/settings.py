"""What a study does, as one object that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from spt_lens import saving
from spt_lens.checking import MANY, door, instance, number, one_of, seed_number, whole_number
from spt_lens.evaluate.methods import NAMED
from spt_lens.study.rankings import RANKINGS
from spt_lens.tune.config import TuneConfig

KIND = "study settings"
METHODS = ("chosen heads", "full fine-tuning", "LoRA", "LoRA on the chosen heads", "random heads")
Words = Literal["behaviour", "found"]
_MAPPINGS = ("pairs", "replies", "training", "validation", "test", "rates")


@door
@dataclass(frozen=True)
class StudySettings:
    """The settings of a study; `to_json` and `from_json` hold all of them.

    ask: whether a behaviour that can be `asked` is, so that it is about the model's own first answers. n_asked: at most
    so many questions of each split, drawn by `seed`; None: all. replies: `stands`, `gives_in` (the words of the
    training targets) and `max_new_tokens` of `behaviour.asked`.
    pairs: keywords of `behaviour.pairs`; of two contrasts, {"contrast": [one, other]}, scores are the mean, and all
    else goes by the first. words: by what replies are read, the behaviour's own or those of `pairs.find_words`, where
    it finds any.
    ranking: a name in `rankings.RANKINGS`. share, layers: the rule: the best heads by that ranking, up to this share of
    ALL heads, from the first to the last of these layers (None: any).
    n_verify: pairs on which the chosen heads are knocked out, beside n_sets random sets; 0: no knockout.
    training: keywords of `behaviour.training`. validation, test: of `behaviour.suite` on that split. n_prompts,
    n_choices: ordinary prompts and four-way choices that are added to a suite which has none, on validation a quarter
    of these choices. n_texts: of a suite's texts for drift, at most so many. keep: at most so many
    texts of `behaviour.suite("train")` for the KL term of `tune.kl_weight`.
    methods: some of `evaluate.methods.NAMED`. rates: learning rates by method; default: the tuner's own. seeds: of the
    tuning. confirm: more seeds, for the chosen rates alone. n_random: draws of random heads, matched layer by layer,
    each tuned with the first seed alone: their spread is that of draws.
    tune: all else of the tuning; its lr and seed are each trial's own.
    test_each: every trial is evaluated on the test split too, and not those of the chosen rates alone. seed: of
    everything else that is drawn.

    Raises: TypeError or ValueError that names the field, for a value that can't be meant.
    """

    ask: bool = True
    n_asked: int | None = None
    replies: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, Any] = field(default_factory=lambda: {"n": 48})
    words: Words = "behaviour"
    ranking: str = "activation patching"
    share: float = 0.05
    layers: tuple[int, int] | None = None
    n_verify: int = 24
    n_sets: int = 3
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    n_prompts: int = 24
    n_choices: int = 200
    n_texts: int | None = None
    keep: int = 0
    methods: tuple[str, ...] = METHODS
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1)
    confirm: tuple[int, ...] = ()
    n_random: int = 5
    tune: TuneConfig = TuneConfig(steps=60, batch_size=8)
    test_each: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            given = dict(getattr(self, name))
            if "split" in given:
                raise ValueError(f"{name} names a split: leave it out, a study takes each for what it is for")
            try:
                object.__setattr__(self, name, json.loads(json.dumps(given, allow_nan=False)))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} holds what JSON can't: {error}") from error
        for name, words in self.replies.items():
            one_of(name, "a keyword of replies", ("stands", "gives_in", "max_new_tokens"))
            whole_number(words, name) if name == "max_new_tokens" else instance(words, name, str, "write the reply")
        for name in ("n_verify", "n_sets", "n_prompts", "n_choices", "keep", "n_random"):
            whole_number(getattr(self, name), name, 0, MANY)
        for name in ("n_asked", "n_texts"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name)
        one_of(self.ranking, "ranking", RANKINGS)
        number(self.share, "share", above=0, most=0.5)  # as many others are needed beside them
        seed_number(self.seed)
        self._check_pairs()
        self._check_methods()

    def _check_pairs(self) -> None:
        contrast = self.pairs.get("contrast", "")
        if not isinstance(contrast, str):
            if not isinstance(contrast, list) or [type(each) for each in contrast] != [str, str]:
                raise ValueError(f'pairs["contrast"] is {contrast!r}: give a name, or a list of two')
            if RANKINGS[self.ranking].by_dialogues:
                raise ValueError(f"{self.ranking!r} is not measured on pairs: give one contrast, or another ranking")
        if self.layers is not None:
            ends = self._listed("layers", "give [first, last], or null for all")
            if len(ends) != 2 or whole_number(ends[0], "layers[0]", 0) > whole_number(ends[1], "layers[1]", 0):
                raise ValueError(f"layers={list(ends)}: give [first, last], or null for all")

    def _check_methods(self) -> None:
        checks: dict[str, Any] = {"methods": partial(one_of, allowed=NAMED), "seeds": seed_number}
        for name, check in checks.items():
            found = [check(each, f"one of {name}") for each in self._listed(name, "give a list")]
            if not found or len(set(found)) < len(found):
                raise ValueError(f"{name}={found}: give at least one, and each one once")
        more = [seed_number(each, "one of confirm") for each in self._listed("confirm", "give a list")]
        if len({*more, *self.seeds}) < len(more) + len(self.seeds):
            raise ValueError(f"confirm={more}: give seeds other than those of seeds={list(self.seeds)}, each one once")
        if "random heads" in self.methods and not self.n_random:
            raise ValueError('n_random=0 draws no heads: give at least 1, or leave "random heads" out of methods')
        for method, rates in self.rates.items():
            one_of(method, "a method of rates", self.methods)
            if not isinstance(rates, list) or not rates:
                raise ValueError(f"rates[{method!r}] is {rates!r}: give a list of learning rates, or leave it out")
            for rate in rates:
                number(rate, f"a rate of {method!r}", above=0)
        tune = self.tune
        object.__setattr__(self, "tune", replace(tune, lr=TuneConfig.lr, seed=TuneConfig.seed))
        if tune.patience is not None:
            raise ValueError("tune.patience: a study tunes every method for all its steps, leave it out")
        if bool(self.keep) != bool(tune.kl_weight):
            raise ValueError(f"keep={self.keep} and tune.kl_weight={tune.kl_weight:g}: a KL term needs both, give both")

    def _listed(self, name: str, way_out: str) -> tuple[Any, ...]:
        object.__setattr__(self, name, tuple(instance(getattr(self, name), name, (list, tuple), way_out)))
        return tuple(getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`; what is left out has its default. Raises TypeError or ValueError as the class."""
        made = {name: value for name, value in data.items() if name != "kind"}
        for name in made:
            one_of(name, "a setting", [f.name for f in fields(cls)])
        if isinstance(tune := made.get("tune"), Mapping):
            for name in tune:
                one_of(name, "a setting of tune", [f.name for f in fields(TuneConfig)])
            made["tune"] = TuneConfig(**{**asdict(cls().tune), **tune})
        return cls(**made)

    def save(self, path: str | Path) -> Path:
        """Writes them as JSON. Raises OSError if the file can't be written."""
        return saving.write_text(path, json.dumps({"kind": KIND, **self.to_json()}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From a file that `save` or your editor wrote. Raises FileNotFoundError; ValueError that names the file."""
        data = saving.read_json(path, KIND)
        try:
            return cls.from_json(data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
