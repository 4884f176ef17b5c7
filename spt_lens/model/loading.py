"""Finding and loading a checkpoint. Whether its files are whole is checked before anything long begins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from spt_lens.chat.template import set_chat_options, use_chat_template
from spt_lens.checking import instance, one_of
from spt_lens.model import hooked, ranks
from spt_lens.model.backends import backend_of
from spt_lens.model.bounds import check_exact
from spt_lens.model.devices import DeviceMap, device_of, devices_of, dispatching, places_for, usable_device
from spt_lens.model.folders import weight_files
from spt_lens.model.gguf import kept_tokenizer
from spt_lens.model.held import check_mode, unbroken
from spt_lens.model.huggingface import base_of, checked_source, read_model, read_tokenizer, reading_errors

ModelClass = Literal["bridge", "hooked"]
# Of logits, as a share of the largest: above rounding, below what a wrong activation function makes (2e-4).
TOLERANCE = 1e-4


@unbroken()
@torch.inference_mode(False)  # weights that are made in inference mode can't be tuned
def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    model_class: ModelClass = "bridge",
    chat_template: str | Path | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    system: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Loads a chat model, ready to measure: a TransformerBridge or HookedTransformer, raw weights, evaluation mode.

    Its logits on a few tokens are compared with those of plain transformers: two forward passes.

    Args:
        name_or_path: An embedded model such as "yesman"; "smollm2", which is what `make smollm2` brought, or else the
            hub's; a local Hugging Face folder; a .gguf file; a folder with a PEFT adapter, which is merged into its
            base model; or a name on the Hugging Face hub. A local folder of such a short name is reached as "./yesman".
        dtype: Of the weights. Whatever the checkpoint stores is converted.
        device: Default: CUDA where there is one, else the CPU.
        device_map: Instead of a device, for a model that does not fit on one: "auto" (or another of accelerate's ways),
            or the device of each module, such as {"model.embed_tokens": 0, ..., "model.layers.20": "cpu", "": "disk"}.
            See docs/devices.md.
        max_memory: With "auto": of each device, such as {0: "20GiB", "cpu": "60GiB"}.
        offload_folder: For weights that stay on the disk, where they can't be read from the checkpoint's own files.
        model_class: "bridge", or "hooked" for a HookedTransformer, which TransformerLens has up to 3.9; making one
            takes twice the memory for a moment.
        chat_template: For tokenizers without one (base models), as `spt_lens.chat.template.use_chat_template` takes it.
        chat_template_kwargs: Arguments of the chat template, such as {"enable_thinking": True} or {"date_string": "26
            Jul 2024"}; and system: a system prompt for dialogues that have none of their own. They hold for all that is
            encoded, as `spt_lens.chat.template.set_chat_options` says. Without them a model that thinks before it
            replies is made to reply at once: thinking that its generation prompt opens is closed.
        revision: Branch, tag or commit, for hub names.
        trust_remote_code: Run the checkpoint's own Python code. Only for sources you trust.

    Raises: TypeError for a name, dtype or device of another type; FileNotFoundError for no such folder, or one without
    config.json, weights or tokenizer; ValueError for a damaged file, weights that do not fit the config, a chat
    template that fails or takes no system prompt, an adapter that can't be merged, or a checkpoint that needs its own
    code, or for a device map that leaves weights out or names what is not there; MemoryError, before weights are read,
    where they do not fit; ImportError without the package that reads it (gguf, peft); OSError if the hub does not give
    it; NotImplementedError if TransformerLens makes no such model of the architecture, or one that gives other logits.
    """
    instance(trust_remote_code, "trust_remote_code", bool, "give True or False")
    instance(chat_template, "chat_template", (str, Path, type(None)), 'give "plain", a template, or its file')
    instance(offload_folder, "offload_folder", (str, Path, type(None)), "name a folder")
    instance(revision, "revision", (str, type(None)), "name a branch, a tag or a commit")
    check_mode()
    check_exact()
    if one_of(model_class, "model_class", get_args(ModelClass)) == "hooked":
        hooked.check_available()
    if not instance(dtype, "dtype", torch.dtype, "give one of torch's, such as torch.float32").is_floating_point:
        raise ValueError(f"dtype={dtype} holds no fractions: give torch.float32, torch.bfloat16 or torch.float16")
    if device_map is None:
        device = _default() if device is None else usable_device(device)
    source = checked_source(name_or_path)
    _check_config(source, trust_remote_code)
    tokenizer = read_tokenizer(source, revision, trust_remote_code)

    def dress(tokenizer: Any) -> None:
        if chat_template is not None:
            use_chat_template(tokenizer, chat_template)
        if chat_template_kwargs is not None or system is not None:
            set_chat_options(tokenizer, chat_template_kwargs, system)

    dress(tokenizer)  # before the long part, where it fails
    import transformer_lens.model_bridge  # noqa: F401  it takes seconds; here nothing of transformers is patched yet

    options: Any = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    asked = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    where = places_for(source, device, asked, model_class == "hooked", options)
    with dispatching():
        plain = read_model(source, **options, **where).eval()
    plain = plain.to(device) if device_map is None else plain
    if (base := base_of(source)) is not None:
        into = "the weights beside it" if base == source else f"the weights of {base}"
        ranks.warn_caller(
            f"{source} holds a PEFT adapter: it is merged into {into}, which are measured, tuned and exported as one "
            "model"
        )
    architecture = type(plain).__name__
    plain.config.architectures = [architecture]  # a config may name none, or one with another head
    tokens, expected = _trial(plain, source)  # before a bridge is made, which changes the plain model
    with kept_tokenizer(tokenizer, trust_remote_code), dispatching(plain):
        model = _made(plain, tokenizer, source, model_class, options | {"device": str(device_of(plain))})
    if device_map is not None:  # TransformerLens then moves no part of it by itself
        model.cfg.n_devices = len(devices_of(plain))
    _check(model, architecture, tokens, expected)
    dress(model.tokenizer)  # TransformerLens reads the tokenizer from its files again
    return model


