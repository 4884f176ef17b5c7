"""A study as one page that opens offline: what was asked, which heads, what they do, every method on test, and why.

Nothing is measured here but attention on one dialogue.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import judged
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.equal_reach import LEAST
from spt_lens.evaluate.sycophancy import first_answers
from spt_lens.heads import HeadSet
from spt_lens.measure.attention_view import attention_view
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.study.reach import RULE, drift_of, needed_drift, reach_table, saturation, split_of
from spt_lens.study.verdict import (
    DRIFTS,
    FULL,
    RANDOM,
    ahead,
    as_text,
    cautions,
    goals,
    methods_table,
    next_commands,
    next_steps,
)
from spt_lens.study.work import CHOSEN, Work
from spt_lens.view.report import Example, Section, write_report
from spt_lens.view.style import GREY, readable

FIGURES = (
    "Of the model's own right answers, confidence: stood by; truthfulness: still right in the end. Of wrong answers, "
    "retracted: taken back; self correction: put right; stubbornness: kept. Discernment: the mean of confidence and "
    "retracted, of which always or never giving in makes .5. Ability: right replies of other kinds; choice: four-way "
    "questions, by likelihood. Kl: drift from the untuned model in nats a token, on given text and on its own replies. "
    "Cut: replies that had not ended when they had all their tokens."
)
ABOUT = {
    "answers.json": "the model's own first answers: Answers.load",
    "pairs.json": "what was contrasted, as it was read",
    "scores.safetensors": "every head's score, pair by pair: HeadScores.load",
    "null.safetensors": "the same where nothing is to be recovered",
    "heads.json": "the chosen heads: HeadSet.load",
    "patching.json": "the chosen heads patched in together: SetEffect.load",
    "knockout.json": "the chosen heads knocked out together: SetEffect.load",
    "runs.jsonl": "every trial, as it ended",
    "comparison.json": "every trial: Comparison.load",
    "table.csv": "every method at its chosen learning rate, test split",
    "frontier.csv": "every trial and split, a line each",
    "adapter": "the tuned heads: Adapter.load, then apply(model)",
    "export": "the tuned model as an ordinary Hugging Face folder",
    "picker.html": "the map of heads, to choose others by looking; give what it saves with --heads",
    "study.json": "what the study was made with",
}


def write_study_report(work: Work) -> Path:
    """Writes `report.html` of a study, as far as it came, and returns its path. Raises OSError if it can't be."""
    title = f"{ModelView(work.model).name}: {work.behaviour.name}"
    return write_report(work.path("report"), title, lead(work), sections(work, examples(work)))


def lead(work: Work) -> str:
    """The first paragraphs: what the model did, what it does now, with how much, and beside what."""
    view, comparison = ModelView(work.model), work.comparison
    said = f"{view.name} has {view.n_layers * view.n_heads} attention heads and {view.n_params:,} weights."
    if work.heads:
        said += f" {len(work.heads)} heads were chosen, {work.heads.share_of_parameters(view):.2%} of the weights."
    if comparison is None or CHOSEN not in comparison.choice:
        return said
    known, goal = comparison.intervals.set_index(["method", "metric"])["value"], comparison.goal
    names = [name for name in ("untuned", CHOSEN, FULL, RANDOM) if (name, goal) in known.index]
    if CHOSEN not in names:
        return said
    told = ", ".join(f"{name} {known[name, goal]:.2f}".replace(" nan", " not known") for name in names)
    drift = next((kl for kl in DRIFTS if (CHOSEN, kl) in known.index), "")
    if drift:
        told += f". Drift: {', '.join(f'{name} {known[name, drift]:.3f}' for name in names[1:])} nats a token"
    verdict = saturation(comparison) or ahead(comparison)
    return f"{said}\n\n{readable(goal).capitalize()} on the test split: {told}. {verdict}"


def sections(work: Work, shown: Sequence[Example] = ()) -> list[Section]:
    """All there is to show, in the order of the story."""
    found = [*_needed(work), _asked(work), *_chosen(work), *_together(work, shown), *_methods(work)]
    if shown:
        text = "The first dialogues of each kind on the test split, as they come; none was chosen for its replies."
        found.append(Section("Dialogues, before and after", text, examples=shown))
    little = cautions(work)
    found.append(Section("What this rests on little", "" if little else "Nothing stands out.", numbered(little)))
    if work.seconds:
        times = [(stage, f"{value:,.0f} s") for stage, value in work.seconds.items() if value >= 0.5]
        times.append(("in all", f"{sum(work.seconds.values()):,.0f} s"))
        found.append(Section("What it cost", "Wall-clock seconds of each stage on this machine.", times))
    about = [(f.name, ABOUT.get(f.name, "")) for f in sorted(work.out.iterdir()) if not f.name.startswith(".")]
    text = "It goes on where it was stopped; in another folder it is made again, to the same bits on the same machine."
    found.append(Section("Files, and the command to repeat it", text, about, command(work)))
    steps = numbered(next_steps(work))
    return [*found, Section("What to do next", facts=steps, code=next_commands(work), links=_map(work))]


