"""The check of what works with a checkpoint: it finds what is broken, step by step, and changes nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from spt_lens import cli
from spt_lens.export import hf
from spt_lens.model import layout as architectures
from spt_lens.model.backends import BridgeBackend
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.support import checks
from spt_lens.support.checks import check_checkpoint
from spt_lens.support.report import NOT_TRIED, STEPS, WORKS, Report, save
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import SliceMask
from tools import readme_support as table
from tools.readme_support import BEGIN, END, caption, markdown_table, reasons, update_page
from tools.tiny import TINY, tiny_checkpoint

ALL = dict.fromkeys(STEPS, WORKS)


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout in which most can go wrong: heads' weights are interleaved, and the live ones are copies."""
    return tiny_checkpoint("neox", tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="session")
def opt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("opt", tmp_path_factory.mktemp("opt"))


def contents(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_good_checkpoint_works_and_stays_as_it_is(neox_folder, model_class, dtype):
    before = contents(neox_folder)
    report = check_checkpoint(neox_folder, model_class, dtype, device="cpu")
    assert report.steps == ALL and report.works
    assert (report.architecture, report.model_class) == ("GPTNeoXForCausalLM", model_class)
    assert contents(neox_folder) == before


def failing(folder: Path, dtype: torch.dtype = torch.float32) -> set[str]:
    report = check_checkpoint(folder, dtype=dtype, device="cpu")
    return set(STEPS) - set(report.working)


def test_other_logits_than_plain_transformers_are_found(neox_folder, monkeypatch):
    logits = ModelView.logits
    monkeypatch.setattr(ModelView, "logits", lambda *args, **named: logits(*args, **named) * 1.0001)
    assert "load" in failing(neox_folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_the_wrong_heads_are_found(neox_folder, monkeypatch, dtype):
    measured = checks.activation_patching

    def wrong(*args, **named):
        scores = measured(*args, **named)
        return replace(scores, per_pair=scores.per_pair.flip(-1))

    monkeypatch.setattr(checks, "activation_patching", wrong)
    assert failing(neox_folder, dtype) == {"measure"}


@pytest.mark.parametrize("which", ["q", "k", "v", "o"])
def test_a_neighbours_slice_is_found(neox_folder, monkeypatch, which):
    head = BridgeBackend.head

    def wrong(self, layer, letter, unit):
        return head(self, layer, letter, (unit + 1) % 4 if letter == which else unit)

    monkeypatch.setattr(BridgeBackend, "head", wrong)
    assert "slices" in failing(neox_folder)


def test_a_wrong_layout_is_found(neox_folder, monkeypatch):
    right = architectures.LAYOUTS["GPTNeoXForCausalLM"]
    monkeypatch.setitem(architectures.LAYOUTS, "GPTNeoXForCausalLM", replace(right, order="stacked"))
    assert {"tune", "export"} <= failing(neox_folder)


def test_a_weight_changed_outside_of_the_slices_is_found(neox_folder, monkeypatch):
    write_back = SliceMask.write_back

    def wrong(self):
        write_back(self)
        with torch.no_grad():
            self._parameters[0].view(-1)[0] += 1e-6

    monkeypatch.setattr(SliceMask, "write_back", wrong)
    assert "tune" in failing(neox_folder)


def test_slices_that_do_not_move_are_found(neox_folder, monkeypatch):
    monkeypatch.setattr(SliceMask, "write_back", lambda self: None)
    assert "tune" in failing(neox_folder)


def test_an_adapter_that_does_not_revert_is_found(neox_folder, monkeypatch):
    monkeypatch.setattr(Adapter, "revert", lambda self, model, force=False: None)
    assert "adapter" in failing(neox_folder)


def test_an_export_of_the_untuned_checkpoint_is_found(neox_folder, monkeypatch):
    def wrong(model, folder, **named):
        AutoModelForCausalLM.from_pretrained(neox_folder).save_pretrained(folder)
        AutoTokenizer.from_pretrained(neox_folder).save_pretrained(folder)

    monkeypatch.setattr(hf, "export_hf", wrong)
    assert failing(neox_folder) == {"export"}


def test_each_step_leaves_the_model_as_it_was(neox_folder, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        checks, "load_model", lambda *args, **named: loaded.append(load_model(*args, **named)) or loaded[-1]
    )
    assert check_checkpoint(neox_folder, device="cpu").works
    plain = dict(AutoModelForCausalLM.from_pretrained(neox_folder).named_parameters())
    copy = ModelView(loaded[0]).hf_copy()
    assert all(torch.equal(p, plain[name]) for name, p in copy.named_parameters())
    points = {id(point): point for point in loaded[0].hook_dict.values()}.values()
    assert not any(point.fwd_hooks for point in points)


def test_an_unknown_architecture_is_loaded_and_measured(opt_folder):
    report = check_checkpoint(opt_folder, device="cpu")
    assert report.working == ["load", "measure"] and not report.works
    for step in ("slices", "tune", "adapter", "export"):
        assert "OPTForCausalLM" in report.steps[step] and "layout.py" in report.steps[step]


def test_without_a_chat_template_all_but_tuning_works(neox_folder, tmp_path):
    folder = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(neox_folder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(neox_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    report = check_checkpoint(folder, device="cpu")
    assert "chat template" in report.steps["tune"]
    assert {**report.steps, "tune": WORKS} == ALL
    assert check_checkpoint(folder, device="cpu", chat_template="plain").works


def test_what_cannot_be_loaded_is_not_tried(neox_folder, monkeypatch):
    def refuse(*args, **named):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(checks, "load_model", refuse)
    report = check_checkpoint(neox_folder, device="cpu")
    assert report.steps == {**dict.fromkeys(STEPS, NOT_TRIED), "load": "RuntimeError: first line"}
    assert report.architecture == "GPTNeoXForCausalLM"


def test_the_users_mistakes_are_errors(tmp_path, neox_folder):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="choose one of 'bridge', 'hooked'"):
        check_checkpoint(neox_folder, "encoder")  # type: ignore[arg-type]
    if "hooked" not in CLASSES:
        with pytest.raises(NotImplementedError, match="no HookedTransformer"):
            check_checkpoint(neox_folder, "hooked")


def test_tiny_checkpoints_are_the_same_each_time(tmp_path):
    state = torch.get_rng_state()
    one, other = (tiny_checkpoint("mistral", tmp_path / name) for name in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(one) == contents(other)
    assert (one / "generation_config.json").is_file()
    weights = AutoModelForCausalLM.from_pretrained(one).state_dict()
    assert all(weight.float().std() > 0.05 for weight in weights.values())
    with pytest.raises(ValueError, match="llama-grouped"):
        tiny_checkpoint("nothing", tmp_path)


REPORT = Report("<b>mine</b>", "LlamaForCausalLM", "bridge", "float32", "4.3.0", {**ALL, "tune": "<script>"})


def test_a_report_is_saved_shown_and_escaped():
    assert Report.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    lines = repr(REPORT).splitlines()
    assert "TransformerBridge, float32, TransformerLens 4.3.0" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == list(STEPS)
    assert "<script>" not in REPORT._repr_html_() and "<b>mine" not in REPORT._repr_html_()


def made(title: str, model_class: str, dtype: str, lens: str, steps: dict[str, str] | None = None) -> Report:
    return Report(title, "LlamaForCausalLM", model_class, dtype, lens, steps or ALL)


NOTHING = {**dict.fromkeys(STEPS, NOT_TRIED), "load": "no"}
TWO = {**dict.fromkeys(STEPS, "why | not"), "load": WORKS, "measure": WORKS}
REPORTS = [
    made("A", "hooked", "float32", "3.9.0"),
    made("A", "hooked", "bfloat16", "3.9.0", TWO),
    made("A", "bridge", "float32", "4.3.1"),
    made("A", "bridge", "bfloat16", "4.3.1"),
    made("A", "bridge", "float32", "4.10.0"),
    made("A", "bridge", "bfloat16", "4.10.0"),
    made("B", "hooked", "float32", "3.9.0", NOTHING),
    made("B", "hooked", "bfloat16", "3.9.0", NOTHING),
    made("B", "bridge", "float32", "4.3.1", TWO),
    made("B", "bridge", "bfloat16", "4.3.1", TWO),
]


def test_the_table_says_what_works():
    assert markdown_table(REPORTS).splitlines() == [
        "| architecture | TransformerBridge 4.10 | TransformerBridge 4.3 | HookedTransformer 3.9 |",
        "| --- | --- | --- | --- |",
        "| A | all | all | float32: all; bfloat16: load, measure |",
        "| B | not tried | load, measure | – |",
    ]
    assert reasons(REPORTS).splitlines() == [
        "A, HookedTransformer, bfloat16: slices, tune, adapter, export: why | not",
        "B, HookedTransformer, float32 and bfloat16: load: no",
        "B, TransformerBridge, float32 and bfloat16: slices, tune, adapter, export: why | not",
    ]


def test_the_table_goes_into_its_page(tmp_path):
    save(REPORTS[:5], tmp_path / "new" / "support-1.json")
    save(REPORTS[5:], tmp_path / "new" / "support-2.json")
    assert table.load(tmp_path / "new") == REPORTS
    page = tmp_path / "support.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert update_page(page, tmp_path / "new") and not update_page(page, tmp_path / "new")
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n{BEGIN}\n{markdown_table(REPORTS)}\n\n{caption()}\n{END}\nafter\n"
    for wrong in ("no marks", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"):
        page.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match="marks"):
            update_page(page, tmp_path / "new")
        assert page.read_text(encoding="utf-8") == wrong


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "other"}', '{"format": "spt_lens support 1"}'])
def test_damaged_results_are_named(tmp_path, content):
    with pytest.raises(FileNotFoundError, match=r"no support-\*\.json"):
        table.load(tmp_path)
    (tmp_path / "support-1.json").write_text(content)
    with pytest.raises(ValueError, match=r"support-1\.json .*damaged"):
        table.load(tmp_path)


def test_the_table_of_all_is_made_of_the_tiny_checkpoints(monkeypatch, tmp_path):
    tried = []

    def check(folder, model_class, dtype, device):
        tried.append((model_class, dtype))
        assert (Path(folder) / "config.json").is_file()
        return made(str(folder), model_class, str(dtype).removeprefix("torch."), "4.3.0")

    monkeypatch.setattr(table, "check_checkpoint", check)
    monkeypatch.setattr(table, "TINY", {"gpt2": TINY["gpt2"]})
    reports = table.check_all(["gpt2"])
    assert tried == [(c, dtype) for c in CLASSES for dtype in (torch.float32, torch.bfloat16)]
    assert {report.checkpoint for report in reports} == {"GPT-2"}


class TestCommand:
    def run(self, *arguments: object):
        return CliRunner().invoke(cli.app, ["support", *map(str, arguments)])

    def test_a_checkpoint_that_works(self, neox_folder, tmp_path):
        result = self.run(neox_folder, "--dtype", "bfloat16", "--device", "cpu", "--out", tmp_path / "one.json")
        assert result.exit_code == 0
        for step in STEPS:
            assert f"{step:8} works" in result.output
        saved = json.loads((tmp_path / "one.json").read_text())
        assert saved["reports"][0]["dtype"] == "bfloat16" and "transformers" in saved["versions"]

    def test_one_that_does_not_ends_with_status_1(self, opt_folder):
        result = self.run(opt_folder, "--device", "cpu")
        assert result.exit_code == 1
        assert "measure  works" in result.output and "OPTForCausalLM can be measured" in result.output

    def test_mistakes_are_told_before_any_work(self):
        assert "does not exist" in str(self.run("./nowhere").exception)

    def test_the_help_says_what_it_costs(self):
        text = self.run("--help").output
        assert "memory" in text and "TMPDIR" in text
