"""Folders with a PEFT adapter: alone, or beside the weights of its base model. It is merged when it is loaded.

Left live, transformers would run it inside of the model: its heads' weights would not be those that count, and an
export would lack it.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open

from spt_lens import saving
from spt_lens.checking import beside

CONFIG, WEIGHTS, TOKENIZER = "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"
NAME_IT = "write its folder or hub name there as base_model_name_or_path"


def is_adapter(source: str | Path) -> bool:
    """Whether a checkpoint is a local folder with a PEFT adapter in it."""
    return (Path(source) / CONFIG).is_file()


def check_adapter(folder: Path, alone: bool) -> str:
    """Checks the adapter in a folder, and that it can be merged. Returns its base: the folder, or what it names.

    Args: alone: there are no weights beside it.

    Raises: ImportError without the package peft; FileNotFoundError if its weights are not there; ValueError for a
    damaged one, one of another kind than LoRA, or one that names no base.
    """
    if find_spec("peft") is None:
        raise ImportError(
            f"{folder} holds a PEFT adapter, which the package peft merges: pip install 'spt-lens[lora]', or move "
            f"{CONFIG} away to load what else is in the folder"
        )
    about = saving.read_json(folder / CONFIG, "PEFT adapter")
    kind = about.get("peft_type") if isinstance(about, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{folder / CONFIG} is damaged (it names no peft_type): download or save it again")
    if kind != "LORA":
        raise ValueError(
            f"the adapter in {folder} is of the kind {kind[:40]}, and only LoRA is merged: where it changes weights, "
            "merge it by peft (merge_and_unload), save the model and load that"
        )
    if about.get("megatron_config"):  # peft would import the module that the file names beside it
        raise ValueError(f"{folder / CONFIG} is of Megatron's layers: save the adapter without megatron_config")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder} has {CONFIG} but no {WEIGHTS} (pickled weights are not read, only safetensors): save the "
            f"adapter again, or move {CONFIG} away if the folder's weights are merged already"
        )
    file = folder / TOKENIZER
    own = saving.read_json(file, "JSON") if file.is_file() else {}
    if isinstance(own, dict):
        beside(file, own.get("fast_tokenizer_files"))
    base = about.get("base_model_name_or_path") if alone else str(folder)
    if not isinstance(base, str) or not base.strip():
        raise ValueError(f"{folder / CONFIG} does not name the model that it was made for: {NAME_IT}")
    return base


@contextmanager
def without_adapter(place: str) -> Iterator[str]:
    """The place itself, or, of a folder with an adapter, one with the same files but the adapter's.

    From that, transformers loads the base alone.
    """
    if not is_adapter(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="spt_lens-") as base:
        for file in Path(place).iterdir():
            if not file.name.startswith("adapter_"):
                os.symlink(file.absolute(), Path(base) / file.name)
        yield base


def merged(plain: Any, folder: Path, base: str) -> Any:
    """The plain model with the adapter's change in its own weights.

    Raises: ValueError if the adapter does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings(), safe_open(folder / WEIGHTS, framework="pt") as file:
            warnings.simplefilter("ignore")  # what of an adapter has no place is looked for here
            tuned = PeftModel.from_pretrained(plain, str(folder), is_trainable=False)
            odd = sorted(set(file.keys()) ^ get_peft_model_state_dict(tuned).keys())
            if odd:
                raise ValueError(f"{len(odd)} of its weights have no place there or are missing, first {odd[0]}")
            found = tuned.merge_and_unload(safe_merge=True)
    except Exception as error:  # peft raises whatever comes of weights or modules that are not there
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"the adapter in {folder} can't be merged into {base} ({why[:300]}): see that it was made for that model"
        ) from error
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(found).pop(name, None)
    return found
