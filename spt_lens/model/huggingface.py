"""spt_lens.model.huggingface."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

EMBEDDED = Path(__file__).parents[1] / "yesman" / "weights"


def _tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Read here, so that one that is there but cannot be read is an error, and not a model without a tokenizer."""
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise not_there(source, error) from error
    except Exception as error:  # the tokenizers package raises plain Exceptions for broken files
        raise ValueError(f"the tokenizer of {source} cannot be read: {error}") from error


def not_there(source: str, error: Exception, wanted: str = "load") -> OSError:
    """The error for a name that the hub did not give."""
    return OSError(
        f'cannot {wanted} {source!r}: it is neither the embedded model "yesman" nor a local folder, and the hub '
        f"did not give it ({str(error).splitlines()[0]}). Check the name, or pass the path of a folder."
    )


def _plain(source: str, dtype: torch.dtype, revision: str | None, trust_remote_code: bool) -> Any:
    """The plain transformers model of a checkpoint. Not loaded by TransformerLens: only transformers' own report says
    which weights were missing, and left at random values."""
    with no_loading_bar():
        try:
            plain, report = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation="eager",  # the only kind that shows its pattern to hooks
                revision=revision,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except RuntimeError as error:
            raise ValueError(f"the weights of {source} do not fit its config.json: {error}") from error
        except OSError as error:
            raise not_there(source, error) from error
        except ValueError as error:  # a config.json of another kind of model, or of one that transformers lacks
            raise ValueError(
                f"transformers cannot load {source} as a causal language model: {str(error).splitlines()[0]}"
            ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"the checkpoint {source} lacks {len(missing)} weights of its config.json, first {missing[0]}. "
            "They would be random: download or save it again."
        )
    left_over = sorted(report["unexpected_keys"])
    if left_over:
        warnings.warn(
            f"{len(left_over)} weights of {source}, first {left_over[0]}, have no place in its config.json and are "
            "left out: see that the two belong together",
            stacklevel=3,
        )
    return plain


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Without transformers' bar of weights, which would come once for every model that is made."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def checked_source(name_or_path: str | Path) -> str:
    """The folder or hub name that `transformers` should load. A folder's files have been checked.

    Raises:
        FileNotFoundError: The path does not exist, or it is not a folder with config.json and safetensors.
        ValueError: A safetensors file is damaged, or the name is empty.
    """
    if str(name_or_path) == "yesman":
        if not EMBEDDED.is_dir():
            raise FileNotFoundError(f'the embedded model "yesman" is not in {EMBEDDED}: run `spt-lens train-yesman`')
        check_folder(EMBEDDED)
        return str(EMBEDDED)
    text = str(name_or_path).strip()
    if not text:
        raise ValueError('an empty model name: use "yesman", a local folder or a name on the Hugging Face hub')
    path = Path(name_or_path).expanduser()
    looks_local = isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    if path.exists():
        check_folder(path)
        return str(path.absolute())  # an export looks there again, perhaps from another working directory
    if looks_local:
        raise FileNotFoundError(f'{path} does not exist. Known by name: "yesman"; else a local folder or a hub name.')
    return text


def check_folder(folder: Path) -> None:
    """Checks that a folder is a whole Hugging Face checkpoint. Of the weights, reads headers only."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is a file: pass the folder that holds config.json and the weights")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint")
    if not any(found for kind in ("tokenizer*", "vocab*", "*.model", "*.tiktoken") for found in folder.glob(kind)):
        raise FileNotFoundError(f"{folder} has no tokenizer: save the checkpoint's tokenizer into the same folder")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            _json_object(folder / name)
    files, index = [folder / "model.safetensors"], folder / "model.safetensors.index.json"
    if index.is_file() and not files[0].is_file():  # as transformers does, which takes the single file where both are
        names = _json_object(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"{index} names no weight files: download or save it again")
        files = [folder / name for name in sorted(set(names.values()))]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{folder} lacks {file.name} (pickled weights are not read, only safetensors)")
        check_safetensors(file)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or not text at all
        raise ValueError(f"{file} is truncated or damaged ({error}): download or save it again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} is damaged (it holds no JSON object): download or save it again")
    return data


def check_safetensors(file: Path) -> None:
    """Raises ValueError when a safetensors file is truncated or not one: its header must match its size."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}): download or save it again") from error
