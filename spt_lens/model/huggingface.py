"""The one way to a checkpoint's config, tokenizer and weights. None of its own code runs unless the user allows it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from spt_lens import saving
from spt_lens.checking import instance
from spt_lens.model import adapter_folders, gguf, tied
from spt_lens.model.folders import ELSEWHERE, INDEX, SINGLE, check_folder, check_safetensors
from spt_lens.model.ranks import warn_caller

_PACKAGE = Path(__file__).parents[1]
# Models with a short name: what the hub calls each, and what the one that `make` brings is called. They are not the
# same: that of SmolLM2 is read from a 4-bit GGUF file.
SHORT_NAMES = {"smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-Q4_1")}


def embedded_folder(name: str) -> Path:
    """Where the embedded model of that name is, or would be: in the folder "weights" of the package of that name."""
    return _PACKAGE / name / "weights"


def brought_folder(name: str) -> Path | None:
    """Where the model of that short name lies, if `make` has brought it.

    Looked for in the folder that the environment variable SPT_LENS_MODELS names; without one, in models/ of the current
    directory and of the repository.
    """
    named = os.environ.get("SPT_LENS_MODELS")
    places = [Path(named).expanduser()] if named else [Path("models"), _PACKAGE.parent / "models"]
    found = [(place / name).absolute() for place in places if (place / name).is_dir()]
    return found[0] if found and name in SHORT_NAMES else None


def name_of(source: str | Path) -> str:
    """What a model is called: by the last part of its folder, file or hub name, an embedded one by its own name."""
    folder = Path(source)
    if folder.name in SHORT_NAMES and folder == brought_folder(folder.name):
        return SHORT_NAMES[folder.name][1]
    return folder.parent.name if folder == embedded_folder(folder.parent.name) else folder.name


def _known() -> str:
    names = sorted(f'"{folder.parent.name}"' for folder in _PACKAGE.glob("*/weights") if folder.is_dir())
    return f"an embedded model ({', '.join(names) or 'there is none in this installation'})"


def checked_source(name_or_path: str | Path) -> str:
    """The folder or hub name that `transformers` should load. A folder's files have been checked.

    Raises: TypeError for neither text nor a path; FileNotFoundError for a path that does not exist, or a folder without
    config.json and safetensors; ValueError for a damaged file or an empty name; ImportError for a GGUF file or a PEFT
    adapter without the package that reads it.
    """
    way_out = f"name {_known()}, a local folder, a .gguf file or a model on the Hugging Face hub"
    instance(name_or_path, "a model's name", (str, Path), way_out)
    text = str(name_or_path).strip()
    if not text or "\0" in text:
        raise ValueError(f"{str(name_or_path)!r} is no name of a model: {way_out}")
    path = Path(name_or_path).expanduser()
    if isinstance(name_or_path, str) and text.isidentifier() and embedded_folder(text).is_dir():
        path = embedded_folder(text)
    elif isinstance(name_or_path, str) and text in SHORT_NAMES:
        brought = brought_folder(text)
        path, text = brought or Path(SHORT_NAMES[text][0]), SHORT_NAMES[text][0]
    if path.exists():
        if gguf.is_gguf(path):
            gguf.check_gguf(path)
        elif adapter_folders.is_adapter(path):
            base_of(path)
        else:
            check_folder(path)
        return str(path.absolute())  # an export looks there again, perhaps from another working directory
    if isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{path} does not exist: {way_out}")
    return text


def base_of(source: str | Path) -> str | None:
    """What the PEFT adapter in a folder is merged into: a folder, file or hub name, checked. None without an adapter.

    Raises: as `check_adapter` and, for the base, `checked_source`; ValueError if that holds an adapter too.
    """
    if not adapter_folders.is_adapter(source):
        return None
    folder = Path(source)
    alone = not any((folder / name).is_file() for name in (SINGLE, INDEX))
    base = adapter_folders.check_adapter(folder, alone)
    check_safetensors(folder / adapter_folders.WEIGHTS)
    if not alone:
        check_folder(folder)
        return base
    named = f"the base model that {folder / adapter_folders.CONFIG} names"
    if adapter_folders.is_adapter(Path(base).expanduser()):
        raise ValueError(
            f"{named} ({base}) is an adapter too: merge that one first, by export_hf(load_model(...), ...)"
        )
    try:
        return checked_source(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{named} is not there ({error}): {adapter_folders.NAME_IT}") from error


def read_config(source: str | Path) -> Any:
    """A checkpoint's config. Raises ValueError for one that transformers cannot read without the checkpoint's code."""
    place, option = gguf.where(base_of(source) or source)
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **option)
    except saving.DAMAGE as error:
        raise _not_read(source, error) or ValueError(
            f"transformers cannot read the config.json of {source}: {_first_line(error)}"
        ) from error


def _not_read(source: str | Path, error: Exception) -> ValueError | None:
    """The error for a GGUF file of an architecture, or with a tokenizer, that transformers has no reader for."""
    if not gguf.is_gguf(source):
        return None
    return ValueError(
        f"transformers cannot read the GGUF file {source} ({_first_line(error)}): take the checkpoint that it was made "
        "from, as a Hugging Face folder"
    )


def read_tokenizer(source: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A checkpoint's tokenizer. One that cannot be read is an error, and no model without a tokenizer.

    Raises: ValueError if its files are damaged, or need the checkpoint's own code; OSError if the hub did not give it.
    """
    place, option = gguf.where(source)
    if adapter_folders.is_adapter(source) and not (Path(source) / "tokenizer_config.json").is_file():
        place, option = gguf.where(base_of(source) or source)
    try:
        found = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code, **option)
    except OSError as error:
        raise not_there(source, error) from error
    except Exception as error:  # the tokenizers package raises plain Exceptions for broken files
        raise _not_read(source, error) or ValueError(
            f"the tokenizer of {source} cannot be read: {_first_line(error)}"
        ) from error
    if not isinstance(found.model_max_length, int | float):
        raise ValueError(f"the tokenizer of {source} says model_max_length={found.model_max_length!r}: it was damaged")
    if option:
        # Not the folder, which holds no tokenizer.
        found.name_or_path = found.init_kwargs["name_or_path"] = str(source)
    return found


