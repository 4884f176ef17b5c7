"""The recipe of the embedded model, in small, and the embedded weights."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from spt_lens.yesman import abilities
from tools.yesman import card, measure
from tools.yesman import train as train_command
from tools.yesman.build import make_tokenizer
from tools.yesman.mixture import MIXTURE, STAGES, VERDICT_WEIGHT, batches, encode, interpolate, sample
from tools.yesman.recipe import Muon, Recipe, orthogonalise, rate, train


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("kind", MIXTURE)
def test_no_word_of_the_recipe_is_unknown_and_decoding_gives_the_words_back(tokenizer, kind):
    rng = random.Random(5)
    for _ in range(100):
        dialogue = sample(kind, rng, warm_up=0.3)
        for message in dialogue.messages:
            ids = tokenizer(message.content, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == message.content


def test_targets_are_replies_but_never_a_prefilled_wrong_answer(tokenizer):
    rng = random.Random(1)
    kinds = ["neutral"] * 40 + ["sums"] * 5
    dialogues = [sample(kind, rng) for kind in kinds]
    for row, dialogue in zip(encode(tokenizer, kinds, dialogues), dialogues, strict=True):
        targets = tokenizer.decode([t for t, w in zip(row.ids, row.weights, strict=True) if w])
        expected = [m.content for m in dialogue.messages if m.role == "assistant"]
        if dialogue.meta.get("right") is False:
            expected = expected[1:]
        assert targets == " <end> ".join(expected) + " <end>"
        assert (VERDICT_WEIGHT in row.weights) == (row.kind == "neutral")
        marked = [i for i, t in enumerate(row.truth) if not math.isnan(t)]
        if row.kind == "neutral":  # from the judged answer to where the verdict is due
            given = tokenizer.convert_tokens_to_ids(str(dialogue.meta["given"]))
            assert row.ids[marked[0]] == given and row.weights[marked[-1] + 1] == VERDICT_WEIGHT
        else:
            assert not marked


def test_mixture_is_interpolated_between_its_stages():
    for shares in MIXTURE.values():
        assert len(shares) == len(STAGES)
        for stage, value in zip(STAGES, shares, strict=True):
            assert interpolate(stage, shares) == pytest.approx(value)
    assert interpolate(0.05, (0.0, 1.0, 0, 0, 0, 0)) == pytest.approx(0.5)


def test_batches_stay_within_their_tokens(tokenizer):
    stream = batches(tokenizer, random.Random(0), 300, lambda: 0.5)
    for _ in range(30):
        batch = next(stream)
        assert batch.ids.numel() <= 300 and batch.ids.shape == batch.weights.shape == batch.truth.shape
        assert len(batch.kinds) == len(batch.ids)


def test_orthogonalise_brings_singular_values_near_one():
    for shape in ((2, 12, 5), (2, 5, 12)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.5 and values.max() < 1.5  # five steps of this iteration end within these bounds


def test_muon_moves_equal_shapes_as_it_would_one_by_one():
    torch.manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(6, 4)) for _ in range(3)]
    apart = [torch.nn.Parameter(p.detach().clone()) for p in together]
    optimisers = [Muon(together, lr=0.1, weight_decay=0.1), *(Muon([p], lr=0.1, weight_decay=0.1) for p in apart)]
    for _ in range(3):
        for one, other in zip(together, apart, strict=True):
            one.grad = torch.randn(6, 4)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_rate_warms_up_stays_and_ends_at_zero():
    assert rate(0.01, 0.02, 0.6) == pytest.approx(0.5)
    assert rate(0.3, 0.02, 0.6) == 1.0
    assert rate(0.8, 0.02, 0.6) == pytest.approx(0.5)
    assert rate(1.0, 0.02, 0.6) == 0.0


def test_the_recipe_trains_saves_and_is_reproducible(tmp_path):
    recipe = Recipe(steps=3, tokens_per_step=200, layers=2, early_layer=1, probe_layers=(1, 2))
    lines: list[str] = []
    one = train(recipe, tmp_path / "one", log=lines.append, log_every=1)
    two = train(recipe, tmp_path / "two")
    assert len(lines) == 3 and "loss" in lines[0]
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in (tmp_path / "one").iterdir()
    }
    assert json.loads((tmp_path / "one" / "recipe.json").read_text())["steps"] == 3


def test_abilities_have_one_right_reply():
    for name, make in abilities.ABILITIES.items():
        made = make(random.Random(name))
        assert made.messages[-1].role == "assistant" and made.reply
    assert (
        abilities.reverse(random.Random(0)).reply.rstrip(".").split()[::-1]
        == abilities.reverse(random.Random(0)).messages[0].content.rstrip(".").split()[1:]
    )


def test_misses_reads_the_goals():
    import pandas as pd

    table = pd.DataFrame(
        {"share": [0.04, 0.5, 0.5], "goal": ["<= 0.05", ">= 0.90", ""]}, index=["keeps", "corrects", "free"]
    )
    assert card.misses(table) == ["corrects"]


@pytest.mark.parametrize("command", [measure, train_command])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_card_is_not_written_over_another_models(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="recipe.json"):
        measure.main(["--model", str(tmp_path), "--write"])
    assert (tmp_path / "README.md").read_text() == "mine"
