"""Numbers that would mislead: each is right, said or refused by name. A case is a name, an input, and what is right."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chats
import numpy as np
import pytest
import torch
import transformers
from by_hand import made
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import spt_lens as spt
from spt_lens.behaviours.choices import Choice
from spt_lens.chat.batches import PromptBatch
from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.template import prompt_ids, reply_ids, training_ids
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.change import drift, gives_reply
from spt_lens.evaluate.text import choice, perplexity
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import mean_z
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import _randomise, _sentences, word_tokenizer

Call = Callable[[Any], Any]  # of the model `tiny`
HEADS, STEP = HeadSet.parse("L1.H3"), TuneConfig(steps=1)
ASKED = dialogue("What is the capital of France?")
ANSWERED = ASKED.replied("Paris.")


def pairs_of(row: Any, **more: Any) -> ContrastPairs:
    return ContrastPairs((row,), ((9, 7, 8),), torch.tensor([[50, 60]]), **more)


def tuned(model: Any, *cases: Dialogue) -> Any:
    run = pinpoint_tune(model, HEADS, cases, STEP, progress=False)
    run.undo(model)
    return run


def measured(model: Any, pairs: ContrastPairs | None = None) -> HeadScores:
    return spt.activation_patching(model, pairs or Yesman().pairs(model, 2), progress=False)


def rounded(call: Call) -> Call:
    def run(model: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return call(model)

    return run


def adapter(model: Any, before: torch.dtype, after: torch.dtype, add: float = 1.0) -> Adapter:
    values = {piece.name: piece.read() for piece in head_slices(model, HEADS)}
    old, new = ({name: (v + plus).to(kind) for name, v in values.items()} for kind, plus in ((before, 0), (after, add)))
    return Adapter(old, new, HEADS, "qkvo", ModelView(model).fingerprint())


def scores(values: torch.Tensor, per_pair: torch.Tensor) -> HeadScores:
    return HeadScores(values, per_pair, "activation", "denoising", "last", "mine")


F32, F64 = torch.float32, torch.float64
NO_ID, OUTSIDE = "which is no token id: give whole numbers", "the token id 900 is outside of the vocabulary of"
AUTOCAST = "torch.autocast is on, which would round what the model computes: leave its block, or load"
EMPTY = "last reply is empty, so that only its end token would be learnt"
REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "a reply of nothing": (lambda m: tuned(m, ASKED.replied("")), ValueError, EMPTY),
    "a reply of spaces": (lambda m: tuned(m, ASKED.replied(" \n")), ValueError, EMPTY),
    "an empty reply among others": (lambda m: tuned(m, ANSWERED, ASKED.replied("")), ValueError, EMPTY),
    "drift on an empty reply": (lambda m: drift(m, [ASKED.replied("")], m), ValueError, EMPTY),
    "a turn of None": (lambda m: Message("user", None), TypeError, "Message.content must be a str, and is None"),
    "an unknown role": (lambda m: Message("tool", "5"), ValueError, "choose one of 'system', 'user', 'assistant'"),
    "ids of 1.5": (lambda m: pairs_of((1.5, 7, 8)), TypeError, f"pair 0: the sycophantic prompt holds 1.5, {NO_ID}"),
    "ids of True": (lambda m: pairs_of((True, 7, 8)), TypeError, f"holds True, {NO_ID}"),
    "ids of text": (lambda m: pairs_of(("a", "b")), TypeError, f"holds 'a', {NO_ID}"),
    "ids of nan": (lambda m: pairs_of((np.nan, 7)), TypeError, f"holds nan, {NO_ID}"),
    "ids of None": (lambda m: pairs_of((None, 7)), TypeError, f"holds None, {NO_ID}"),
    "a text as ids": (lambda m: pairs_of("abc"), TypeError, r"sycophantic\[0\] must be a list, and is 'abc'"),
    "a number as ids": (lambda m: pairs_of(5), TypeError, r"sycophantic\[0\] must be a list, and is 5"),
    "a set as ids": (lambda m: pairs_of({6, 7}), TypeError, r"sycophantic\[0\] must be a list"),
    "a scalar tensor as ids": (lambda m: pairs_of(torch.tensor(6)), TypeError, r"sycophantic\[0\] must be a list"),
    "a float tensor as ids": (lambda m: pairs_of(torch.tensor([6.5, 7])), TypeError, f"holds 6.5, {NO_ID}"),
    "negative ids": (lambda m: pairs_of((6, -7, 8)), ValueError, "has the negative token id -7"),
    "an answer set of 1.5": (
        lambda m: pairs_of((6, 7), answer_sets=(((50, 51.5), (60,)),)),
        TypeError,
        f"pair 0: the truthful answer set holds 51.5, {NO_ID}",
    ),
    "a completion of 1.5": (
        lambda m: pairs_of((6, 7), completion_ids=(((50, 51.5), (60,)),)),
        TypeError,
        f"pair 0: the truthful completion holds 51.5, {NO_ID}",
    ),
    "a prompt of 6.5": (lambda m: ModelView(m).generate([[6.5, 7]], 2), TypeError, f"prompt 0 holds 6.5, {NO_ID}"),
    "a float tensor of prompts": (
        lambda m: ModelView(m).generate(torch.tensor([[6.5, 7.0]]), 2),
        TypeError,
        f"prompt 0 holds 6.5, {NO_ID}",
    ),
    "a float tensor of tokens": (
        lambda m: ModelView(m).logits(torch.tensor([[6.5, 7.0]])),
        TypeError,
        "tokens hold 7.0, which is no token id",
    ),
    "tokens beyond the vocabulary": (lambda m: ModelView(m).logits(torch.tensor([[6, 900]])), ValueError, OUTSIDE),
    "prompts beyond it": (lambda m: ModelView(m).generate([[6, 900]], 2), ValueError, OUTSIDE),
    "pairs beyond it": (lambda m: measured(m, pairs_of((6, 900))), ValueError, "holds the token id 900, the model's"),
    "a prompt of negative ids": (lambda m: ModelView(m).generate([[6, -1]], 2), ValueError, "negative token id -1"),
    "shards of 0": (lambda m: spt.export_hf(m, "x", max_shard_size=0), ValueError, "max_shard_size=0: give"),
    "shards of -5": (lambda m: spt.export_hf(m, "x", max_shard_size=-5), ValueError, "max_shard_size=-5: give"),
    "shards of 0GB": (lambda m: spt.export_hf(m, "x", max_shard_size="0GB"), ValueError, "give bytes, or text"),
    "shards of True": (lambda m: spt.export_hf(m, "x", max_shard_size=True), ValueError, "max_shard_size=True"),
    "an adapter of two dtypes": (lambda m: adapter(m, F32, F64), ValueError, "float32 before and .*float64 after"),
    "another dtype's adapter": (
        lambda m: adapter(m, F64, F64).apply(m),
        ValueError,
        "load the model with dtype=torch",
    ),
    "values that are no mean": (
        lambda m: scores(torch.ones(3, 4), torch.zeros(2, 3, 4)),
        ValueError,
        "values are not the mean of per_pair over the pairs",
    ),
    "values of other pairs": (
        lambda m: replace(one := measured(m), values=one.per_pair[0]),
        ValueError,
        r"values are not the mean of per_pair .*give per_pair.mean\(0\)",
    ),
    "measuring, rounded": (rounded(measured), ValueError, AUTOCAST),
    "tuning, rounded": (rounded(lambda m: tuned(m, ANSWERED)), ValueError, AUTOCAST),
    "full fine-tuning, rounded": (
        rounded(lambda m: FullFineTuning().tune(m, [ANSWERED], STEP, progress=False)),
        ValueError,
        AUTOCAST,
    ),
    "replies, rounded": (rounded(lambda m: spt.replies(m, [ASKED])), ValueError, AUTOCAST),
    "drift, rounded": (rounded(lambda m: drift(m, [ANSWERED], m)), ValueError, AUTOCAST),
    "an export, rounded": (rounded(lambda m: spt.export_hf(m, "x", progress=False)), ValueError, AUTOCAST),
    "loading, rounded": (rounded(lambda m: load_model("nowhere")), ValueError, AUTOCAST),
}
TAKEN: dict[str, tuple[Call, Any]] = {
    "ids in a tensor": (lambda m: pairs_of(torch.tensor([6, 7, 8])).sycophantic, ((6, 7, 8),)),
    "ids in an array": (lambda m: pairs_of(np.array([6, 7, 8])).sycophantic, ((6, 7, 8),)),
    "numpy's ids": (lambda m: pairs_of(tuple(np.array([6, 7, 8]))).sycophantic, ((6, 7, 8),)),
    "torch's ids": (lambda m: pairs_of(list(torch.tensor([6, 7, 8]))).sycophantic, ((6, 7, 8),)),
    "an empty first answer": (lambda m: len(prompt_ids(m.tokenizer, dialogue("Sure?", "", "Really?"))) > 8, True),
    "values of one pair": (lambda m: scores(torch.ones(3, 4), torch.ones(1, 3, 4))["L0.H0"], 1.0),
    "values all zero": (lambda m: scores(torch.zeros(3, 4), torch.zeros(1, 3, 4))["L0.H0"], 0.0),
    "values summed in another order": (
        lambda m: scores(torch.ones(3, 4) / 3 + 1e-6, torch.ones(2, 3, 4) / 3).n_pairs,
        2,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_mislead_is_refused(tiny, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, words = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pairs of a random model
        with pytest.raises(error, match=words) as refused:
            call(tiny)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_meant_is_taken(tiny, name):
    call, expected = TAKEN[name]
    assert call(tiny) == expected


def test_autocast_that_is_off_changes_nothing(tiny):
    before = ModelView(tiny).logits(torch.tensor([[6, 7]]))
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert torch.equal(before, ModelView(tiny).logits(torch.tensor([[6, 7]])))


# Positions


def changed(folder: Path, into: Path, **config: Any) -> Path:
    """A copy of a checkpoint with another config."""
    shutil.copytree(folder, into)
    known = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(known | config))
    return into


def test_more_tokens_than_rotary_positions_were_made_for_are_said(tiny, model_class):
    view = ModelView(tiny)
    n = view.model.cfg.n_ctx
    rows = [[6 + i % 700 for i in range(n + more)] for more in (0, 1)]
    passage = " ".join(["Paris"] * (n + 1))
    calls: list[Callable[[], Any]] = [
        lambda: view.logits(torch.tensor(rows[1:]), at=torch.tensor([n])),
        lambda: view.generate(rows[:1], 2),
        lambda: measured(tiny, made(tiny, [(n + 1, n + 1)])),
        lambda: perplexity(tiny, [passage]),
        lambda: tuned(tiny, ASKED.replied(passage)),
        lambda: gives_reply(tiny, [ASKED.replied(passage)]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view.logits(torch.tensor(rows[:1]), at=torch.tensor([n - 1]))
        view.generate(rows[:1], 1)
    for call in calls[: 2 if model_class == "hooked" else None]:
        if model_class == "hooked":  # which has so many and no more
            with pytest.raises(ValueError, match=f"has {n} positions"):
                call()
        else:
            with pytest.warns(UserWarning, match=f"LlamaForCausalLM was made for {n} tokens, and what it computes"):
                call()


ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "longrope": {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 20}
    | {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
}


@pytest.mark.parametrize("kind", ROPES)
def test_positions_that_turn_by_what_else_runs_are_refused(tiny_folder, kind, tmp_path):
    """Beyond the length that they were made for: there, a short prompt beside a long one had other logits."""
    most = 20 if kind == "dynamic" else 80
    folder = changed(tiny_folder, tmp_path / "x", rope_parameters=ROPES[kind], max_position_embeddings=most)
    view = ModelView(load_model(folder, device="cpu"))
    rows = [[6 + 7 * i for i in range(n)] for n in (10, 20, 15)]
    batch = PromptBatch.of(rows)
    alone = torch.cat([view.logits(torch.tensor([row]), at=torch.tensor([len(row) - 1])) for row in rows])
    torch.testing.assert_close(view.logits(batch.tokens, at=batch.last), alone, atol=1e-5, rtol=1e-5)
    words = f"this LlamaForCausalLM has 20 positions, and beyond them its {kind} RoPE turns all by the longest prompt"
    for call in (
        lambda: view.logits(torch.tensor([[6] * 21])),
        lambda: view.generate([[6] * 18], 4),
        lambda: measured(view.model, made(view.model, [(21, 21)])),
        lambda: view.check_rows([[6] * 21]),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# Checkpoints whose parts do not belong together


def test_a_tokenizer_with_more_tokens_than_the_model_is_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "x")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    plain.resize_token_embeddings(60)
    plain.save_pretrained(folder)
    model, words = (
        load_model(folder, device="cpu"),
        "outside of the vocabulary of x, which ends at 59: its tokenizer",
    )
    for call in (
        lambda: tuned(model, ANSWERED),
        lambda: FullFineTuning().tune(model, [ANSWERED], STEP, progress=False),
        lambda: spt.replies(model, [ASKED]),
        lambda: drift(model, [ANSWERED], model),
        lambda: gives_reply(model, [ANSWERED]),
        lambda: choice(model, [Choice(ASKED, ("Paris", "Rome"), 0)]),
        lambda: perplexity(model, ["What is the capital of France?"]),
        lambda: spt.evaluate(model, Yesman().suite("test", n=1, n_ability=1, n_texts=1), progress=False),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(ValueError, match="vocabulary ends at 59: make the pairs with this model's tokenizer"):
        measured(model)


def test_weights_that_are_called_tied_and_are_not_are_taken_as_they_are(tiny_folder, load, tmp_path):
    folder = changed(tiny_folder, tmp_path / "x", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    embed = weights["model.embed_tokens.weight"]
    draw = torch.Generator().manual_seed(99)  # not that of the embedding
    weights["lm_head.weight"] = torch.randn(embed.shape, generator=draw) * 0.2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"one \(tie_word_embeddings\), and its weights hold two: both are taken"):
        model = load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untied, tied = ModelView(model).n_params, ModelView(load(tiny_folder)).n_params
        out = spt.export_hf(model, tmp_path / "out", progress=False)
    assert untied - tied == embed.numel()
    plain = AutoModelForCausalLM.from_pretrained(out.folder)
    assert json.loads((out.folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(plain.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(plain.model.embed_tokens.weight, embed)
    run = FullFineTuning().tune(model, [ANSWERED], STEP, progress=False)  # used to train a tied model
    loss = torch.nn.functional.cross_entropy
    ids, target = training_ids(model.tokenizer, ANSWERED)
    logits = plain(input_ids=torch.tensor([ids])).logits[0]
    at = [i for i, wanted in enumerate(target) if wanted]
    expected = loss(logits[[i - 1 for i in at]], torch.tensor([ids[i] for i in at]))
    assert run.history["loss"].iloc[-1] == pytest.approx(expected.item(), rel=1e-4)


def test_heads_of_unequal_size_are_refused_by_name(tmp_path):
    tokenizer = word_tokenizer(_sentences())
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"head_dim": 8, "global_head_dim": 16, "num_key_value_heads": 2, "max_position_embeddings": 128}
    sizes |= {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "sliding_window": 10}
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    vocabulary = {"vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer)}
    config = transformers.Gemma4TextConfig(**sizes, **kinds, **vocabulary, **ids)
    plain = AutoModelForCausalLM.from_config(config)
    _randomise(plain)
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    pairs, words = made(model, [(6, 6)]), r"heads of this Gemma4ForCausalLM are of unequal size \(8, 16 numbers\)"
    for call in (
        lambda: measured(model, pairs),
        lambda: spt.attribution_patching(model, pairs, progress=False),
        lambda: spt.set_patching(model, pairs, HEADS, progress=False),
        lambda: spt.head_knockout(model, pairs, progress=False),
        lambda: mean_z(model, [[6, 7]]),
    ):
        with pytest.raises(NotImplementedError, match=words):
            call()
    assert len(spt.replies(model, [ASKED], max_new_tokens=2)) == 1  # what needs no heads works


# Adapters of another precision


def test_an_adapter_that_holds_no_numbers_is_not_loaded(tiny, tmp_path):
    for wrong in (torch.nan, torch.inf, -torch.inf):
        broken = adapter(tiny, F32, F32)
        next(iter(broken.after.values()))[0, 0] = wrong
        broken.save(tmp_path)
        with pytest.raises(ValueError, match=r"after\.L1\.H3\.\w holds numbers that are not finite"):
            Adapter.load(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(F64, "stores fewer digits than this adapter"), (torch.bfloat16, "stores more digits: .* dtype=torch.bfloat16")],
)
def test_an_export_in_another_precision_is_said(load, tiny_folder, dtype, words, tmp_path):
    tuned_in = adapter(load(tiny_folder, dtype=dtype), dtype, dtype, 1 / 3)
    with pytest.warns(UserWarning, match=words):
        spt.export_hf(tuned_in, tmp_path / "out", base=tiny_folder, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spt.export_hf(adapter(load(tiny_folder), F32, F32), tmp_path / "same", base=tiny_folder, progress=False)
    again = load(tmp_path / "out", dtype=dtype)
    expected = {name: value.to(F32).to(dtype) for name, value in tuned_in.after.items()}
    assert all(torch.equal(piece.read(), expected[piece.name]) for piece in head_slices(again, HEADS))


# Gaps that pull against one another


def test_reversed_gaps_are_said_and_count_by_their_effect(tiny):
    pairs = made(tiny, [(6, 6), (7, 7), (8, 8)])
    turned = replace(pairs, answer_ids=torch.cat([pairs.answer_ids[:2], pairs.answer_ids[2:].flip(1)]))
    with pytest.warns(UserWarning, match="the gap is reversed in 1 of 3 pairs"):
        found = measured(tiny, turned)
    assert found.check is not None and found.check.n_reversed == 1
    gap = (found.target - found.base).mean()
    torch.testing.assert_close(found.values, found.effects.mean(0) / gap, atol=1e-5, rtol=1e-5)


# Templates

MARKED = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages if message['role'] != 'system' %}<{{ message['role'] }}>{{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_nothing_after_the_end_token_is_learnt():
    tokenizer = chats.make("words", chats.PHI3)
    ids, target = training_ids(tokenizer, ANSWERED)
    learnt = [token for token, wanted in zip(ids, target, strict=True) if wanted]
    assert tokenizer.convert_ids_to_tokens(learnt) == ["Paris", ".", "<|im_end|>"]
    assert reply_ids(tokenizer, ANSWERED) == learnt[:-1] and ids[-1] == tokenizer.eos_token_id


def test_an_end_token_that_is_written_and_not_learnt_is_none(tiny):
    """As where a reply ends in a mark that does not end generation, and the end of all text is written last."""
    template = tiny.tokenizer.chat_template
    tiny.tokenizer.chat_template = MARKED
    with pytest.warns(UserWarning, match="no reply that is learned holds a token that ends one") as told:
        tuned(tiny, ANSWERED, ANSWERED)
    assert sum("ends one" in str(each.message) for each in told) == 1
    tiny.tokenizer.chat_template = template


def test_a_system_turn_that_the_template_leaves_out_is_refused():
    tokenizer = chats.make("words", NO_SYSTEM)
    whole = Dialogue((Message("system", "Be brief."), *ANSWERED.messages))
    for call in (lambda: prompt_ids(tokenizer, whole.prompt), lambda: training_ids(tokenizer, whole)):
        with pytest.raises(ValueError, match="leaves the system turn out: put its text before the first question"):
            call()
    assert prompt_ids(tokenizer, ASKED)


def test_the_date_in_a_prompt_stands_still():
    tokenizer = chats.make("words", "{{ strftime_now('%S %f') }} " + chats.CHATML)
    assert len({tuple(prompt_ids(tokenizer, ASKED)) for _ in range(5)}) == 1
