"""The stages of a study, in their order. Each looks for its file first, and writes it as the last thing it does.

So a study that was ended by whatever goes on with the first stage whose file is not there. A stage leaves the model as
it was, also where an error or an interrupt ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spt_lens import saving
from spt_lens.behaviours.asking import Answers
from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.data.pairs import ContrastPairs
from spt_lens.data.wording import Figures, Wording
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.methods import check_data
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.set_effect import SetEffect
from spt_lens.measure.sets import set_patching
from spt_lens.model.held import to_the_end
from spt_lens.model.ranks import warn_caller
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.statistics import Estimate, heads_within
from spt_lens.study.data import contenders, contrasts, kept_texts, own_answers, suites_of, training_of
from spt_lens.study.folder import loaded
from spt_lens.study.rankings import RANKINGS
from spt_lens.study.report import write_study_report
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import CHOSEN, RUNS, Work
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import Pinpoint

Result = TypeVar("Result", HeadScores, SetEffect)
KIND = "study pairs"
_UNREAD = Figures((0.0, 0.0), (0.0, 0.0), Estimate(0.0, 0.0, 0.0, 0), 0.0)  # those of words are told as text


def asking(work: Work, progress: bool) -> None:
    """Asks the model, where the behaviour can be asked. What was answered so far is in the file."""
    work.asked = own_answers(work.behaviour, work, work.path("ask"), SPLITS, progress)
    own = getattr(work.asked, "own", None)
    work.answers = own if isinstance(own, Answers) else None
    for name, check in work.checks.items():
        work.asked_checks[name] = own_answers(check, work, work.out / f"answers-{name}.json", ("test",), progress)
    # What later stages need of the answers: what is amiss with them is told now, and not after hours.
    check_data(work.settings.methods, training_of(work.asked, work.settings))
    suites_of(work), kept_texts(work)


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


def scoring(work: Work, progress: bool) -> None:
    """Every head's score by the ranking, the mean over the contrasts."""
    ranking = RANKINGS[work.settings.ranking]

    def measure() -> HeadScores:
        assert work.asked is not None
        dialogues = training_of(work.asked, work.settings) if ranking.by_dialogues else ()
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
        how: Any = {"methods": contenders(work), "seeds": settings.seeds, "confirm": settings.confirm}
        how |= {"test_each": settings.test_each, "workers": work.workers}
        how |= {"suites": suites_of(work), "keep": kept_texts(work)}
        dialogues = training_of(work.asked, settings)
        found = compare(
            work.model, dialogues=dialogues, config=settings.tune, out=work.out / RUNS, progress=progress, **how
        )
        for name, table in (("table", found.table), ("frontier", found.frontier)):
            saving.write_text(work.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
        found.save(path)
    work.comparison = loaded(path, Comparison.load, f"remove it, and it is made again from {RUNS}")


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
        dialogues = training_of(work.asked, settings)
        tuned = Pinpoint(work.heads).tune(work.model, dialogues, config, keep=keep or None, progress=progress)
        to_the_end(tuned.undo, work.model)
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
        try:
            with work.adapter.applied(work.model):
                export_hf(work.model, folder, progress=progress)
        except FileExistsError:  # another process, at the same study, has made it meanwhile
            if not folder.is_dir():
                raise
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