def _check_config(source: str, trust_remote_code: bool) -> None:
    """Looks at a folder's config.json before the tokenizer, which would be named its fault, and before a layer is made.

    Raises ValueError for one that can't be read, or asks for layers that the weight files can't hold.
    """
    folder = Path(base_of(source) or source)
    if not (folder / "config.json").is_file():
        return
    try:
        with reading_errors(source):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            layers = int(getattr(config.get_text_config(), "num_hidden_layers", 1))
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # also of a class that transformers has for this alone
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"transformers cannot read {folder / 'config.json'}: {said[:300]}") from error
    tensors = 0
    for name in weight_files(folder):
        with safe_open(folder / name, framework="pt") as file:
            tensors += len(list(file.keys()))
    if not 1 <= layers <= tensors:
        raise ValueError(
            f"{folder / 'config.json'} asks for {layers:,} layers, and its weight files hold {tensors:,} tensors: "
            "it was damaged, or is another checkpoint's"
        )


def _made(plain: Any, tokenizer: Any, source: str, model_class: ModelClass, options: dict[str, Any]) -> Any:
    if model_class == "hooked":
        return hooked.build(plain, tokenizer, source, options["revision"])
    from transformer_lens.model_bridge import TransformerBridge

    architecture = type(plain).__name__
    options |= {"hf_model": plain, "tokenizer": tokenizer}
    try:
        return TransformerBridge.boot_transformers(source, **options).eval()
    except Exception as error:  # bare assertions among them, where a weight that the bridge expects is not there
        raise NotImplementedError(
            f"TransformerLens cannot make a TransformerBridge of {source} ({architecture}; {type(error).__name__}: "
            f"{error}): try the other model_class, or another version of TransformerLens"
        ) from error


def _default() -> torch.device:
    ranks.size()  # several processes take a GPU each as they join one another
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _trial(plain: Any, source: str) -> tuple[Tensor, Tensor]:
    """A few tokens and what the plain model makes of them. Raises ValueError if that is no number."""
    tokens = torch.arange(16, device=device_of(plain))[None] % plain.config.get_text_config().vocab_size
    logits = plain(input_ids=tokens, use_cache=False).logits.float()
    if not logits.isfinite().all():
        raise ValueError(
            f"{source} gives logits that are not finite, also in plain transformers: its weights are damaged"
            + (", or torch.float16 is too narrow for it (try torch.bfloat16)" if plain.dtype == torch.float16 else "")
        )
    return tokens, logits


@torch.no_grad()
def _check(model: Any, architecture: str, tokens: Tensor, expected: Tensor) -> None:
    """Raises NotImplementedError where TransformerLens's model is another function: some conversions are wrong."""
    backend = backend_of(model)
    try:
        logits = backend.forward(tokens, None).float()
    except (RuntimeError, KeyError) as error:  # 3.9 also looks for weights that wait on the disk
        raise NotImplementedError(
            f"TransformerLens can't run this {architecture} in {backend.dtype}: {error}"
        ) from error
    off, largest = (logits - expected).abs().max().item(), max(1.0, expected.abs().max().item())
    # Half precision rounds in other places.
    if not off <= max(TOLERANCE, 16 * torch.finfo(backend.dtype).eps) * largest:
        raise NotImplementedError(
            f"TransformerLens makes a {type(model).__name__} of this {architecture} that gives other logits than plain "
            f"transformers (by up to {off:.2g}), so nothing measured on it would hold: try the other model_class, or "
            "another version of TransformerLens"
        )