def _map(work: Work) -> list[tuple[str, str]]:
    """The picker's page, where it stands beside the report."""
    return [("The map of heads, to choose on", "picker.html")] if (work.out / "picker.html").exists() else []


def numbered(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{i}.", _sentence(text)) for i, text in enumerate(texts, start=1)]


def command(work: Work) -> str:
    """What makes the study again, but for names that the study was not told: of the model, the questions and checks."""
    given = " --heads HEADS" if work.given else ""
    checks = "".join(f" --check {name}=FILE" for name in work.checks)
    dtype = str(ModelView(work.model).dtype).removeprefix("torch.")
    matmul = torch.get_float32_matmul_precision()
    more = given + checks + f" --dtype {dtype}" * (dtype != "float32") + f" --matmul {matmul}" * (matmul != "highest")
    more += " --export" * work.export
    out = shlex.quote(work.out.name)
    line = f"spt-lens study --model MODEL --questions QUESTIONS --settings settings.json --out {out}{more}"
    return f"{line}\n\nsettings.json:\n{json.dumps(work.settings.to_json())}"


def _needed(work: Work) -> list[Section]:
    """Where the goal is full for all: the frontier and the drift that each method needs, before all else."""
    comparison = work.comparison
    if comparison is None or not comparison.choice or not saturation(comparison) or not needed_drift(comparison):
        return []
    drift, split = needed_drift(comparison), split_of(comparison)
    text = f"{readable(comparison.goal).capitalize()} against drift on {DRIFTS[drift]}, {split} split: a small point a "
    text += f"run, a line a method; dotted: {LEAST:g}."
    figure = comparison.figure(x=drift, split=split).update_layout(title=None, margin_t=20, height=360)
    figure.add_hline(y=LEAST, line={"dash": "dot", "color": GREY, "width": 1})
    table = Section("", RULE.format(split=split), table=reach_table(comparison))
    return [Section("What it takes, method by method", text, figure=figure), table]


def _asked(work: Work) -> Section:
    view, settings = ModelView(work.model), work.settings
    shape = f"{view.n_layers} layers x {view.n_heads} heads, {view.n_params:,} weights, {view.dtype} on {view.device}"
    facts = [("model", f"{view.name}: {shape}"), ("behaviour", repr(work.behaviour))]
    if work.pairs is not None:
        way = f"contrast {settings.pairs.get('contrast', 'of the behaviour')}"
        words = "the behaviour's own words" if work.wording is None else "words found in its replies"
        facts.append(("pairs", f"{len(work.pairs)}, {way}, read by {words}"))
    facts.append(("rule", rule(work)))
    tune = f"{settings.tune.steps} steps of {settings.tune.batch_size} dialogues, seeds {settings.seeds}"
    tune += f", at the chosen rates {settings.confirm} too" if settings.confirm else ""
    tune += f", KL weight {settings.tune.kl_weight:g} on {settings.keep} dialogues" if settings.keep else ", no KL term"
    facts += [("methods", ", ".join(settings.methods)), ("tuning", tune)]
    facts += [(f"{name} of training", repr(text)) for name, text in settings.replies.items()]
    if work.scores is not None and (check := work.scores.check) is not None:
        facts += [("readout", check.line()), *(("warning", each) for each in check.warnings)]
    answers = work.answers
    facts += [] if answers is None else [("its own answers", repr(answers))]
    return Section("What was asked, and how", "", facts, table=None if answers is None else as_text(answers.table))


def rule(work: Work) -> str:
    """By what rule heads were chosen."""
    if work.given is not None:
        return f"chosen elsewhere: {json.dumps(dict(work.given.about)) if work.given.about else 'a selection given'}"
    layers = "" if work.settings.layers is None else " of layers {} to {}".format(*work.settings.layers)
    return f"the best heads{layers} by {work.settings.ranking}, up to {work.settings.share:.1%} of all heads"


def _chosen(work: Work) -> list[Section]:
    if work.scores is None:
        return []
    scores, heads = work.scores, work.heads or HeadSet()
    said = f"Hover over a head for its score and interval. Outlined: {rule(work)}."
    said += f"\n\n{_sentence(str(scores.stability(max(1, len(heads)))))}" if scores.n_pairs > 3 else ""
    if work.null is not None:
        limit, above = float(work.null.values.abs().max()), scores.above_null(work.null)
        said += f" Where nothing is to be recovered (random pairs), no head scores above {limit:.3f}: {len(above)} do "
        said += f"here, {len(above & heads)} of the {len(heads)} chosen among them."
    table = scores.to_pandas().set_index("name").reindex(list(map(str, heads))).reset_index()
    columns = [name for name in ("name", "score", "low", "high", "rank", "logits", "note") if name in table]
    columns = columns if table["note"].any() else columns[:-1]
    chosen = Section("", "The chosen heads, with 95 % intervals over the pairs.", table=as_text(table[columns]))
    return [Section("Which heads", said, figure=scores.heatmap(heads), links=_map(work)), *([chosen] if heads else [])]


def _together(work: Work, shown: Sequence[Example]) -> list[Section]:
    found: list[Section] = []
    for name, effect in {"patched in": work.patching, "knocked out": work.knockout}.items():
        if effect is not None:
            told = effect.summary().replace("\n", "\n\n")
            text = f"{_sentence(name)}, beside random sets of the same layers. {told}"
            figure = effect.figure().update_layout(title=None, margin_t=20, height=380)
            found.append(Section("" if found else "What they do together", text, figure=figure))
    if work.heads and shown:
        text = "Their attention on the first dialogue below. Each row shows where one token looks."
        view = attention_view(work.model, work.heads, shown[0].dialogue)
        found.append(Section("" if found else "What they do together", text, attention=view))
    return found


def _methods(work: Work) -> list[Section]:
    comparison = work.comparison
    if comparison is None or not comparison.choice:
        return []
    share = work.heads.share_of_heads(work.model) if work.heads else math.nan
    text = "Of the chosen heads, on the test split. Where the interval holds what was wanted, it may be chance."
    table = goals(comparison, share_of_heads=share)
    found = [Section("Goals", text, table=as_text(table))] if len(table) else []
    text = (
        "Each cell: the mean over runs (of random heads the median over draws), the 95 % interval over the cases, and "
        "below it the lowest and highest run. Learning rates were chosen on the validation split by "
        f"{readable(comparison.goal)}; nothing was chosen on the test split."
    )
    found.append(Section("Every method on the test split", f"{text}\n\n{FIGURES}", table=methods_table(comparison)))
    for split in comparison.splits:
        if split not in ("validation", "test"):
            text = "Questions from elsewhere, evaluated once, at the same learning rates; cells as above."
            found.append(Section(f"External check: {split}", text, table=methods_table(comparison, split)))
    found += [section for split in ("validation", "test") for section in frontiers(comparison, split)]
    return found + [section for rival, share in ((RANDOM, 1.0), (FULL, 0.5)) for section in _equal(work, rival, share)]


def _equal(work: Work, rival: str, share: float) -> list[Section]:
    """What the chosen heads and a rival reach at no more drift; nothing where that was not measured."""
    comparison = work.comparison
    assert comparison is not None
    drift = drift_of(comparison)
    if not drift or CHOSEN not in comparison.choice or rival not in comparison.choice:
        return []
    split = "test" if work.settings.test_each else "validation"
    try:
        table = comparison.at_equal_drift(CHOSEN, rival, split, drift, share)
    except ValueError:  # a method without such figures
        return []
    within = "as much drift" if share == 1 else f"{share:.0%} of as much drift"
    text = (
        f"{_sentence(readable(comparison.goal))} of the chosen heads within {within} as {rival} may spend (the budget, "
        f"{drift}), on the {split} split; of each the learning rate that is best within it on validation. Intervals: "
        "over cases and runs. Missed: the goals that do not hold."
    )
    return [Section(f"At equal drift: {rival}", text, table=as_text(table.rename(columns=readable)))]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def frontiers(comparison: Comparison, split: str) -> list[Section]:
    """The goal against drift and against ability lost, of every trial on a split; none where a split has too few."""
    table = comparison.frontier
    table = table[table["split"] == split]
    if table.groupby("method")["lr"].nunique().max() < 2:  # the chosen rates alone are in the table above
        return []
    drift = "kl: own replies" if "kl: own replies" in table else "kl"
    found: list[Section] = []
    for cost, name in ((drift, "drift"), ("ability_loss", "ability lost")):
        if cost in table and table[cost].notna().any():
            text = f"{readable(comparison.goal).capitalize()} against {name}: a small point a run, a line a method."
            figure = comparison.figure(x=cost, split=split).update_layout(title=None, margin_t=20)
            found.append(Section("" if found else f"Frontiers, {split} split", text, figure=figure))
    return found


def examples(work: Work, each: int = 2) -> list[Example]:
    """The first dialogues of each kind of the test suite, and the replies to them before and after tuning.

    Right answers are the untuned model's own. The model is left as it was. Raises as `Adapter.apply` does.
    """
    model, adapter = work.model, work.adapter
    if adapter is None or work.asked is None:
        return []
    suite = work.asked.suite("test", **work.settings.test)
    own = first_answers(model, replace(suite, right=suite.right[:each])) if suite.right else []
    kinds: dict[str, Sequence[Dialogue]] = {"its own answer": own, "a wrong answer, pre-filled": suite.wrong[:each]}
    kinds |= {name: group[: each // 2 or 1] for name, group in suite.groups.items()}
    asked = [dialogue.unanswered for group in kinds.values() for dialogue in group]
    length = suite.judge.max_new_tokens
    before = replies(model, asked, length)
    with adapter.applied(model):
        after = replies(model, asked, length)
    names = [name for name, group in kinds.items() for _ in group]
    made = []
    for name, dialogue, old, new in zip(names, asked, before, after, strict=True):
        does = suite.words.gives_in
        said = [does if judged(suite.judge, dialogue, text).gives_in else "does not" for text in (old, new)]
        made.append(Example(dialogue, old, new, f"{name}: {said[0]} before, {said[1]} after"))
    return made
