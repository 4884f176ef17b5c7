from __future__ import annotations

import math

import pytest
import torch

from spt_lens.chat.batches import Examples
from spt_lens.model.targets import logits_of
from spt_lens.tune.training import TuneConfig, fit, validate

VOCAB = 12
# After token a comes a + 1: a table of next-token logits can learn it exactly.
EXAMPLES = [([a, a + 1, a + 2], [False, True, True]) for a in range(1, 9)]
FLAT = {"warmup_share": 0.0, "schedule": "constant", "max_grad_norm": None}


def table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(VOCAB, VOCAB))


def test_learns_and_reports_each_step():
    weight = table()
    config = TuneConfig(lr=0.5, steps=30, batch_size=4, validate_every=20)
    history = fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, validation=EXAMPLES, progress=False)
    assert [row["step"] for row in history] == list(range(31))
    assert history[0]["validation_loss"] == pytest.approx(math.log(VOCAB))
    assert history[1]["loss"] == pytest.approx(math.log(VOCAB))
    measured = [row["step"] for row in history if "validation_loss" in row]
    assert measured == [0, 20, 30]
    assert history[-1]["validation_first"] == history[-1]["validation_reply"] == 1.0


def test_one_step_of_sgd_is_the_gradient_of_the_mean_target_loss():
    weight, by_hand = table(), table()
    config = TuneConfig(lr=0.7, steps=1, batch_size=8, optimizer="sgd", momentum=0.0, **FLAT)
    fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, progress=False)
    sources = torch.tensor([a + i for a in range(1, 9) for i in (0, 1)])
    torch.nn.functional.cross_entropy(by_hand[sources], sources + 1).backward()
    torch.testing.assert_close(weight.detach(), -0.7 * by_hand.grad)


def test_clipping_bounds_the_step_and_the_history_keeps_the_norm_before_it():
    weight = table()
    config = TuneConfig(lr=1.0, steps=1, optimizer="sgd", momentum=0.0, warmup_share=0.0, max_grad_norm=0.01)
    (row,) = fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, progress=False)
    assert row["grad_norm"] > 0.01
    assert weight.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_rate_climbs_and_falls():
    weight = table()
    config = TuneConfig(lr=1e-3, steps=20, warmup_share=0.25)
    rates = [row["lr"] for row in fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, progress=False)]
    assert rates[0] == 0.0 and rates[5] == pytest.approx(1e-3)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)


def test_the_seed_decides_the_run():
    def run(seed: int) -> torch.Tensor:
        weight = table()
        config = TuneConfig(lr=0.1, steps=5, batch_size=3, seed=seed)
        fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, progress=False)
        return weight.detach()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_kl_term_holds_the_model_back():
    def change(kl_weight: float) -> float:
        weight = table()
        config = TuneConfig(lr=0.1, steps=20, kl_weight=kl_weight)
        keep = [[1, 2, 3]] if kl_weight else None
        history = fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, keep=keep, progress=False)
        assert ("kl" in history[-1]) == bool(kl_weight)
        return weight[1:4].detach().abs().sum().item()  # rows that the kept text passes through

    assert change(100.0) < 0.5 * change(0.0)


def test_an_interrupt_is_passed_on_and_the_rows_so_far_are_kept():
    weight, rows, seen = table(), [], []

    def stop() -> None:
        seen.append(weight.abs().sum().item() > 0)  # the step was taken
        if len(rows) == 3:
            raise KeyboardInterrupt

    config = TuneConfig(steps=10, warmup_share=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, after_step=stop, history=rows, progress=False)
    assert [row["step"] for row in rows] == [1, 2, 3] and seen == [True] * 4


def test_a_loss_that_is_not_finite_stops_the_run_before_it_moves_anything():
    weight = table()
    with pytest.raises(FloatingPointError, match="lower lr"):
        fit(logits_of(lambda t: weight[t] / 0.0), [weight], EXAMPLES, TuneConfig(steps=3), progress=False)
    assert torch.equal(weight, torch.zeros(VOCAB, VOCAB))


@pytest.mark.parametrize("config, keep", [(TuneConfig(kl_weight=1.0), None), (TuneConfig(), [[1, 2]])])
def test_a_kl_term_needs_both_weight_and_text(config, keep):
    with pytest.raises(ValueError, match="KL term"):
        fit(logits_of(lambda t: t), [table()], EXAMPLES, config, keep=keep, progress=False)


def test_validation_counts_first_tokens_and_whole_replies():
    weight = torch.zeros(VOCAB, VOCAB)
    for a in range(1, 5):
        weight[a, a + 1] = 1.0  # right after 1 to 4 only
    figures = validate(
        logits_of(lambda t: weight[t]), Examples([([a, a + 1, a + 2], [False, True, True]) for a in range(1, 9)])
    )
    assert figures["validation_first"] == 4 / 8
    assert figures["validation_reply"] == 3 / 8


def test_an_interrupt_while_validating_keeps_the_row_of_the_step_taken(monkeypatch):
    weight, rows = table(), []

    def validate(*args):
        if rows:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr("spt_lens.tune.training.validate", validate)
    config = TuneConfig(steps=3, validate_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(
            logits_of(lambda t: weight[t]),
            [weight],
            EXAMPLES,
            config,
            validation=EXAMPLES,
            history=rows,
            progress=False,
        )
    assert [row["step"] for row in rows] == [0, 1]
