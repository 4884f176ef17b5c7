"""Tiny random checkpoints of every architecture, to try out what works with it. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from spt_lens.behaviours.challenges import NEUTRAL_SENTENCES, REQUESTS, STANCE_PAIRS
from spt_lens.model.huggingface import no_loading_bar
from spt_lens.support.probes import ASKED

SPECIAL = ("<pad>", "<unk>", "<s>", "<end>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_WORD = r"[A-Za-z0-9']+|[^\sA-Za-z0-9']"


@dataclass(frozen=True)
class Tiny:
    """An architecture's name for people, its transformers config class, and what its config has beyond `_SIZES`."""

    title: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)


_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
# Wherever a checkpoint may have it so, heads together are not as wide as the residual stream, and windows are shorter
# than the prompts: what takes d_head for d_model / n_heads, or leaves a window out, gives other logits. Two layers'
# windows still reach back to where the prompts of a pair differ.
_SEPARATE = {"num_key_value_heads": 4, "head_dim": 16}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
_WINDOW = {**_GROUPED, "sliding_window": 10}
_PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
_GEMMA = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 24}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}  # low, so that they matter
_GRANITE = {
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "embedding_multiplier": 2.0,
    "logits_scaling": 1.5,
}

# The last two are there to show what works with an architecture that has no Layout.
TINY = {
    "llama": Tiny("Llama", "LlamaConfig", _SEPARATE),
    "llama-grouped": Tiny("Llama, grouped-query", "LlamaConfig", _GROUPED),
    "llama-multi": Tiny("Llama, multi-query", "LlamaConfig", {"num_key_value_heads": 1, "head_dim": 16}),
    "mistral": Tiny("Mistral", "MistralConfig", _WINDOW),
    "ministral3": Tiny("Ministral 3", "Ministral3Config", _GROUPED),
    "qwen2": Tiny("Qwen2", "Qwen2Config", _GROUPED),
    "qwen3": Tiny("Qwen3", "Qwen3Config", _GROUPED),
    "gemma": Tiny("Gemma", "GemmaConfig", _GROUPED),
    "gemma2": Tiny("Gemma 2", "Gemma2Config", {**_GEMMA, **_CAPS}),
    "gemma3": Tiny("Gemma 3 (text)", "Gemma3TextConfig", _GEMMA),
    "phi3": Tiny("Phi-3", "Phi3Config", _WINDOW),
    "smollm3": Tiny("SmolLM3", "SmolLM3Config", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "granite": Tiny("Granite", "GraniteConfig", {**_GROUPED, **_GRANITE}),
    "stablelm": Tiny("StableLM", "StableLmConfig", {"num_key_value_heads": 2, "qk_layernorm": True, **_PARTIAL}),
    "gpt2": Tiny("GPT-2", "GPT2Config", {"n_inner": 48}),
    "neox": Tiny("GPT-NeoX (Pythia)", "GPTNeoXConfig", _PARTIAL),
    "olmo2": Tiny("OLMo 2", "Olmo2Config", _GROUPED),
    "opt": Tiny("OPT", "OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over exactly the words of these texts, with a chat template.

    Case and apostrophes are kept.
    """
    split = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = split
    raw.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # joins words by spaces, and none before . , ? !
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        padding_side="left",
    )


def tiny_checkpoint(name: str, folder: str | Path) -> Path:
    """Saves a random two-layer model of one of `TINY` and a tokenizer of its own: an ordinary checkpoint.

    Weights are larger than the usual start, so that heads matter, and biases and norms are random too. The same name
    gives the same weights.

    Raises:
        ValueError: No such name.
    """
    if name not in TINY:
        raise ValueError(f"there is no tiny checkpoint {name!r}: use one of {', '.join(TINY)}")
    tokenizer = word_tokenizer(_sentences())
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    made = getattr(transformers, TINY[name].config)(
        vocab_size=len(tokenizer), **{**_SIZES, **ids, **TINY[name].options}
    )
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(made)
    _randomise(model)
    model.generation_config = GenerationConfig(**ids, max_new_tokens=20)
    with no_loading_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _sentences() -> list[str]:
    """All that a prompt or a reply about the questions of `check_checkpoint` may hold."""
    asked = [text for question in ASKED.questions for text in (question.text, *question.answers, *question.wrong)]
    said = [ASKED.defend(""), ASKED.retract("")]
    return [*asked, *said, *NEUTRAL_SENTENCES, *REQUESTS, *(sentence for pair in STANCE_PAIRS for sentence in pair)]


@torch.no_grad()
def _randomise(model: PreTrainedModel) -> None:
    for i, p in enumerate(model.parameters()):
        # Each with a seed of its own, so that a word more in the vocabulary changes no other one.
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        if p.ndim > 1:
            p.copy_(noise * model.config.hidden_size**-0.5)
        else:
            p.add_(0.2 * noise)
