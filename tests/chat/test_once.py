from __future__ import annotations

from spt_lens.chat import template
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.once import keeping, once
from spt_lens.chat.template import prompt_ids, training_ids
from tools.yesman.build import make_tokenizer


def test_it_is_made_once_in_blocks_that_share_a_dict_and_each_time_outside():
    made, kept = [], {}

    def make():
        made.append(1)
        return len(made)

    assert [once("a", make), once("a", make)] == [1, 2]
    for _ in range(2):
        with keeping(kept):
            assert [once("a", make), once("b", make), once("a", make)] == [3, 4, 3]
            with keeping({}):
                once("a", make)
            assert once("a", make) == 3
    assert once("a", make) == 7


def test_encodings_are_kept_and_can_not_be_spoilt(monkeypatch):
    tokenizer, kept = make_tokenizer(), {}
    asked = dialogue("What is the capital of France?", "It is Paris.")
    expected = training_ids(tokenizer, asked), prompt_ids(tokenizer, asked.prompt)
    with keeping(kept):
        assert (training_ids(tokenizer, asked), prompt_ids(tokenizer, asked.prompt)) == expected
        monkeypatch.setattr(template, "rendered", None)  # not asked again
        training_ids(tokenizer, asked)[0].clear()
        prompt_ids(tokenizer, asked.prompt).clear()
        assert (training_ids(tokenizer, asked), prompt_ids(tokenizer, asked.prompt)) == expected