@contextmanager
def reading_errors(source: str | Path) -> Iterator[None]:
    """What transformers raises on a checkpoint, as errors that say what is wrong with it."""
    try:
        yield
    except ImportError as error:  # of what reads GPTQ, AWQ and the like
        raise ImportError(
            f"{source} is stored in a way that another package reads ({_first_line(error)}): take the checkpoint that "
            "it was made from, whose weights are ordinary numbers"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"the weights of {source} do not fit its config.json: {error}") from error
    except OSError as error:
        raise not_there(source, error) from error
    except saving.DAMAGE as error:  # a config.json of another kind of model, or of one that transformers lacks
        raise _not_read(source, error) or ValueError(
            f"transformers cannot load {source} as a causal language model: {_first_line(error)}"
        ) from error


def read_model(
    source: str | Path,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    **where: Any,
) -> Any:
    """The plain transformers model of a checkpoint, on the CPU, with a warning about weights that it has no place for.

    where: what transformers takes to put its layers elsewhere (`devices.places_for`).

    Not loaded by TransformerLens: only transformers' own report says which weights were missing, and left at random
    values.

    Raises: ValueError if the weights do not fit the config, some are missing, or it needs the checkpoint's own code;
    OSError if the hub did not give it.
    """
    options: Any = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code, **where}
    options["use_safetensors"] = True  # of a hub name too: never what is pickled
    options["attn_implementation"] = "eager"  # the only kind that shows its pattern to hooks
    base = base_of(source)
    place, option = gguf.where(base or source)
    with reading_errors(source), no_loading_bar(), gguf.quiet(), adapter_folders.without_adapter(place) as place:
        if not option:  # a config goes before keywords, and may ask for a kernel of the hub's, or for other files
            known = {"revision": revision, "trust_remote_code": trust_remote_code}
            config = options["config"] = AutoConfig.from_pretrained(place, **known)
            vars(config).pop(ELSEWHERE, None)
        plain, report = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True, **options, **option)
    missing, left_over = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise ValueError(
            f"the checkpoint {source} lacks {len(missing)} weights of its config.json, first {missing[0]}. "
            "They would be random: download or save it again."
        )
    if left_over:
        warn_caller(
            f"{len(left_over)} weights of {source}, first {left_over[0]}, have no place in its config.json and are "
            "left out: see that the two belong together"
        )
    if getattr(plain, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{source} is a PEFT adapter on the hub: bring it into a folder (hf download {source} --local-dir FOLDER) "
            "and load that, then it is merged"
        )
    plain = tied.as_stored(gguf.unmarked(plain), source)
    return plain if base is None else adapter_folders.merged(plain, Path(source), base)


def made_by_own_code(thing: Any) -> bool:
    """Whether a model or a tokenizer is of a class of its checkpoint's own code, which the user allowed to run."""
    return type(thing).__module__.partition(".")[0] == "transformers_modules"


def not_there(source: str | Path, error: Exception, wanted: str = "load") -> OSError:
    """The error for a name that the hub did not give."""
    short = [name for name, (hub, _) in SHORT_NAMES.items() if hub == str(source)]
    brought = f"`make {short[0]}` in the repository brings a copy without it." if short else ""
    return OSError(
        f"cannot {wanted} {str(source)!r}: it is neither {_known()} nor a local folder, and the hub did not give it "
        f"({_first_line(error)}). {brought or 'Check the name, or pass the path of a folder.'}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
