"""What trials were made with is all that decides their figures; trials of something else are neither used nor lost."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from datetime import date

import pytest
import torch

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import set_chat_options
from spt_lens.evaluate.bench import Bench, Made, Task
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.trials import Contender, append_trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig

CASE = dialogue("What is the capital of France?", "Paris.")
HEADS = HeadSet.parse("L2.H3")
TASK = Task((CASE,), TuneConfig(steps=1), {"validation": Suite("mine", texts=(CASE,))})


def differs(model, before: Made) -> set[str]:
    return TASK.made(model).other(before.parts)


def test_all_that_decides_a_figure_is_part_of_the_fingerprint(tiny, load, tiny_folder):
    before, view = TASK.made(tiny), ModelView(tiny)
    assert differs(tiny, before) == set() and TASK.fingerprint(tiny) == before.fingerprint
    template = tiny.tokenizer.chat_template
    tiny.tokenizer.chat_template = template.replace("<assistant>", "<assistant> ")
    assert differs(tiny, before) == {"chat template"}
    tiny.tokenizer.chat_template = template
    set_chat_options(tiny.tokenizer, {"strftime_now": date(2026, 1, 1)})
    assert differs(tiny, before) == {"chat template"}
    vars(tiny.tokenizer).pop("spt_lens_chat")
    settings = getattr(view.backend.root, "config", view.model.cfg)
    name = "rms_norm_eps" if hasattr(settings, "rms_norm_eps") else "eps"
    eps = getattr(settings, name)
    setattr(settings, name, 2 * eps)
    assert differs(tiny, before) == {"config"}
    setattr(settings, name, eps)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert differs(tiny, before) == {"precision"}
    finally:
        torch.set_float32_matmul_precision(precision)
    assert differs(tiny, before) == set()
    assert differs(load(tiny_folder, dtype=torch.bfloat16), before) == {"weights", "precision"}
    other = load(tiny_folder)
    other.tokenizer.add_tokens(["Atlantis"])
    assert differs(other, before) == {"tokenizer"}
    more = Task((CASE, CASE), TuneConfig(steps=2), {}, (CASE,)).made(tiny)
    assert more.other(before.parts) == {"settings", "dialogues", "dialogues to keep", "suites"}


def test_rope_is_part_of_the_fingerprint(tiny_folder):
    model = load_model(tiny_folder, device="cpu")
    before = TASK.made(model)
    model.original_model.config.rope_parameters["rope_theta"] *= 2
    assert differs(model, before) == {"config"}


def test_encoding_with_padding_changes_no_fingerprint(tiny):
    before = TASK.made(tiny)
    tiny.tokenizer(["Paris", "Are you sure?"], padding=True, truncation=True, max_length=2)
    assert differs(tiny, before) == set()
    tiny.tokenizer(["Paris"])


@pytest.fixture
def quick(tiny, monkeypatch):
    """A comparison of one method and one rate; counts the trials that are done."""
    done: list[str] = []
    trial = Bench.trial
    monkeypatch.setattr(
        Bench, "trial", lambda bench, spec, tuner: done.append(spec.method) or trial(bench, spec, tuner)
    )

    def run(out):
        done.clear()
        methods = [Contender("mine", Pinpoint(HEADS), (1e-3,), (0,))]
        given = {"dialogues": TASK.dialogues, "config": TASK.config, "suites": TASK.suites}
        found = compare(tiny, methods=methods, out=out, progress=False, test_each=False, **given)
        return found, list(done)

    return run


def test_another_template_is_said_and_its_trials_stay(tiny, quick, tmp_path):
    out, template = tmp_path / "runs.jsonl", tiny.tokenizer.chat_template
    first, done = quick(out)
    assert done == ["untuned", "mine"] and all(trial.made for trial in read_trials(out).values())
    lines = out.read_text()
    tiny.tokenizer.chat_template = template.replace("{{ bos_token }}", "")
    with pytest.warns(UserWarning, match=r"runs.jsonl holds 2 of these trials, but their chat template differ"):
        other, done = quick(out)
    assert done == ["untuned", "mine"] and out.read_text().startswith(lines) and len(read_trials(out)) == 4
    tiny.tokenizer.chat_template = template
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, done = quick(out)
    assert done == []
    kl = [found.trials[1].evaluations["validation"]["kl"].value for found in (first, other, again)]
    assert kl[0] == kl[2] != kl[1]


def test_trials_of_an_earlier_version_go_on_and_it_is_said(tiny, quick, tmp_path):
    before, old = tmp_path / "now.jsonl", tmp_path / "old.jsonl"
    first, _ = quick(before)
    made = TASK.made(tiny)
    for trial in read_trials(before).values():
        append_trial(old, trial.spec.key(made.before), replace(trial, made={}))
    assert all("made" not in json.loads(line)["run"] for line in old.read_text().splitlines())
    with pytest.warns(
        UserWarning, match=r"2 trials in .*old.jsonl are of an earlier version, which kept no note of chat"
    ):
        found, done = quick(old)
    assert done == [] and [t.to_json() for t in found.trials] == [t.to_json() for t in first.trials]
