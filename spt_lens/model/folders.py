"""Whether a folder is a whole checkpoint that names no file but its own. Of the weights, headers alone are read."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spt_lens import saving
from spt_lens.checking import beside

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
ELSEWHERE = "transformers_weights"  # of a config: files of weights by names of their own, which may be anywhere


def check_folder(folder: Path) -> None:
    """Checks that a folder is a whole Hugging Face checkpoint. Of the weights, reads headers only."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is a file: pass the folder that holds config.json and the weights, or a .gguf file"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint")
    if not any(found for kind in ("tokenizer*", "vocab*", "*.model", "*.tiktoken") for found in folder.glob(kind)):
        raise FileNotFoundError(f"{folder} has no tokenizer: save the checkpoint's tokenizer into the same folder")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            said = json_object(folder / name)
            beside(folder / name, said.get("fast_tokenizer_files"))
            if said.get(ELSEWHERE):  # transformers would read these, whatever else is there
                raise ValueError(
                    f"{folder / name} names files of weights of its own ({ELSEWHERE}): take that out, and call them "
                    f"{SINGLE}, or name them in {INDEX}"
                )
    for name in weight_files(folder):
        check_safetensors(folder / name)


def weight_files(folder: Path) -> tuple[str, ...]:
    """The files that transformers reads a folder's weights from: the single one, if it is there.

    Raises FileNotFoundError if one is missing, ValueError for a damaged index.
    """
    index, files = folder / INDEX, [SINGLE]
    if index.is_file() and not (folder / SINGLE).is_file():
        names = json_object(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"{index} names no weight files: download or save it again")
        files = sorted(set(names.values()))
        beside(index, files)
    if gone := [file for file in files if not (folder / file).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {gone[0]} (pickled weights are not read, only safetensors)")
    return tuple(files)


def json_object(file: Path) -> dict[str, Any]:
    data = saving.read_json(file, "JSON")
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
