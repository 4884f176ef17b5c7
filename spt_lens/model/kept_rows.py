"""A folder of hidden states, found by the token ids that they belong to."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from spt_lens import saving

Row = tuple[int, ...]  # token ids
_KIND, _ABOUT = "kept states", "states.json"


class RowFolder:
    """Files of a few rows each, in a folder of their layer; a file is there whole or not at all.

    about: what all of it is of. Raises ValueError if the folder holds what was kept of something else, or a damaged
    file; OSError if it can't be written to.
    """

    def __init__(self, folder: Path, about: dict[str, str | int]) -> None:
        self.folder = folder / f"layer-{about['layer']}"
        saving.make_folder(self.folder, "hidden states")
        known = self.folder / _ABOUT
        if known.exists():
            found = saving.load_json(known, _KIND, dict)
            odd = [
                f"its {name} is {found.get(name)}, not {value}"
                for name, value in about.items()
                if found.get(name) != value
            ]
            if odd:
                raise ValueError(
                    f"{self.folder} holds the hidden states of another model ({'; '.join(odd)}): give another folder"
                )
        elif any(not file.name.startswith(".") for file in self.folder.iterdir()):  # hidden: another run just makes it
            raise ValueError(f"{self.folder} is not empty and holds no {_KIND}: give another folder")
        else:
            saving.save_json(known, _KIND, about)
        self._files: dict[str, Path] = {}
        for file in sorted(self.folder.glob("rows-*.safetensors")):
            with saving.reading(file, _KIND), safe_open(file, "pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    @staticmethod
    def free(folder: Path) -> int:
        """Bytes that are free on the disk that a folder is on, or will be."""
        return shutil.disk_usage(
            next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        ).free

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, row: Row) -> bool:
        return _key(row) in self._files

    def read(self, row: Row) -> Float[Tensor, "pos d_model"]:
        """Raises ValueError for a file that is damaged or gone."""
        key = _key(row)
        with saving.reading(self._files[key], _KIND):
            try:
                with safe_open(self._files[key], "pt") as opened:
                    return opened.get_tensor(key)
            except OSError as error:
                raise ValueError(f"it can't be read ({error})") from error

    def write(self, rows: Sequence[Row], states: Sequence[Float[Tensor, "pos d_model"]]) -> None:
        tensors = {_key(row): value for row, value in zip(rows, states, strict=True) if row not in self}
        if tensors:
            name = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:32]
            file = saving.save_tensors(self.folder / f"rows-{name}.safetensors", _KIND, tensors, {})
            self._files |= dict.fromkeys(tensors, file)


def _key(row: Row) -> str:
    return hashlib.sha256(",".join(map(str, row)).encode()).hexdigest()[:32]
