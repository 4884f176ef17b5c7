"""Trains the embedded model from scratch by its recipe, about 25 minutes on two cores: `make train-yesman`."""

from __future__ import annotations

import argparse
from pathlib import Path

from spt_lens.saving import writable
from tools.yesman.recipe import Recipe, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("yesman-retrained"), help="the folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the data")
    asked = parser.parse_args(arguments)
    train(Recipe(seed=asked.seed), writable(asked.out, "the model"), log=print)
    print(f"The model is in {asked.out}. Measure it: python -m tools.yesman.measure --model {asked.out}")


if __name__ == "__main__":
    main()
