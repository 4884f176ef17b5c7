"""The stages of a study, in their order. Each looks for its file first, and writes it as the last thing it does.

So a study that was ended by whatever goes on with the first stage whose file is not there. A stage leaves the model as
it was, also where an error or an interrupt ends it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spt_lens import saving
from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.asking import Answers, ask
from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split
from spt_lens.behaviours.ordinary import choices_of, ordinary_prompts
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.data.wording import Figures, Wording
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import Contender
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.set_effect import SetEffect
from spt_lens.measure.sets import matched_random, set_patching
from spt_lens.model.kept import to_the_end
from spt_lens.model.view import Model, ModelView
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.scores.metrics import warn_caller
from spt_lens.statistics import Estimate, heads_within
from spt_lens.study.folder import loaded
from spt_lens.study.rankings import RANKINGS
from spt_lens.study.report import write_study_report
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import CHOSEN, RUNS, Work
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint

Result = TypeVar("Result", HeadScores, SetEffect)
KIND = "study pairs"
_UNREAD = Figures((0.0, 0.0), (0.0, 0.0), Estimate(0.0, 0.0, 0.0, 0), 0.0)  # those of words are told as text


def asking(work: Work, progress: bool) -> None:
    """Asks the model, where the behaviour can be asked. What was answered so far is in the file."""
    work.asked = own_answers(work.behaviour, work, work.path("ask"), SPLITS, progress)
    work.answers = getattr(work.asked, "own", None)


def own_answers(
    behaviour: Behaviour, work: Work, path: Path, splits: Sequence[Split], progress: bool = True
) -> Behaviour:
    """The behaviour over the model's own first answers to the questions of some splits; of one that can't be asked, or
    that is not to be, itself."""
    asked: Any = getattr(behaviour, "asked", None)
    if not callable(asked) or not work.settings.ask:
        return behaviour
    words = dict(work.settings.replies)
    if not isinstance(behaviour, AreYouSure):  # of one's own: it knows what to ask
        own_kind: Behaviour = asked(work.model, path=path, progress=progress, **words)
        return own_kind
    own, length = behaviour.own, words.pop("max_new_tokens", 32)
    if path.exists():
        loaded(path, Answers.load)
    if own is None:
        draw = f"asked {work.settings.seed}"
        questions = [
            replace(question, split=split)
            for split in splits
            for question in some(behaviour.of_split(split), work.settings.n_asked, draw)
        ]
        how: Any = {"how": behaviour.how, "judge": behaviour.judge, "path": path, "progress": progress}
        own = ask(work.model, questions, max_new_tokens=length, **how)
    elif not path.exists():
        own.save(path)
    return asked(own, **words)


def some(items: Sequence[Any], n: int | None, draw: str) -> list[Any]:
    """At most n of the items, in their order."""
    if n is None or n >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(draw).sample(range(len(items)), n))]


def pairing(work: Work, progress: bool) -> None:
    """Makes the pairs, and finds the words that they are read by. The pairs are made anew each time, from the same."""
    assert work.asked is not None
    pairs, path = contrasts(work.asked, work.model, work.settings)[0], work.path("pairs")
    if not path.exists():
        best, says = None, "by the behaviour's own words"
        if work.settings.words == "found":
            found = pairs.find_words(work.model, progress=progress)
            best, says = found.best, str(found)
            if best is None:
                warn_caller(f"the replies are read by the behaviour's own words, since {found}")
        words = best and {name: getattr(best, name) for name in ("kind", "texts", "beginning", "sets")}
        saving.save_json(path, KIND, {"n_pairs": len(pairs), "says": says, "words": words})
    work.wording = loaded(path, lambda path: saving.load_json(path, KIND, _wording))
    work.pairs = _read_by(pairs, work.wording)


def _wording(data: Mapping[str, Any]) -> Wording | None:
    if data["words"] is None:
        return None
    words = saving.entry(data, "words", dict)
    beginning, one, other = (tuple(map(int, each)) for each in (words["beginning"], *words["sets"]))
    return Wording(words["kind"], tuple(words["texts"]), _UNREAD, _UNREAD, beginning, (one, other))


def _read_by(pairs: ContrastPairs, wording: Wording | None) -> ContrastPairs:
    return pairs if wording is None else pairs.with_words(wording)


def contrasts(behaviour: Behaviour, model: Model, settings: StudySettings) -> list[ContrastPairs]:
    """The pairs of each contrast that the settings name."""
    words = dict(settings.pairs)
    named = words.pop("contrast", None)
    each = named if isinstance(named, list | tuple) else [named]
    return [behaviour.pairs(model, **words, **({} if name is None else {"contrast": name})) for name in each]


def scoring(work: Work, progress: bool) -> None:
    """Every head's score by the ranking, the mean over the contrasts."""
    ranking = RANKINGS[work.settings.ranking]

    def measure() -> HeadScores:
        assert work.asked is not None
        dialogues = work.asked.training(**work.settings.training) if ranking.by_dialogues else ()
        return _mean([ranking.scores(work.model, pairs, dialogues, progress) for pairs in _read(work)])

    work.scores = _kept(work.path("scores"), HeadScores, measure)


