"""Greedy replies in batches of mixed lengths."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.model.replies import Reply, replies, replies_and_cut
from spt_lens.model.view import OVER_KEPT, ModelView

ASKED = [
    dialogue("Hello!"),
    dialogue("What is the capital of France?"),
    dialogue("Who are you?"),
    dialogue("What is the capital of Spain?"),
    dialogue("Hello!", "Hello! How can I help you?", "Repeat apple river."),
]


def by_hand(model, asked, steps: int) -> str:
    """One dialogue, one whole forward pass for each token."""
    ids = prompt_ids(model.tokenizer, asked)
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new]))[0, -1].argmax()))
        if new[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 64])
def test_order_is_kept_and_batches_change_nothing(tiny, batch_size):
    expected = [by_hand(tiny, asked, 6) for asked in ASKED]
    assert replies(tiny, ASKED, max_new_tokens=6, batch_size=batch_size) == expected
    assert len(set(expected)) > 1


def test_a_reply_ends_before_its_end_token(tiny, monkeypatch):
    word = tiny.tokenizer.convert_tokens_to_ids(["Yes", "sure", "<end>", "Paris", "<pad>"])
    monkeypatch.setattr(ModelView, "generate", lambda self, rows, n, hooks: torch.tensor([word] * len(rows)))
    assert replies(tiny, ASKED[:2]) == ["Yes sure", "Yes sure"]


def test_errors_and_nothing_to_do(model_class, tiny):
    assert replies(tiny, []) == []
    with pytest.raises(ValueError, match="user turn"):
        replies(tiny, [dialogue("Hello!", "Hello!")])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        replies(tiny, ASKED, max_new_tokens=0)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        replies(tiny, ASKED)


def test_a_reply_says_whether_it_was_cut(tiny, monkeypatch):
    word = tiny.tokenizer.convert_tokens_to_ids(["Yes", "sure", "Paris", "<end>", "<pad>"])
    rows = [word[:3], [*word[:2], word[3]], [word[3], word[4], word[4]]]
    monkeypatch.setattr(ModelView, "generate", lambda self, prompts, n, hooks: torch.tensor(rows))
    expected = [Reply("Yes sure Paris", cut=True), Reply("Yes sure", cut=False), Reply("", cut=False)]
    assert replies_and_cut(tiny, ASKED[:1] * 3, 3) == expected
    assert replies(tiny, ASKED[:1] * 3, 3) == ["Yes sure Paris", "Yes sure", ""]


def test_hooks_act_as_on_each_prompt_alone(gqa):
    """At the last position, at all of them, at one counted from the start: what people write sees no padding."""

    def last(z, hook):
        z = z.clone()
        z[:, -1, 1] *= -3
        return z

    def everywhere(z, hook):
        z = z.clone()
        z[:, :, 2] = 0.5
        return z

    def third(value, hook):
        if value.shape[1] > 1:
            value = value.clone()
            value[:, 2] *= -2
        return value

    def first_only(pattern, hook):
        pattern = pattern.clone()
        pattern[..., 1:] = 0
        return pattern

    plain = replies(gqa, ASKED, 6)
    for hook in (
        ("blocks.0.attn.hook_z", last),
        ("blocks.1.attn.hook_z", everywhere),
        ("blocks.1.hook_resid_pre", third),
        ("blocks.1.attn.hook_pattern", first_only),
    ):
        expected = [replies(gqa, [asked], 6, [hook])[0] for asked in ASKED]
        assert expected != plain
        assert replies(gqa, ASKED, 6, [hook]) == expected


def test_hooks_of_the_users_own_on_the_model_see_no_padding_either(tiny):
    expected = replies(tiny, ASKED, 6)
    seen = set()

    def look(value, hook):
        seen.add(tuple(value.shape[:2]))

    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", look)]):
        assert replies(tiny, ASKED, 6) == expected
    lengths = {len(prompt_ids(tiny.tokenizer, asked)) for asked in ASKED}
    assert {pos for _, pos in seen} == {1, *lengths}


def test_every_hook_point_sees_what_it_sees_of_a_prompt_alone(gqa):
    view = ModelView(gqa)
    prompts = [list(range(10, 10 + n)) for n in (4, 7, 12)]
    off = ("hook_mlp_in", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_result")
    names = [name for name in gqa.hook_dict if not name.endswith((*OVER_KEPT, *off))]

    def shapes(run) -> dict[str, set]:
        seen: dict[str, set] = {}

        def look(value, hook, name):
            if isinstance(value, torch.Tensor):
                seen.setdefault(name, set()).add(tuple(value.shape[1:]))

        run([(name, partial(look, name=name)) for name in names])
        return seen

    def one_by_one(hooks):
        for prompt in prompts:
            view.generate([prompt], 3, hooks)

    expected = shapes(one_by_one)
    assert len(expected) > 20
    assert shapes(lambda hooks: view.generate(prompts, 3, hooks)) == expected


def test_rows_that_have_ended_are_left_out(tiny):
    view = ModelView(tiny)
    prompts = [list(range(10, 10 + n)) for n in (4, 7, 12, 9)]
    alone = [view.generate([prompt], 6)[0].tolist() for prompt in prompts]
    rows, token = [], alone[1][2]
    tiny.tokenizer.eos_token_id, first = token, alone[1].index(token)
    assert sum(token in row for row in alone) == 1
    assert first > 0
    view.generate(prompts, 6, [(view.z_name(0), lambda z, hook: rows.append(tuple(z.shape[:2])))])
    assert rows == [
        *((1, len(prompt)) for prompt in sorted(prompts, key=len)),
        *[(4, 1)] * first,
        *[(3, 1)] * (5 - first),
    ]
