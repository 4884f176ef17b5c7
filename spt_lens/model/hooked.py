"""HookedTransformer (TransformerLens 3.9): making one of any checkpoint, and the ways back. Used by backends.py alone.

TransformerLens 3.9 makes it of official names only. Here its converters are given any checkpoint of an architecture
that they know. One may have been written for another variant: loading.py compares the result with the plain model.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from spt_lens.model.huggingface import made_by_own_code, name_of, read_model
from spt_lens.model.layout import LAYOUTS, Shape

WITH_BIASES = ("GPT2LMHeadModel", "GPTNeoXForCausalLM", "Qwen2ForCausalLM")


@dataclass(frozen=True)
class Source:
    """Where a HookedTransformer's weights came from: what `base_model` loads again. Kept on the model itself."""

    name_or_path: str
    revision: str | None
    generation_config: GenerationConfig | None
    own_code: bool = False  # of the checkpoint's, which the user allowed to run


@cache
def hooked_transformer() -> Any:
    """The class, or None where TransformerLens has none (4). It is imported here: it takes seconds."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return None
    return HookedTransformer


def is_hooked(model: Any) -> bool:
    """Whether it is a HookedTransformer; never, where TransformerLens has none."""
    return hooked_transformer() is not None and isinstance(model, hooked_transformer())


def check_available() -> None:
    """Raises NotImplementedError where this TransformerLens has no HookedTransformer."""
    if hooked_transformer() is None:
        raise NotImplementedError(
            "this TransformerLens has no HookedTransformer, only TransformerBridge: leave model_class out, or install "
            '"transformer-lens>=3.9,<4"'
        )


def build(plain: PreTrainedModel, tokenizer: Any, source: str, revision: str | None = None) -> Any:
    """A HookedTransformer with the weights of a plain model, unprocessed, in its dtype and on its device."""
    check_available()
    architecture = type(plain).__name__
    way_out = "load it as a TransformerBridge"
    if architecture not in LAYOUTS:
        raise NotImplementedError(
            f"{architecture} is not made into a HookedTransformer here (known: {', '.join(LAYOUTS)}): {way_out}, or "
            "pass a HookedTransformer of your own"
        )
    try:
        cfg = _config(plain)
    except NotImplementedError as error:
        raise NotImplementedError(f"TransformerLens makes no HookedTransformer of {architecture}: {way_out}") from error
    cfg.model_name = name_of(source)
    try:
        weights = converted(cfg, plain)
    except Exception as error:  # the converters raise whatever comes of a weight that they expect and is not there
        raise NotImplementedError(
            f"TransformerLens cannot convert the weights of this {architecture} ({type(error).__name__}: {error}): "
            f"{way_out}"
        ) from error
    with _quiet():
        model = hooked_transformer()(cfg, tokenizer, move_to_device=False)
        steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        model.load_and_process_state_dict(weights, **dict.fromkeys(steps, False))
    model.to(plain.device, print_details=False).eval()
    own_code = made_by_own_code(plain)
    model.spt_lens_source = Source(source, revision, copy.deepcopy(plain.generation_config), own_code)
    return model


def converted(cfg: Any, plain: PreTrainedModel) -> dict[str, Tensor]:
    """A plain model's weights under this class's names, by TransformerLens's own converters."""
    from transformer_lens import loading_from_pretrained

    with _quiet(), _config_folder(plain) as folder:
        return loading_from_pretrained.get_pretrained_state_dict(folder, cfg, plain, dtype=plain.dtype)