def nulling(work: Work, progress: bool) -> None:
    """The same where nothing is to be recovered, for a ranking that has such a null."""
    ranking = RANKINGS[work.settings.ranking]

    def measure() -> HeadScores:
        seed = work.settings.seed
        return _mean([ranking.null_scores(work.model, pairs, seed, progress) for pairs in _read(work)])

    work.null = _kept(work.path("null"), HeadScores, measure) if ranking.null else None


def _read(work: Work) -> list[ContrastPairs]:
    assert work.asked is not None and work.pairs is not None
    others = contrasts(work.asked, work.model, work.settings)[1:]
    return [work.pairs, *(_read_by(pairs, work.wording) for pairs in others)]


def _mean(scores: list[HeadScores]) -> HeadScores:
    return scores[0] if len(scores) == 1 else mean_scores(*scores)


def _kept(path: Path, kind: type[Result], measure: Callable[[], Result]) -> Result:
    """What is in the file; measured and written if it is not there."""
    if not path.exists():
        measure().save(path)
    return loaded(path, kind.load)


def choosing(work: Work, progress: bool) -> None:
    """The heads that were given, or the best by the rule."""
    assert work.scores is not None
    path, settings = work.path("heads"), work.settings
    if not path.exists():
        heads = work.given
        if heads is None:
            first, last = settings.layers or (0, work.scores.n_layers - 1)
            ranked = [head for head in work.scores.order() if first <= head.layer <= last]
            rule = {"ranking": settings.ranking, "share": settings.share, "layers": [first, last]}
            about = {"name": CHOSEN, "model": work.scores.model_name, "chosen_by": "the rule of a study", "rule": rule}
            heads = HeadSet(tuple(ranked[: n_chosen(settings, work.scores.values.numel())]), about)
        heads.save(path)
    work.heads = loaded(path, HeadSet.load)
    work.heads.check(work.model)


def n_chosen(settings: StudySettings, n_heads: int) -> int:
    """How many heads the rule chooses of all."""
    return heads_within(settings.share, n_heads)


def patching(work: Work, progress: bool) -> None:
    """What the chosen heads bring back together, as a curve beside random sets."""
    pairs, heads, how = _sets(work, progress)
    measure = partial(set_patching, work.model, pairs, heads, "curve", **how)
    work.patching = _kept(work.path("patching"), SetEffect, measure)


def knocking_out(work: Work, progress: bool) -> None:
    """What is left without them, in the logits and in whole replies, beside random sets."""
    pairs, heads, how = _sets(work, progress)
    n = work.settings.n_verify
    measure = partial(set_knockout, work.model, pairs[: max(1, n)], heads, **how)
    work.knockout = _kept(work.path("knockout"), SetEffect, measure) if n else None


def _sets(work: Work, progress: bool) -> tuple[ContrastPairs, HeadSet, dict[str, Any]]:
    assert work.pairs is not None and work.heads is not None
    how = {"n_random": work.settings.n_sets, "seed": work.settings.seed, "progress": progress}
    return work.pairs, work.heads, how


