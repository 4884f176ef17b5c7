"""A study: every stage leaves its file, goes on from where it was ended, and refuses what does not fit at once."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stopped
import torch
from conftest import condition

from spt_lens import saving
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.trials import read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study import folder, stages
from spt_lens.study.data import suites_of
from spt_lens.study.settings import StudySettings
from spt_lens.study.study import Study
from spt_lens.study.work import FILES, RUNS
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig
from spt_lens.yesman import Yesman

METHODS = ("chosen heads", "random heads")
SETTINGS = StudySettings(
    ask=False,
    pairs={"n": 4, "contrast": ["supporting", "neutral"]},
    share=0.2,
    n_verify=2,
    n_sets=1,
    training={"n": 8},
    n_prompts=2,
    n_choices=4,
    methods=METHODS,
    rates={"chosen heads": [1e-2, 1e-3], "random heads": [1e-2]},
    seeds=(0,),
    n_random=2,
    tune=TuneConfig(steps=2, batch_size=4),
)


class Own(Behaviour):
    """What a user writes: pairs, training and suite, and nothing else."""

    name = "own"
    judge = Yesman().judge

    def __init__(self, n: int = 3) -> None:
        self.n = n

    def pairs(self, model, n=64, *, split="train", seed=0, contrast="supporting"):
        return Yesman().pairs(model, n, split=split, seed=seed, contrast=contrast)

    def training(self, n=None, *, split="train", seed=0):
        return Yesman().training(n, split=split, seed=seed)

    def suite(self, split="test"):
        return Yesman().suite(split, self.n, n_ability=2, n_texts=4)


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own."""
    monkeypatch.setattr(stages, "write_study_report", lambda work: saving.write_text(work.path("report"), "page"))


