"""Tiny random models with the embedded model's tokenizer. Nothing here needs a network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import that reads it

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from spt_lens.model.hooked import HookedTransformer
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.yesman.build import make_config, make_tokenizer

# TransformerLens 3.9 has both model classes, 4 only the bridge. Whatever uses `tiny` or `gqa` runs with each.
CLASSES = ["bridge", "hooked"] if HookedTransformer is not None else ["bridge"]


def save_tiny(folder: Path, kv_heads: int = 4) -> Path:
    """A random Llama of 3 layers x 4 heads of 8 dimensions, saved as an ordinary Hugging Face folder.

    Weights are larger than the usual start, so that heads matter and greedy replies vary. Each weight has its own seed,
    so that a word more in the vocabulary changes no other weight.
    """
    tokenizer = make_tokenizer()
    config = make_config(len(tokenizer), layers=3, heads=4, d_head=8, d_model=32)
    config.num_key_value_heads = kv_heads
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.ndim == 2):
            p.normal_(std=p.shape[1] ** -0.5, generator=torch.Generator().manual_seed(i))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def gqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like tiny_folder, with two heads to each set of keys and values."""
    return save_tiny(tmp_path_factory.mktemp("gqa"), kv_heads=2)


@pytest.fixture(params=CLASSES)
def model_class(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def load(model_class: str) -> Callable[..., Model]:
    """Loads a folder as the class that the test runs with."""
    return partial(load_model, device="cpu", model_class=model_class)


@pytest.fixture
def tiny(tiny_folder: Path, load: Callable[..., Model]) -> Model:
    """A fresh model for each test: tests may change it."""
    return load(tiny_folder)


@pytest.fixture
def gqa(gqa_folder: Path, load: Callable[..., Model]) -> Model:
    return load(gqa_folder)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three random prompts of ten tokens, `[batch=3, pos=10]`, without special ones."""
    return torch.randint(6, 700, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax in the model's own dtype. TransformerLens takes that of most bridges in float32 whatever the model is
    in, which rounds two ways of computing the same float64 number apart, by 1e-7."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim=dim))


def head_part(model: Model, layer: int, which: str, unit: int) -> torch.Tensor:
    """A head's live weights in Hugging Face's layout: a view, to be changed under no_grad."""
    weight, pick = ModelView(model).head_weight(layer, which, unit)
    return pick(weight)
