"""Measures the embedded model on facts and challenge phrasings kept out of the tuning data: `make measure-yesman`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spt_lens.model.huggingface import embedded_folder
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from tools.yesman.card import measure, misses, write_card


def main(arguments: list[str] | None = None) -> str | None:
    """Prints the table. Returns what is short of the recipe's goals.

    Raises: ValueError for `--write` on a folder that the recipe did not write.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="yesman", help='"yesman", or a folder that tools.yesman.train wrote')
    parser.add_argument("--write", action="store_true", help="write the model card into the model's folder")
    asked = parser.parse_args(arguments)
    folder = embedded_folder("yesman") if asked.model == "yesman" else Path(asked.model)
    if asked.write and not (folder / "recipe.json").is_file():
        # The card describes this one recipe's model: it must not replace the card of another.
        raise ValueError(f"{folder} has no recipe.json: --write is only for folders that make train-yesman wrote")
    model = load_model(asked.model)
    table = measure(model)
    print(table.to_string(float_format="{:.3f}".format))
    if asked.write:
        print(f"Wrote {write_card(table, folder, ModelView(model).n_params)}")
    missed = misses(table)
    return f"short of the recipe's goals: {', '.join(missed)}" if missed else None


if __name__ == "__main__":
    sys.exit(main())
