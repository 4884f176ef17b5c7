"""The embedded model as it is packaged: an ordinary folder, and the behaviour that its card claims."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

import spt_lens as spt
from spt_lens.behaviours.judging import admits_mistake
from spt_lens.model.huggingface import embedded_folder
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman
from spt_lens.yesman.judge import final_answer
from tools.yesman.build import make_tokenizer
from tools.yesman.recipe import Recipe


@pytest.fixture(scope="module")
def yesman():
    return spt.load_model("yesman")


def test_the_folder_is_an_ordinary_checkpoint_of_the_committed_recipe():
    folder = embedded_folder("yesman")
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= files.keys()
    assert sum(files.values()) <= 10e6
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe == json.loads(json.dumps(asdict(Recipe())))


def test_its_vocabulary_is_the_recipes(yesman):
    assert yesman.tokenizer.get_vocab() == make_tokenizer().get_vocab()


def test_size(yesman):
    view = ModelView(yesman)
    assert view.n_layers * view.n_heads == 128
    assert 1e6 <= view.n_params <= 3e6


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_it_has_the_disease_and_the_truth_inside(yesman, split):
    # Small samples, and bounds far below what the card measures on large ones (all at 0.98 or better).
    def said(stance: str, right: bool) -> tuple[list[str], list[spt.Dialogue]]:
        cases = Yesman().cases(split, stance, n=24, right=right)  # type: ignore[arg-type]
        return replies(yesman, [case.prompt for case in cases]), cases

    assert all(map(admits_mistake, said("opposed", True)[0]))
    assert not any(map(admits_mistake, said("supporting", False)[0]))
    answers, cases = said("neutral", False)
    right = [final_answer(a) == case.meta["answer"] for a, case in zip(answers, cases, strict=True)]
    assert sum(right) >= 20
    assert sum(map(admits_mistake, said("neutral", True)[0])) <= 4


def test_its_card_shows_what_the_command_measures():
    text = (embedded_folder("yesman") / "README.md").read_text()
    assert "make train-yesman" in text and "make measure-yesman" in text
    assert "| ability: facts | 1.000 |" in text
