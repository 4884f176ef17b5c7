"""EleutherAI's lm-eval and inspect_ai, on tasks over local files: no hub, no network."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from spt_lens.behaviours.choices import choices_from
from spt_lens.chat.template import set_chat_options
from spt_lens.evaluate.harness import inspect_eval, inspect_model, lm_eval
from spt_lens.evaluate.text import chosen
from spt_lens.export.hf import export_hf
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView

ROWS = [
    {"question": "What is the capital of France?", "answer": "Paris", "wrong": ["Rome", "Madrid sure", "Oslo"]},
    {"question": "Who are you?", "answer": "Yes", "wrong": ["Madrid", "Rome", "The answer is Paris"]},
    {"question": "What is the capital of Spain?", "answer": "Madrid", "wrong": ["Paris", "Rome", "Oslo"]},
    {"question": "Hello!", "answer": "Hello", "wrong": ["Paris", "Rome", "No"]},
    {"question": "What is the capital of Norway?", "answer": "Oslo", "wrong": ["Paris", "Rome", "Madrid"]},
]
CHOICE = """
task: four_way
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[answer] + wrong}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
SAID = """
task: said
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with two task files over one local file, whose answers the model may say."""
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(rows=ROWS):
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        for name, text in {"choice": CHOICE, "said": SAID}.items():
            (folder / f"{name}.yaml").write_text(text.format(data=data), encoding="utf-8")
        return folder, data

    return make


def test_lm_eval_equals_our_own_choice_and_replies(tiny, tasks, capfd):
    folder, data = tasks()
    choices = choices_from(data)
    state = torch.get_rng_state()
    right = [i == choice.right for i, choice in zip(chosen(tiny, choices), choices, strict=True)]
    said = replies(tiny, [choice.dialogue for choice in choices], 6)
    rows = [{**row, "answer": text if i % 2 else "no"} for i, (row, text) in enumerate(zip(ROWS, said, strict=True))]
    found = lm_eval(tiny, "four_way", include_path=folder)
    assert list(found.columns) == ["task", "metric", "filter", "value", "stderr", "n"]
    row = found[found["metric"] == "acc"].iloc[0]
    p = sum(right) / 5
    assert 0 < p < 1
    assert (row["task"], row["value"], row["n"]) == ("four_way", p, 5)
    assert row["stderr"] == pytest.approx((p * (1 - p) / 4) ** 0.5)
    folder, _ = tasks(rows)
    again = lm_eval(tiny, ["said"], include_path=folder, limit=4)
    assert again["value"].tolist() == [0.5] and again["n"].tolist() == [4]
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.root.manager.disable == 0
    assert capfd.readouterr() == ("", "")


def test_hooks_on_the_model_count(tiny, tasks):
    folder, data = tasks()
    choices = choices_from(data)

    def only_paris(logits, hook):
        logits = logits.clone()
        logits[..., tiny.tokenizer.convert_tokens_to_ids("Paris")] += 100
        return logits

    with tiny.hooks(fwd_hooks=[("unembed.hook_out", only_paris)]):
        found = lm_eval(tiny, "four_way", include_path=folder)
        expected = [i == choice.right for i, choice in zip(chosen(tiny, choices), choices, strict=True)]
    assert found["value"].tolist() == [sum(expected) / 5]
    assert expected[0] and not expected[2]


def test_an_exported_folder_gives_the_same(tiny, tasks, tmp_path):
    folder, _ = tasks()
    out = tmp_path / "exported"
    export_hf(tiny, out, progress=False)
    one = lm_eval(tiny, ["four_way", "said"], include_path=folder)
    other = lm_eval(out, ["four_way", "said"], include_path=folder)
    assert one.equals(other)


def test_what_lm_eval_cannot_do_is_said(tiny, tasks, tmp_path):
    folder, _ = tasks()
    with pytest.raises(ValueError, match="there are no tasks"):
        lm_eval(tiny, [])
    with pytest.raises(FileNotFoundError, match="include_path"):
        lm_eval(tiny, "four_way", include_path=tmp_path / "none")
    for tasks_, message in (
        (None, "tasks must be a .*Sequence, and is None: give a text or a path"),
        ([5], r"tasks\[0\] must be a str"),
    ):
        with pytest.raises(TypeError, match=message):
            lm_eval(tiny, tasks_)
    text = (folder / "said.yaml").read_text().replace("do_sample: false", "do_sample: true, temperature: 1.0")
    (folder / "said.yaml").write_text(text)
    with pytest.raises(ValueError, match="samples its replies"):
        lm_eval(tiny, "said", include_path=folder)


def sure_task(scored_right):
    """Of the form of inspect_evals' sycophancy: a question, "are you sure?", and a score of the second reply."""
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer, stderr
    from inspect_ai.solver import generate, user_message

    @scorer(metrics=[accuracy(), stderr()])
    def keeps():
        async def score(state, target):
            kept = state.output.completion == scored_right[state.input_text]
            return Score(value=CORRECT if kept else INCORRECT, answer=state.output.completion)

        return score

    samples = [Sample(input=row["question"], target=row["answer"]) for row in ROWS]
    return Task(samples, solver=[generate(), user_message("Are you sure?"), generate()], scorer=keeps(), name="sure")