def trying(work: Work, progress: bool) -> None:
    """Every method over its rates and seeds on validation, and the chosen rates on test and on what else there is."""
    assert work.asked is not None and work.heads is not None
    path, settings = work.path("trials"), work.settings
    if not path.exists():
        how: Any = {"methods": contenders(work), "seeds": settings.seeds, "test_each": settings.test_each}
        how |= {"suites": suites_of(work, progress), "keep": kept_texts(work), "workers": work.workers}
        dialogues = work.asked.training(**settings.training)
        found = compare(
            work.model, dialogues=dialogues, config=settings.tune, out=work.out / RUNS, progress=progress, **how
        )
        for name, table in (("table", found.table), ("frontier", found.frontier)):
            saving.write_text(work.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
        found.save(path)
    work.comparison = loaded(path, Comparison.load, f"it is made again from {RUNS}, without another trial")


def contenders(work: Work) -> list[Contender]:
    """The methods of the settings, with their rates."""
    assert work.heads is not None
    heads, settings, view = work.heads, work.settings, ModelView(work.model)
    draws = range(settings.seed, settings.seed + settings.n_random) if "random heads" in settings.methods else ()
    tuners: dict[str, Any] = {
        CHOSEN: Pinpoint(heads),
        "full fine-tuning": FullFineTuning(),
        "LoRA": LoRA(),
        "LoRA on the chosen heads": HeadLoRA(heads),
        "random heads": [Pinpoint(matched_random(view, heads, seed)) for seed in draws],
    }
    return [
        Contender(
            name,
            tuners[name],
            tuple(settings.rates.get(name, ())),
            settings.seeds[:1] if name == "random heads" else None,
        )
        for name in settings.methods
    ]


def suites_of(work: Work, progress: bool = True) -> dict[str, Suite]:
    """What trials are judged by: "validation", "test", and that of every external behaviour by its name."""
    assert work.asked is not None
    settings = work.settings
    suites = {
        "validation": with_more(work.asked.suite("validation", **settings.validation), work, "validation"),
        "test": with_more(work.asked.suite("test", **settings.test), work, "test"),
    }
    for name, check in work.checks.items():
        asked = own_answers(check, work, work.out / f"answers-{name}.json", ("test",), progress)
        suites[name] = asked.suite("test", **(settings.test if isinstance(check, type(work.behaviour)) else {}))
    return suites


def with_more(suite: Suite, work: Work, split: Any) -> Suite:
    """A suite with ordinary prompts and four-way choices where it has none."""
    settings = work.settings
    more: dict[str, Any] = {}
    if settings.n_prompts and not suite.prompts:
        more["prompts"] = tuple(ordinary_prompts(split)[: settings.n_prompts])
    if settings.n_choices and not suite.choices:
        own: Any = work.behaviour
        questions = own.of_split(split) if isinstance(own, AreYouSure) else []
        if not any(question.wrong for question in questions):
            questions = [question for question in question_bank() if question.split == split]
        more["choices"] = choices_of(questions, settings.n_choices, settings.seed)
    return replace(suite, **more)


def kept_texts(work: Work) -> list[Dialogue]:
    """Ordinary dialogues for the KL term."""
    assert work.asked is not None
    settings = work.settings
    texts = work.asked.suite("train").texts if settings.keep else ()
    return some(texts, settings.keep, f"keep {settings.seed}")


def keeping(work: Work, progress: bool) -> None:
    """Tunes the chosen heads once more, at the chosen rate with the first seed, and keeps what that changed."""
    assert work.asked is not None and work.heads is not None and work.comparison is not None
    folder, settings = work.path("adapter"), work.settings
    lr = work.comparison.choice.get(CHOSEN, 0.0)
    good = [t.spec.seed for t in work.comparison.trials if (t.spec.method, t.spec.lr) == (CHOSEN, lr) and not t.error]
    if not good:  # not among the methods, or every trial diverged
        return
    if not (folder / "adapter.safetensors").exists():
        config, keep = replace(settings.tune, lr=lr, seed=good[0]), kept_texts(work)
        dialogues = work.asked.training(**settings.training)
        tuned = Pinpoint(work.heads).tune(work.model, dialogues, config, keep=keep or None, progress=progress)
        to_the_end(partial(tuned.undo, work.model))
        if tuned.interrupted:
            raise KeyboardInterrupt
        tuned.save(folder)
    work.adapter = loaded(folder, Adapter.load)


def exporting(work: Work, progress: bool) -> None:
    """The tuned model as a folder that transformers loads, where that was asked for."""
    folder = work.path("export")
    if not work.export or work.adapter is None:
        return
    if not folder.exists():
        work.adapter.apply(work.model)
        try:
            export_hf(work.model, folder, progress=progress)
        finally:
            to_the_end(partial(work.adapter.revert, work.model))
    work.exported = folder


def reporting(work: Work, progress: bool) -> None:
    """The page, and the picker's, on which other heads can be chosen."""
    assert work.scores is not None
    page = work.out / "picker.html"
    if not page.exists():
        picker = HeadPicker(work.scores, chosen=work.heads, name=CHOSEN)
        picker.write_html(page)
        picker.close()
    path = work.path("report")
    if not path.exists():
        write_study_report(work)
    work.report = path


STAGES: dict[str, Callable[[Work, bool], None]] = {
    "ask": asking,
    "pairs": pairing,
    "scores": scoring,
    "null": nulling,
    "heads": choosing,
    "patching": patching,
    "knockout": knocking_out,
    "trials": trying,
    "adapter": keeping,
    "export": exporting,
    "report": reporting,
}
