"""What the export's tests share: tiny checkpoints of all architectures, tuned for two steps."""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from spt_lens.heads import HeadSet
from spt_lens.model.layout import LAYOUTS
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import TINY, tiny_checkpoint

HEADS = HeadSet.parse("L0.H1 L1.H2")
DTYPES = [torch.float32, torch.bfloat16]
SAID_AGAIN = {"config.json", "tokenizer_config.json"}  # in older words too, which is no change of the model


def architecture(name: str) -> str:
    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[getattr(transformers, TINY[name].config).model_type]


NAMES = [name for name in TINY if architecture(name) in LAYOUTS]


@cache
def checkpoint(name: str, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "50GB") -> Path:
    """A tiny checkpoint in a folder of its own under `folder`. Made once: tests must not change it."""
    here = folder / f"{name}-{str(dtype).removeprefix('torch.')}-{shard}"
    if dtype == torch.float32 and shard == "50GB":
        return tiny_checkpoint(name, here)
    whole = checkpoint(name, folder)
    shutil.copytree(whole, here, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(whole, dtype=dtype).save_pretrained(here, max_shard_size=shard)
    return here


@cache
def _adapter(folder: Path, model_class: str, dtype: torch.dtype) -> Adapter:
    model = load_model(folder, device="cpu", dtype=dtype, model_class=model_class)
    config = TuneConfig(lr=1e-2, steps=2, batch_size=2, projections="qkvo", warmup_share=0)
    return pinpoint_tune(model, HEADS, Yesman().cases("train", n=4), config, progress=False).adapter


def tuned(folder: Path, model_class: str = "bridge", dtype: torch.dtype = torch.float32) -> tuple[Model, Adapter]:
    """A tuned model, fresh for each test, and its adapter."""
    try:
        adapter = _adapter(folder, model_class, dtype)
    except NotImplementedError as error:
        if model_class == "hooked" and "makes no HookedTransformer of" in str(error):
            pytest.skip(str(error))
        raise
    model = load_model(folder, device="cpu", dtype=dtype, model_class=model_class)
    adapter.apply(model)
    return model, adapter


def state(model: Model) -> list[object]:
    """All that an export must leave as it is."""
    view = ModelView(model)
    points = {id(point): point for point in model.hook_dict.values()}.values()
    return [
        {name: hashlib.sha256(bytes_of(p)).hexdigest() for name, p in view.weights().items()},
        [(p.requires_grad, p.dtype, p.device, id(p), id(p.grad)) for p in view.backend.root.parameters()],
        [module.training for module in view.modules()],
        [[list(hooks.items()) for hooks in (m._forward_hooks, m._forward_pre_hooks)] for m in view.modules()],
        [(list(point.fwd_hooks), list(point.bwd_hooks)) for point in points],
    ]


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def contents(folder: Path) -> dict[str, bytes]:
    """All files, also hidden ones."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