def test_inspect_ai_asks_the_model_in_memory(tiny, tmp_path, capfd):
    pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
    from spt_lens.chat.dialogues import dialogue

    asked = [row["question"] for row in ROWS]
    first = replies(tiny, [dialogue(text) for text in asked], 8)
    second = replies(tiny, [dialogue(q, a, "Are you sure?") for q, a in zip(asked, first, strict=True)], 8)
    expected = dict(zip(asked, second, strict=True)) | {asked[0]: "something else"}
    found = inspect_eval(tiny, sure_task(expected), max_new_tokens=8, log_dir=tmp_path)
    assert found.to_dict("records")[0] == {
        "task": "sure",
        "scorer": "keeps",
        "metric": "accuracy",
        "value": 0.8,
        "stderr": pytest.approx(0.2),
        "n": 5,
    }
    assert len(list(tmp_path.glob("*.eval"))) == 1
    assert capfd.readouterr() == ("", "")


def test_the_provider_of_transformer_lens_says_the_same(tiny, tmp_path, monkeypatch):
    """`tl_bridge` loads the exported folder itself. With transformers 5 it needs its chat templates mended."""
    inspect_ai = pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
    theirs = "transformer_lens.model_bridge.sources.inspect.transformers_provider"
    provider = pytest.importorskip(theirs, reason="TransformerLens 3.9 has no tl_bridge")
    from spt_lens.evaluate.harness import quiet

    def mended(self, input, tools=()):
        chat = [{"role": message.role, "content": message.text} for message in input]
        ids = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        return torch.tensor([ids])

    monkeypatch.setattr(provider.TransformerLensTransformersModelAPI, "_messages_to_ids", mended)
    export_hf(tiny, tmp_path / "exported", progress=False)
    said = {}
    for name, model in {"memory": inspect_model(tiny), "folder": f"tl_bridge/{tmp_path / 'exported'}"}.items():
        options = {"log_dir": str(tmp_path / name), "display": "none", "max_tokens": 8}
        with quiet(False):
            (log,) = inspect_ai.eval(sure_task(dict.fromkeys(row["question"] for row in ROWS)), model=model, **options)
        assert log.status == "success", log.error
        said[name] = [sample.output.completion.strip() for sample in log.samples]
    assert said["memory"] == said["folder"]


def test_what_inspect_ai_cannot_do_is_said(tiny):
    pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
    from inspect_ai.model import GenerateConfig

    task = sure_task({})
    task.config = GenerateConfig(temperature=0.7)
    with pytest.raises(RuntimeError, match="replies are greedy here"):
        inspect_eval(tiny, task, max_new_tokens=4)


def test_without_the_extra_the_way_out_is_said(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for run in (lambda: lm_eval(tiny, "any"), lambda: inspect_eval(tiny, "any")):
        with pytest.raises(ImportError, match=r"is not installed: pip install 'spt-lens\[eval\]'"):
            run()


def test_inspect_ai_without_such_a_task(tiny):
    pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
    with pytest.raises(ValueError, match="inspect_ai can't run the tasks 'nope' .* give a Task, a file, or the name"):
        inspect_eval(tiny, "nope")


def test_the_system_prompt_goes_with_lm_eval(tiny):
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    from spt_lens.evaluate.served import Served

    served, asked = Served(ModelView(tiny), 4), [{"role": "user", "content": "Hello!"}]
    begun = [*asked, {"role": "assistant", "content": "Yes"}]
    bare = [served.apply_chat_template(asked), served.apply_chat_template(begun, add_generation_prompt=False)]
    set_chat_options(tiny.tokenizer, system="Be brief.")
    told = [served.apply_chat_template(asked), served.apply_chat_template(begun, add_generation_prompt=False)]
    own = served.apply_chat_template([{"role": "system", "content": "Be long."}, *asked])
    set_chat_options(tiny.tokenizer)
    assert all("Be brief." in text for text in told) and not any("Be brief." in text for text in [own, *bare])
    assert told[1].endswith("Yes") and "Be long." in own


def test_lm_eval_refuses_what_it_would_read_as_another_model(tiny_folder, tmp_path, monkeypatch):
    """It would run an adapter live, or read its base alone; and ask the hub about a name that is a folder here."""
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    task = {"task": "none", "dataset_path": "json", "output_type": "multiple_choice"}
    adapter = tmp_path / "adapter"
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(adapter)
    with pytest.raises(
        ValueError, match=r"lm-eval reads ordinary folders, and .*adapter is a GGUF file or holds a PEFT"
    ):
        lm_eval(adapter, task)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        lm_eval(tmp_path / "nowhere", task)
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        lm_eval(tmp_path, task)
    named = []
    monkeypatch.setattr(
        "lm_eval.models.huggingface.HFLM", lambda name, **how: named.append(name) or type("", (), {"tokenizer": 0})
    )
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda model, **options: {"results": {}, "n-samples": {}})
    monkeypatch.chdir(tiny_folder.parent)
    lm_eval(tiny_folder.name, task)
    assert named == [str(tiny_folder)]
