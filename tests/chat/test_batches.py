from __future__ import annotations

from itertools import islice

import pytest
import torch

from spt_lens.chat.batches import ExampleBatch, Examples


def rows(n: int) -> list[tuple[list[int], list[bool]]]:
    """Example i starts with token i + 1; its last two tokens are targets."""
    return [([i + 1] + [9] * (3 + i % 5), [False] * (2 + i % 5) + [True, True]) for i in range(n)]


def test_labels_follow_the_marked_positions():
    batch = ExampleBatch(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]), torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0]]).bool())
    assert batch.where.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert batch.labels.tolist() == [3, 4, 7]


def test_an_epoch_shows_each_example_once_and_the_seed_decides_the_order():
    data = Examples(rows(24))

    def order(seed: int, batches: int) -> list[int]:
        return [int(t) for b in islice(data.shuffled(4, seed), batches) for t in b.tokens[:, 0]]

    assert sorted(order(0, 6)) == list(range(1, 25))
    assert sorted(order(0, 12)[24:]) == list(range(1, 25))
    assert order(0, 12) == order(0, 12)
    assert order(0, 12) != order(1, 12)
    assert order(0, 12)[:24] != order(0, 12)[24:]


def test_fewer_examples_than_a_batch_make_a_smaller_batch():
    batch = next(Examples(rows(3)).shuffled(16, 0))
    assert sorted(batch.tokens[:, 0].tolist()) == [1, 2, 3]


def test_padding_is_never_a_target_and_batches_are_cut_to_their_longest():
    data = Examples(rows(10))
    for index, batch in data.in_order_of_length(3):
        assert batch.tokens.shape[1] == data.lengths[index].max()
        assert len(batch.labels) == 2 * len(index)
        assert (batch.labels != 0).all()


@pytest.mark.parametrize(
    "examples, message",
    [([], "no dialogues"), ([([1, 2], [True, False])], "no target"), ([([1, 2], [True])], "target marks")],
)
def test_unusable_examples_are_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        Examples(examples)
