"""What transformers 5 says in words of its own, said again in those that older readers know.

transformers 4 and converters that read config.json themselves look for `rope_theta`, `rope_scaling` and the like. What
they do not find they take as their default, and so another model, without a word. transformers 5 reads either.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spt_lens import saving
from spt_lens.model.huggingface import read_config, read_tokenizer

# Of theta and of the share of a head's dimensions that turns, where they are not `rope_theta` and the usual one.
_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
# These take a scaling of exactly these keys.
_STRICT = {"phi3": ("short_factor", "long_factor"), "olmo": ("factor",), "olmo2": ("factor",)}


def say_again(folder: Path) -> None:
    """Adds the older names of RoPE settings to a config.json, and respells the tokenizer's where both can read them.

    What transformers makes of the folder here is the same, or the file stays as it is; so does one that says it all.
    """
    config = saving.read_json(folder / "config.json", "config")
    if "auto_map" not in config:  # what a checkpoint's own code reads is not known
        more = {key: value for key, value in older_rope(config).items() if key not in config}
        _change(folder / "config.json", config, config | more, lambda: _rope(folder))
    file = folder / "tokenizer_config.json"
    known = saving.read_json(file, "config") if file.is_file() else {}
    if known.get("tokenizer_class") == "TokenizersBackend":
        again = known | {"tokenizer_class": "PreTrainedTokenizerFast"}
        if isinstance(known.get("extra_special_tokens"), list) and "additional_special_tokens" not in known:
            again["additional_special_tokens"] = again.pop("extra_special_tokens")
        _change(file, known, again, lambda: _words(read_tokenizer(folder)))


def older_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `rope_parameters` under older names; none where these can't say them."""
    found, kind = config.get("rope_parameters"), config.get("model_type")
    if not isinstance(found, dict):
        return {}
    if not any(isinstance(value, dict) for value in found.values()):
        return _flat(found, str(kind))
    local = found.get("sliding_attention") or {}  # settings for each kind of layers
    if kind != "gemma3_text" or local.get("rope_type", "default") != "default" or not found.get("full_attention"):
        return {}
    return _flat(found["full_attention"], kind) | {"rope_local_base_freq": local.get("rope_theta")}


def _flat(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    theta, share = _NAMES.get(kind, ("rope_theta", "partial_rotary_factor"))
    names = {"rope_theta": theta, "partial_rotary_factor": share}
    said = {names[key]: value for key, value in found.items() if key in names}
    way = found.get("rope_type", found.get("type", "default"))
    if way != "default":
        scaling = {key: value for key, value in found.items() if key not in (*names, "type", "rope_type")}
        strict = _STRICT.get(kind)
        scaling = scaling if strict is None else {key: value for key, value in scaling.items() if key in strict}
        said["rope_scaling"] = {"rope_type" if strict is None else "type": way, **scaling}
    return said


def _rope(folder: Path) -> Any:
    found = getattr(read_config(folder), "rope_parameters", None) or {}
    return {key: value for key, value in found.items() if key != "type"}  # as `rope_type`, which is always there


def _words(tokenizer: Any) -> tuple[str, Any, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (type(tokenizer).__name__, backend and backend.to_str(), tokenizer.special_tokens_map)


def _change(file: Path, known: Mapping[str, Any], again: Mapping[str, Any], read: Callable[[], Any]) -> None:
    if again == known:
        return
    before, own = read(), file.read_bytes()
    file.write_text(json.dumps(again, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    try:
        same = read() == before
    except ValueError:  # it can't be read so
        same = False
    if not same:
        file.write_bytes(own)