def bits(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def state(model: Any) -> list[object]:
    """`condition`, but for what TransformerLens and transformers note of their own at a first masked pass or a save."""
    notes = {"_derived_position_ids_ok", "_is_hf_initialized"}
    return [each for each in condition(model) if not (isinstance(each, tuple) and each[0] in notes)]


def held(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.filterwarnings("ignore")
def test_a_behaviour_of_ones_own_goes_through_every_stage(tiny, tmp_path):
    before, weights = state(tiny), held(tiny)
    checks = {"facts": Yesman()}
    study = Study(tiny, Own(), tmp_path / "out", replace(SETTINGS, test_each=False), checks=checks, export=True)
    assert not study.out.exists() and study.table is None  # nothing is written before it runs
    assert study.run(progress=False) is study

    assert {path.name for path in study.out.iterdir() if not path.name.startswith(".")} >= {
        *FILES.values(), "study.json", RUNS, "table.csv", "frontier.csv", "picker.html"
    } - {FILES["ask"]}  # fmt: skip
    # Heads are the best fifth of the twelve by the mean of both contrasts, beside a null measured alike.
    assert study.heads.heads == study.scores.top(2).heads == HeadSet.load(study.out / "heads.json").heads
    one, other = (
        stages.RANKINGS["activation patching"].scores(tiny, Own().pairs(tiny, 4, contrast=name), (), False)
        for name in ("supporting", "neutral")
    )
    torch.testing.assert_close(study.scores.values, (one.values + other.values) / 2)
    assert study.null.meta["null"] == "random pairs" and study.null.n_pairs == 4
    # Patched in as a curve, knocked out as a whole, beside as many random sets.
    assert (study.patching.sizes, study.knockout.sizes) == ([1, 2], [2])
    assert (study.patching.n_pairs, study.knockout.n_pairs, len(study.knockout.random)) == (4, 2, 1)

    trials = study.comparison.trials
    assert [(t.spec.method, t.spec.lr, t.spec.draw) for t in trials] == [
        ("untuned", 0.0, 0), ("chosen heads", 1e-2, 0), ("chosen heads", 1e-3, 0),
        ("random heads", 1e-2, 0), ("random heads", 1e-2, 1),
    ]  # fmt: skip
    chosen = study.comparison.choice["chosen heads"]
    on = {t.spec.lr: set(t.evaluations) for t in trials if t.spec.method == "chosen heads"}
    assert on.pop(chosen) == {"validation", "test", "facts"} and list(on.values()) == [{"validation"}]
    # Two ordinary prompts, and four-way choices of the bank, since this behaviour has no questions.
    found = trials[0].evaluations["test"]
    assert found["kl: own replies"].n == 2 and found["choice"].n == 4 and found["choice: by chance"].value == 0.25
    assert list(study.table["method"]) == ["untuned", *METHODS]

    # The adapter is the chosen trial's tuning, to the bit of what that was evaluated by.
    assert study.adapter.heads.heads == study.heads.heads
    suite = suites_of(study)["validation"]
    reference = Reference.of(tiny, suite.texts)
    study.adapter.apply(tiny)
    again = evaluate(tiny, suite, reference, progress=False)
    study.adapter.revert(tiny)
    mine = next(t for t in trials if (t.spec.method, t.spec.lr) == ("chosen heads", chosen))
    assert again["kl"].value == pytest.approx(mine.evaluations["validation"]["kl"].value, rel=1e-4)
    assert json.loads((study.out / "export" / "config.json").read_text())["model_type"] == "llama"
    assert "own" in study._repr_html_() and "chosen heads" in study._repr_html_()
    assert state(tiny) == before and all(map(torch.equal, tiny.parameters(), weights))

    # A finished one is read, not done again.
    files = {path: path.stat().st_mtime_ns for path in study.out.rglob("*") if path.is_file()}
    again = Study(tiny, Own(), study.out, study.settings, checks=checks, export=True).run(progress=False)
    kept = {path: when for path, when in files.items() if path.name != "seconds.json"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again.table.equals(study.table) and torch.equal(again.scores.values, study.scores.values)


@pytest.mark.filterwarnings("ignore")
def test_opinions_are_studied_by_the_words_that_the_model_says(tiny, tmp_path, monkeypatch):
    """A behaviour without right answers, which can't be asked, read by words that were found."""
    told = [Opinion(f"I like {a}. Is {a} good?", f"Is {a} good?", "Yes.", "No.") for a in "abcdefghijklmnop"]
    asked: list[int] = []
    whole = stages.ContrastPairs.find_words
    monkeypatch.setattr(stages.ContrastPairs, "find_words", lambda *a, **k: asked.append(1) or whole(*a, **k))
    settings = replace(
        SETTINGS, pairs={"n": 6}, words="found", ranking="objective gradient", training={"n": 4}, layers=(1, 2),
        rates={"chosen heads": [1e-2]}, methods=("chosen heads",), n_choices=0,
    )  # fmt: skip
    study = Study(tiny, Opinions(told), tmp_path, settings).run(progress=False)
    assert study.answers is None and study.null is None and not (tmp_path / FILES["null"]).exists()
    assert study.scores.method == "objective" and study.scores.n_pairs == 4  # dialogues, of which there are four
    ranked = [head for head in study.scores.order() if head.layer >= 1]
    assert list(study.heads) == ranked[:2] and study.heads.about["rule"]["layers"] == [1, 2]
    assert study.comparison.goal == "independence"
    words = json.loads((tmp_path / FILES["pairs"]).read_text())
    again = Study(tiny, Opinions(told), tmp_path, settings).run(progress=False)
    assert asked == [1] and again.pairs.answer_sets == study.pairs.answer_sets
    assert (words["words"] is None) == (study.wording is None)


class Doubts(Own):
    """As the class in the docs: its `asked` has nothing to do with asking the model first."""

    own = "own"

    def asked(self, turn, n, split):
        raise AssertionError("this is its own affair")


def test_a_method_of_ones_own_that_is_called_asked_is_left_alone(tiny, tmp_path):
    study = Study(tiny, Doubts(), tmp_path, replace(SETTINGS, ask=True))
    stages.asking(study, False)
    assert study.asked is study.behaviour and study.answers is None
    assert "ask" not in study.cost().seconds


def test_what_the_answers_cannot_give_is_told_before_heads_are_scored(tiny, tmp_path):
    class Bare(Own):
        def suite(self, split="test"):
            return replace(super().suite(split), texts=())

    tune = replace(SETTINGS.tune, kl_weight=0.5)
    with pytest.raises(ValueError, match=r"keep=3, .*no texts: leave keep out"):
        Study(tiny, Bare(), tmp_path / "out", replace(SETTINGS, keep=3, tune=tune)).run(progress=False)
    assert not (tmp_path / "out" / FILES["scores"]).exists()


def test_words_that_were_found_are_read_back_from_the_file(tiny, tmp_path):
    pairs = Yesman().pairs(tiny, 4)
    words = {"kind": "answer sets", "texts": ["", "a", "b"], "beginning": [7], "sets": [[8, 9], [10]]}
    saving.save_json(tmp_path / "p", stages.KIND, {"n_pairs": 4, "says": "", "words": words})
    wording = saving.load_json(tmp_path / "p", stages.KIND, stages._wording)
    read = stages._read_by(pairs, wording)
    assert read.answer_sets == (((8, 9), (10,)),) * 4 and read.sycophantic[0] == (*pairs.sycophantic[0], 7)


def test_a_study_that_is_killed_in_stage_after_stage_ends_as_one_that_never_was(tiny_folder, tmp_path):
    command = [sys.executable, stopped.__file__, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told["ended"].values()) == [signal.SIGKILL] * (len(stopped.POINTS) - 1) + [0]
    assert told["often"].count(signal.SIGKILL) >= 10 and told["two"] == [0, 0]  # with those above, 20 kills
    whole = told["outcomes"]["whole"]
    assert {"scores.safetensors", "comparison.json", "adapter/adapter.safetensors"} <= whole.keys()
    assert told["outcomes"] == dict.fromkeys(("whole", "killed", "often", "two"), whole) and not told["left"]


@pytest.mark.filterwarnings("ignore")
def test_an_interrupt_leaves_the_model_as_it_was_and_the_folder_to_go_on_in(tiny, tmp_path, monkeypatch):
    before, weights = state(tiny), held(tiny)
    plain, calls = torch.optim.AdamW.step, iter(range(3))

    def step(*args: Any, **options: Any) -> Any:
        found = plain(*args, **options)
        if next(calls, None) == 2:  # in the second trial
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", step)
        Study(tiny, Own(), tmp_path / "out", SETTINGS).run(progress=False)
    assert state(tiny) == before and all(map(torch.equal, tiny.parameters(), weights))
    assert len(read_trials(tmp_path / "out" / RUNS)) == 2  # the untuned model's, and the first
    study = Study(tiny, Own(), tmp_path / "out", SETTINGS).run(progress=False)
    whole = Study(tiny, Own(), tmp_path / "whole", SETTINGS).run(progress=False)
    assert study.comparison.frontier.drop(columns="seconds").equals(whole.comparison.frontier.drop(columns="seconds"))


@pytest.fixture
def begun(tiny, tmp_path) -> Path:
    """The folder of a study that was begun: what it is of is written."""
    study = Study(tiny, Own(), tmp_path / "out", SETTINGS)
    folder.open_folder(study.out, study._about)
    return study.out


def test_another_study_is_refused_by_what_differs(tiny, begun, tmp_path):
    def refused(*words: str, behaviour: Behaviour | None = None, settings: StudySettings = SETTINGS, **more: Any):
        found = bits(begun, "study.json")
        with pytest.raises(ValueError, match="holds another study") as caught:
            Study(tiny, behaviour or Own(), begun, settings, **more)
        assert all(word in str(caught.value) for word in (*words, str(begun), "give another folder"))
        assert bits(begun, "study.json") == found and os.listdir(begun) == ["study.json"]

    refused("settings.share: 0.2 there, 0.1 now", settings=replace(SETTINGS, share=0.1))
    refused("settings.tune.steps: 2 there, 3 now", settings=replace(SETTINGS, tune=TuneConfig(steps=3, batch_size=4)))
    refused("behaviour.main", behaviour=Own(2))
    torch.set_float32_matmul_precision("high")
    try:
        refused("model.matmul: None there, high now")
    finally:
        torch.set_float32_matmul_precision("highest")
    refused("behaviour.main", behaviour=type("Another", (Own,), {})())
    refused("behaviour.facts", checks={"facts": Yesman()})
    refused("heads: None there, L0.H1 now", heads=HeadSet.parse("L0.H1"))
    with torch.no_grad():
        ModelView(tiny).weights()[min(ModelView(tiny).weights())].view(-1)[3] += 1e-3
    refused("model.weights")
    (begun / "study.json").unlink()
    (begun / FILES["scores"]).write_text("mine")
    with pytest.raises(ValueError, match=r"scores\.safetensors and no study\.json.*give another folder"):
        Study(tiny, Own(), begun, SETTINGS)
    assert (begun / FILES["scores"]).read_text() == "mine"
    for name in ("table.csv", "picker.html"):  # of something else, and not to be written over
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(ValueError, match=f"holds {name} and no study"):
            Study(tiny, Own(), tmp_path / name, SETTINGS)


def test_the_same_study_is_known_again(tiny, begun):
    Study(tiny, Own(), begun, StudySettings.from_json(SETTINGS.to_json()))


def test_another_config_or_tokenizer_is_another_study_and_one_that_has_no_note_of_them_goes_on(tiny, begun):
    settings = getattr(ModelView(tiny).backend.root, "config", tiny.cfg)
    name = "rms_norm_eps" if hasattr(settings, "rms_norm_eps") else "eps"
    before = getattr(settings, name)
    setattr(settings, name, 2 * before)
    with pytest.raises(ValueError, match="holds another study .*model.config"):
        Study(tiny, Own(), begun, SETTINGS)
    setattr(settings, name, before)
    vocabulary = tiny.tokenizer
    tiny.tokenizer = copy.deepcopy(vocabulary)
    tiny.tokenizer.add_tokens(["Atlantis"])
    with pytest.raises(ValueError, match="holds another study .*model.tokenizer"):
        Study(tiny, Own(), begun, SETTINGS)
    tiny.tokenizer = vocabulary
    known = json.loads((begun / "study.json").read_text())
    for each in ("config", "tokenizer"):
        del known["model"][each]
    known.pop("sha256", None)
    (begun / "study.json").write_text(json.dumps(known))
    with pytest.warns(UserWarning, match="begun by an earlier version, which kept no note of the model's config"):
        Study(tiny, Own(), begun, SETTINGS)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_named_with_the_way_out(tiny, tmp_path):
    study = Study(tiny, Own(), tmp_path, SETTINGS, export=True).run(progress=False)
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = ["study.json", *(FILES[s] for s in ("pairs", "scores", "null", "heads", "patching", "knockout", "trials"))]
    for name in [*names, "adapter/adapter.safetensors"]:
        (tmp_path / name).write_bytes(whole[tmp_path / name][:-9])
        with pytest.raises(ValueError, match=f"{Path(name).name.split('.')[0]}.*remove it") as caught:
            Study(tiny, Own(), tmp_path, SETTINGS, export=True).run(progress=False)
        assert str(tmp_path) in str(caught.value)
        (tmp_path / name).write_bytes(whole[tmp_path / name])
    # What is removed is measured again, to the same bits; a comparison is read from its trials.
    gone = [FILES[stage] for stage in ("scores", "heads", "patching", "trials")]
    before = bits(tmp_path, *gone)
    for name in gone:
        (tmp_path / name).unlink()
    lines = (tmp_path / RUNS).read_text().splitlines(keepends=True)
    (tmp_path / RUNS).write_text("".join(lines) + lines[-1][:50])  # cut in the middle: all before it counts
    again = Study(tiny, Own(), tmp_path, SETTINGS, export=True).run(progress=False)
    assert bits(tmp_path, *gone) == before and again.table.equals(study.table)
    assert (tmp_path / RUNS).read_text().startswith("".join(lines))
    (tmp_path / FILES["trials"]).unlink()
    (tmp_path / RUNS).write_text("".join([lines[0], "nonsense\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 .*remove that line"):
        Study(tiny, Own(), tmp_path, SETTINGS, export=True).run(progress=False)
    assert "nonsense" in (tmp_path / RUNS).read_text()


def test_heads_of_a_pickers_file_are_taken_and_those_that_the_model_lacks_refused(tiny, tmp_path):
    values = torch.arange(12.0).reshape(3, 4)
    scores = HeadScores(values, values[None], "activation", "denoising", "last", "tiny")
    picker = HeadPicker(scores, chosen=HeadSet.parse("L2.H3 L0.H1"))
    picker.save(tmp_path / "picked.json")
    picker.close()
    study = Study(tiny, Own(), tmp_path / "out", SETTINGS, heads=tmp_path / "picked.json")
    study.scores = scores
    (tmp_path / "out").mkdir()
    stages.choosing(study, False)
    assert str(study.heads) == "L2.H3 L0.H1" and study.heads.about["name"] == "picked"
    for text, why in {
        "L9.H1": "L9.H1 not in",
        "": "empty",
        "L0.H0 L0.H1 L0.H2 L0.H3 L1.H0 L1.H1 L1.H2": "too few",
    }.items():
        HeadSet.parse(text).save(tmp_path / "odd.json")
        with pytest.raises(ValueError, match=why):
            Study(tiny, Own(), tmp_path / "new", SETTINGS, heads=str(tmp_path / "odd.json"))
    with pytest.raises(FileNotFoundError, match="gone"):
        Study(tiny, Own(), tmp_path / "new", SETTINGS, heads=tmp_path / "gone.json")
    with pytest.raises(ValueError, match="which has 3 of 4 heads"):
        Study(tiny, Own(), tmp_path / "new", replace(SETTINGS, layers=(1, 3)))
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_said_at_once(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match="file"):
            Study(tiny, Own(), out, SETTINGS)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(OSError, match="has 1 MiB free, and the study needs about 64.*another disk") as caught:
        Study(tiny, Own(), tmp_path / "out", SETTINGS)
    assert caught.value.errno == 28 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: {"settings": replace(SETTINGS, training={"magic": 3})}, r"setting training=.*magic"),
        (lambda: {"settings": replace(SETTINGS, validation={"magic": 3})}, r"setting validation=.*magic"),
        (lambda: {"settings": replace(SETTINGS, tune=TuneConfig(projections="qz"))}, "projections='qz'"),
        (lambda: {"export": "yes"}, "export must be a bool"),
        (lambda: {"settings": replace(SETTINGS, pairs={"n": 1})}, "1 pairs are too few"),
        (lambda: {"settings": replace(SETTINGS, pairs={"n": 3}, words="found")}, "give 4 or more"),
        (lambda: {"settings": replace(SETTINGS, replies={"stands": "{}"})}, "replies are for a model that is asked"),
        (lambda: {"settings": {"share": 0.1}}, "StudySettings"),
        (lambda: {"behaviour": [("What?", "a", "b")]}, "give a Behaviour"),
        (lambda: {"checks": {"a/b": Own()}}, "a/b"),
        (lambda: {"checks": {"test": Own()}}, "test"),
        (lambda: {"checks": {"mine": "file"}}, "mine"),
        (lambda: {"workers": 0}, "workers"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    tiny, tmp_path, change: Callable[[], dict[str, Any]], why
):
    more = {"settings": SETTINGS, "behaviour": Own(), **change()}
    with pytest.raises((TypeError, ValueError), match=why):
        Study(tiny, more.pop("behaviour"), tmp_path / "out", more.pop("settings"), **more)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_tuned_is_refused_before_anything_is_measured(tiny, tmp_path):
    if not ModelView(tiny).backend.may_drop_out:
        pytest.skip("a HookedTransformer has no dropout, and is in training mode as it comes")
    tiny.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            Study(tiny, Own(), tmp_path / "out", SETTINGS)
    finally:
        tiny.eval()


def test_a_comparison_and_an_adapter_are_found_where_the_work_says(tiny, begun):
    """The names of the files are what other tools read."""
    assert FILES["trials"] == "comparison.json" and Comparison.load and Adapter.load
    assert list(FILES) == list(stages.STAGES)
