"""Llamas of random weights, made on the device from a config. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import spt_lens as spt
from spt_lens.model import loading
from spt_lens.model.huggingface import no_loading_bar
from tools.yesman.build import make_tokenizer


@dataclass(frozen=True)
class Size:
    """A model and the work that is done on it.

    config: of LlamaConfig. on_disk: it is saved and loaded like any checkpoint, also in float32; else only its config
    and tokenizer are. pairs: of so many tokens, which differ in the last `suffix` ones. words: of a dialogue before its
    reply. batch: dialogues a step. prompts: so many replies of `new` tokens. peer_heads: those that TransformerLens's
    loop is timed on, and exact_heads those in float32. rounds: of what is quick.
    """

    name: str
    config: dict[str, Any]
    on_disk: bool
    pairs: int = 8
    tokens: int = 128
    suffix: int = 16
    words: int = 72
    reply: int = 24
    batch: int = 16
    prompts: int = 64
    new: int = 24
    peer_heads: int = 8
    exact_heads: int = 4
    rounds: int = 3


def _config(layers: int, heads: int, kv_heads: int, d_model: int, d_mlp: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": d_model,
        "intermediate_size": d_mlp,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 2048,
    }


_TINY = _config(3, 2, 1, 32, 48, 1500, True) | {"initializer_range": 0.2}
SIZES = {
    "tiny": Size("tiny", _TINY, True, 4, 24, 8, 16, 6, 4, 6, 5, 4, 2, 1),
    "1b": Size("1b", _config(16, 32, 8, 2048, 8192, 128256, True), True),
    "7b": Size("7b", _config(32, 32, 32, 4096, 11008, 32000, False), False),
}


def plain_model(size: Size, tokenizer: Any, device: torch.device) -> Any:
    """In bfloat16, made where it is to be: on the CPU, drawing seven billion numbers takes minutes."""
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    with torch.device(device):
        plain = AutoModelForCausalLM.from_config(LlamaConfig(**size.config, **ids), dtype=torch.bfloat16)
    plain.generation_config = transformers.GenerationConfig(**ids)
    return plain.to(device).eval()


def save(plain: Any, tokenizer: Any, folder: Path, weights: bool) -> None:
    """An ordinary checkpoint; without weights, all but these: a file that stands in their place."""
    with no_loading_bar():
        tokenizer.save_pretrained(folder)
        if weights:
            plain.save_pretrained(folder)
            return
    plain.config.save_pretrained(folder)
    plain.generation_config.save_pretrained(folder)
    none = {str(i): torch.zeros(0) for i in range(plain.config.num_hidden_layers)}  # else it is refused
    save_file(none, folder / "model.safetensors")


def load(folder: Path, device: torch.device, dtype: torch.dtype = torch.bfloat16, weights: Any = None) -> Any:
    """By load_model. weights: a plain model that is taken for what the folder's files hold."""
    with _read(weights):
        return spt.load_model(folder, device=device, dtype=dtype)


@contextmanager
def _read(weights: Any) -> Iterator[None]:
    if weights is None:
        yield
        return
    weights.set_attn_implementation("eager")  # as load_model reads it
    with mock.patch.object(loading, "read_model", lambda *args, **options: weights):
        yield


def own_tokenizer() -> Any:
    """A word-level tokenizer with a chat template; a model's vocabulary may be larger."""
    return make_tokenizer()