def _config(plain: PreTrainedModel) -> Any:
    from transformer_lens import loading_from_pretrained

    config, shape = plain.config, Shape.of_config(plain.config)
    with _quiet(), _config_folder(plain) as folder:
        if config.architectures[0] in ("GemmaForCausalLM", "Gemma2ForCausalLM"):
            # TransformerLens goes by the official name here, and reads no config.
            official = "gemma-2b" if config.architectures[0] == "GemmaForCausalLM" else "google/gemma-2-2b"
            cfg = loading_from_pretrained.get_pretrained_model_config(official, dtype=plain.dtype)
            cfg.d_mlp, cfg.n_ctx = config.intermediate_size, config.max_position_embeddings
            cfg.d_vocab = cfg.d_vocab_out = config.vocab_size
            cfg.eps, cfg.rotary_base = config.rms_norm_eps, config.rope_parameters["rope_theta"]
            cfg.attn_scale = getattr(config, "query_pre_attn_scalar", shape.d_head) ** 0.5
            cfg.act_fn = getattr(config, "hidden_activation", None) or config.hidden_act  # official: gemma-2b's is off
            if hasattr(config, "attn_logit_softcapping"):
                # 0 is none at all, which TransformerLens writes as -1
                cfg.attn_scores_soft_cap = config.attn_logit_softcapping or -1.0
                cfg.output_logits_soft_cap = config.final_logit_softcapping or -1.0
        else:
            cfg = loading_from_pretrained.get_pretrained_model_config(folder, dtype=plain.dtype)
    if getattr(config, "layer_types", None):
        # TransformerLens leaves windows out in Qwen 2 and 3, which a few tokens would not show, and takes Gemma 2's
        # from the official model.
        cfg.attn_types = ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types]
        cfg.use_local_attn, cfg.window_size = "local" in cfg.attn_types, config.sliding_window
    cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head = shape.n_layers, shape.n_heads, shape.d_model, shape.d_head
    cfg.n_key_value_heads = shape.n_kv_heads if shape.n_kv_heads != shape.n_heads else None
    if cfg.use_attn_scale and not hasattr(config, "query_pre_attn_scalar"):
        cfg.attn_scale = shape.d_head**0.5  # was worked out from another d_head, where the config gives one
    if cfg.positional_embedding_type == "rotary" and not hasattr(config, "partial_rotary_factor"):
        rope = getattr(config, "rope_parameters", None) or {}
        cfg.rotary_dim = round(shape.d_head * rope.get("partial_rotary_factor", 1.0))
    if getattr(config, "n_inner", None):
        cfg.d_mlp = config.n_inner
    cfg.device = str(plain.device)
    return cfg


@contextmanager
def _config_folder(plain: PreTrainedModel) -> Iterator[str]:
    """A folder with the config alone: its name says nothing, since TransformerLens guesses from names."""
    with tempfile.TemporaryDirectory() as folder:
        config = copy.deepcopy(plain.config)
        if config.model_type == "gpt2":
            config.n_ctx = config.n_positions  # an older name, which TransformerLens reads
        config.__dict__.pop("auto_map", None)  # it would ask whether to run the checkpoint's own code
        config.save_pretrained(folder)
        yield folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notice that HookedTransformer is going to be removed: the user has asked for it."""
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        logging.root.setLevel(max(level, logging.ERROR))
        try:
            yield
        finally:
            logging.root.setLevel(level)


def new_cache(model: Any, batch: int) -> Any:
    """An empty cache of keys and values."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)


def processed(model: Any) -> str:
    """Why a model's weights are no longer the checkpoint's; empty if they are.

    Folded norms show in the config. Centring leaves no trace there, but in the weights: the mean of each row that
    writes to the residual stream is then a rounding error, not a random number.
    """
    if model.cfg.normalization_type in ("LNPre", "RMSPre"):
        return "norms were folded into the weights (fold_ln)"
    if _centred(model.blocks[0].attn.W_O.flatten(0, 1)) and _centred(model.embed.W_E):
        return "writing weights were centred (center_writing_weights)"
    if _centred(model.unembed.W_U):
        return "the unembedding was centred (center_unembed)"
    attention = model.blocks[0].attn
    # A model that was never trained has no biases at all; one that has those of q has those of v.
    if model.cfg.original_architecture in WITH_BIASES and attention.b_Q.any() and not attention.b_V.any():
        return "the value biases were folded (fold_value_biases)"
    return ""


@torch.no_grad()
def _centred(weight: Float[Tensor, "rows cols"]) -> bool:
    weight = weight[:256].float()
    means = weight.mean(dim=1).square().mean().sqrt() * weight.shape[1] ** 0.5
    return bool(means < 0.05 * weight.std())  # of random rows it is about the standard deviation


@torch.no_grad()
def same_up_to_scale(one: Float[Tensor, "rows cols"], other: Float[Tensor, "rows cols"]) -> bool:
    """Whether two matrices are equal but for a factor (Gemma scales its embedding), as tied ones are."""
    if one.shape != other.shape:
        return False
    one, other = one[:256].float(), other[:256].float()  # enough rows to tell
    return bool(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999)


def base_model(model: Any, base: str | None) -> PreTrainedModel:
    """The plain model of the checkpoint that a HookedTransformer was made of, on its device and in its dtype."""
    source, revision, own_code = getattr(model, "spt_lens_source", None), None, False
    if base is None and source is not None:
        base, revision, own_code = source.name_or_path, source.revision, source.own_code
    if base is None:
        from transformer_lens import loading_from_pretrained

        try:
            base = loading_from_pretrained.get_official_model_name(model.cfg.model_name)
        except ValueError:
            raise ValueError(
                f"which checkpoint this HookedTransformer ({model.cfg.model_name}) was made of is not known, and it "
                "holds no Hugging Face model: load it with spt_lens.load_model, or name the checkpoint with base="
            ) from None
    return read_model(base, model.cfg.dtype, revision, own_code).to(model.cfg.device)
