"""The tokenizer of an export: the files of the checkpoint that the model's tokenizer was read from."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from spt_lens.export.folder import copy_file
from spt_lens.model.huggingface import made_by_own_code, read_tokenizer
from spt_lens.model.ranks import warn_caller

# *.py: the code of a checkpoint that has its own, which transformers runs only when it is told to.
FILES = (
    "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "*.model", "*.tiktoken",
    "tekken.json", "chat_template*", "additional_chat_templates/*.jinja", "*.py",
)  # fmt: skip
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def source_folder(tokenizer: Any) -> Path | None:
    """The folder that a tokenizer was read from, for hub names the one in the cache. None if there is none."""
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    if name and Path(name).is_dir():
        return Path(name)
    with suppress(OSError, ValueError):  # not in the cache, or not a name
        return Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True)) if name else None
    return None


def write(tokenizer: Any, source: Path | None, folder: Path) -> None:
    """Writes a live tokenizer as plain transformers reads it.

    TransformerLens reads the tokenizer again with a start token before every text. So the files of `source` are copied,
    with the live chat template and the tokens that were added to the live one. Only where there are no files, or where
    it is another tokenizer, is it saved as it is, with a warning if that puts a start token before every text.

    Raises ValueError for neither a tokenizer nor a source, or if what was written reads back as another tokenizer.
    """
    own_code, plain = made_by_own_code(tokenizer), None
    if source is not None:
        with suppress(OSError, ValueError):  # a folder in the cache that lacks these files
            plain = read_tokenizer(source, trust_remote_code=own_code)
    if tokenizer is None and plain is None:
        raise ValueError("the model has no tokenizer, which an export needs: set model.tokenizer, or pass base=")
    if source is not None and plain is not None and _same_words(plain, tokenizer):
        for file in {file for pattern in FILES for file in source.glob(pattern) if file.is_file()}:
            copy_file(source, str(file.relative_to(source)), folder)
    else:
        saved = tokenizer if plain is None else _with_added(plain, tokenizer)
        added = tokenizer("")["input_ids"]
        if saved is tokenizer and added:
            warn_caller(
                f"the model's tokenizer is not that of {tokenizer.name_or_path or 'any files'}, or these are gone. It "
                f"is saved as TransformerLens holds it, which adds {tokenizer.decode(added)!r} to every text: if the "
                "checkpoint's own does not, copy the checkpoint's tokenizer files into the export"
            )
        saved.save_pretrained(folder)
        if (file := folder / "tokenizer_config.json").is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            known = {key: value for key, value in known.items() if key not in _OF_THIS_MACHINE}
            file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    template, again = _template(tokenizer), read_tokenizer(folder, trust_remote_code=own_code)
    if template and _template(again) != template:
        _write_template(folder, template)
        again = read_tokenizer(folder, trust_remote_code=own_code)
    if not _same_words(again, tokenizer) or (template and _template(again) != template):
        raise ValueError(
            "the tokenizer reads back from its files as another one (other words or another chat template): save "
            "model.tokenizer yourself and see what is lost"
        )


def _write_template(folder: Path, named: dict[str, str]) -> None:
    """As the files that transformers puts before whatever tokenizer_config.json says."""
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    for name, text in named.items():
        file = folder / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _with_added(plain: Any, live: Any) -> Any:
    """The checkpoint's own tokenizer with the tokens that were added to the live one; that itself if it is another."""
    known = plain.get_vocab()
    plain.add_tokens([token for _, token in sorted(live.added_tokens_decoder.items()) if token.content not in known])
    return plain if _same_words(plain, live) else live


def _same_words(one: Any, other: Any) -> bool:
    return other is None or one.get_vocab() == other.get_vocab()


def _template(tokenizer: Any) -> dict[str, str]:
    """Chat templates by name. Without carriage returns, which reading a file drops too."""
    found = getattr(tokenizer, "chat_template", None) or {}
    named = {"default": found} if isinstance(found, str) else found
    return {name: text.replace("\r\n", "\n") for name, text in named.items()}
