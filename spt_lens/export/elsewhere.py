"""An export as another Python's transformers reads it, held against the one here: `export_hf(..., check_with=)`."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spt_lens.checking import a_path
from spt_lens.export import reader
from spt_lens.export.parity import Parity
from spt_lens.model.huggingface import no_loading_bar, read_config

LONGEST = 256  # tokens, so that positions count


def check_python(python: str | Path) -> tuple[str, str]:
    """Where that Python is, and its transformers' version.

    Raises: TypeError for no path; FileNotFoundError where there is none; ValueError if it lacks what is needed.
    """
    way_out = "give the path of one in an environment with transformers, torch and safetensors"
    named = a_path(python, "check_with").expanduser()
    place = shutil.which(os.path.abspath(named) if named.exists() else named)  # else one of the PATH
    if place is None:
        raise FileNotFoundError(f"check_with={str(python)!r} is no Python that can be run: {way_out}")
    try:
        done = _run(place, "import safetensors, torch, transformers; print(transformers.__version__)")
    except OSError as error:
        raise ValueError(f"check_with={str(python)!r} can't be run ({error.strerror}): {way_out}") from error
    if done.returncode or not re.fullmatch(r"\d+\.\d+.*", _last(done.stdout)):
        raise ValueError(f"check_with={str(python)!r} can't be used ({_last(done.stderr)}): {way_out}")
    return place, _last(done.stdout)


def told(folder: Path, other: tuple[str, str] | None) -> str:
    """What the reader that `check_python` found makes of a folder, as a line. Raises as `check_elsewhere`."""
    if other is None:
        return ""
    parity = check_elsewhere(folder, *other)
    return f"in transformers {other[1]} logits within {parity.difference:.2g} of those here ({parity.allowed:.2g})"


def check_elsewhere(folder: Path, python: str, version: str) -> Parity:
    """Compares what both make of a folder: the logits of one long prompt, and a text's tokens.

    Takes the memory of one model here and, after that, one there, on the CPU. Raises RuntimeError if they differ.
    """
    whose = f"of transformers {version} ({python})"
    config = read_config(folder).get_text_config()
    length = min(LONGEST, getattr(config, "max_position_embeddings", None) or LONGEST)
    tokens = torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="spt_lens-") as temporary, no_loading_bar():
        asked, here, there = (os.path.join(temporary, name) for name in ("asked", "here", "there"))
        save_file({"tokens": tokens}, asked)
        reader.read(str(folder), asked, here)
        done = _run(python, Path(reader.__file__).read_text(encoding="utf-8"), str(folder), asked, there)
        if done.returncode:
            raise RuntimeError(f"the export can't be read by the reader {whose}: {_last(done.stderr)}")
        ours, theirs = load_file(here), load_file(there)
    if not torch.equal(ours["ids"], theirs["ids"]):
        raise RuntimeError(f"the export's tokenizer gives other tokens to the reader {whose} than to the one here")
    off, largest = float((ours["logits"] - theirs["logits"]).abs().max()), float(ours["logits"].abs().max())
    parity = Parity(off, largest, config.dtype or torch.float32, config.num_hidden_layers)
    if not parity.holds:
        raise RuntimeError(
            f"the export is another model to the reader {whose}: logits differ by up to {off:.2g}, allowed is "
            f"{parity.allowed:.2g}. Its config.json says something that only one of them understands"
        )
    return parity


def _run(python: str, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="spt_lens-") as empty:  # with -c, modules of the current folder go first
        return subprocess.run(
            [python, "-c", text, *arguments],
            cwd=empty,
            env=offline,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )


def _last(text: str) -> str:
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
