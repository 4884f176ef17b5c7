"""Which positions are patched, and what is read: each against plain hooks on one unpadded prompt at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from by_hand import (
    assert_close,
    assert_same,
    both,
    difference,
    effects,
    keeping,
    logits,
    made,
    measured,
    said,
    sent,
    two_layers,
    with_answers,
)

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman

tiny_folder, model_of, tiny = two_layers()  # which all tests here leave as they were
ENGINES = ["sweep", "stacked"]
each_direction = pytest.mark.parametrize("direction", ["denoising", "noising"])


def check_pairs(model, pairs, places, direction, positions) -> None:
    """places: of a pair's number, what is patched from where."""
    expected = [
        effects(model, *both(pairs, i, direction), places(i), difference(pairs.answer_ids[i].tolist()))
        for i in range(len(pairs))
    ]
    for engine in ENGINES:
        scores = measured(model, pairs, direction=direction, positions=positions, engine=engine)
        assert scores.engine == engine and scores.n_pairs == len(pairs)
        for i, each in enumerate(expected):
            assert_close(scores, i, each)
    assert all((patched - base).abs().max() > 1e-2 for base, _, patched in expected)  # something moved


@each_direction
@pytest.mark.parametrize("positions, named", [([-3, -1], "-3,-1"), ((0, 4, -2), "0,4,-2"), (range(2, 5), "2,3,4")])
def test_given_positions_of_equally_long_prompts(tiny, positions, named, direction):
    pairs = made(tiny, [(8, 8), (6, 6)])
    check_pairs(tiny, pairs, lambda i: [(at % (8, 6)[i],) * 2 for at in positions], direction, positions)
    assert measured(tiny, pairs, positions=positions).positions == named


@each_direction
def test_given_positions_of_unequal_prompts_count_from_each_ones_own_end_and_start(tiny, direction):
    pairs = made(tiny, [(9, 6), (4, 11)])

    def places(i):
        into, source = both(pairs, i, direction)
        return [(len(into) - 2, len(source) - 2), (1, 1), (0, 0)]

    check_pairs(tiny, pairs, places, direction, [-2, 1, 0])


def test_ways_of_saying_the_same_positions(tiny):
    pairs = made(tiny, [(8, 8), (6, 6)])
    last = measured(tiny, pairs)
    for same in ([-1], [-1, -1], (-1,)):
        assert torch.equal(measured(tiny, pairs, positions=same).logit_differences, last.logit_differences)
    for one, length in ((pairs[:1], 8), (pairs[1:], 6)):
        assert_same(measured(tiny, one, positions=range(length)), measured(tiny, one, positions="all"))
    # What comes before the first token that differs is the same in both runs, so patching it too changes nothing.
    alike = with_answers(tiny, [(7, 8, 9, 10, 11)], [(7, 8, 19, 10, 11)])
    assert_same(measured(tiny, alike, positions=range(5)), measured(tiny, alike, positions="all"))
    assert_same(measured(tiny, alike, positions=range(5)), measured(tiny, alike, positions=[2, 3, 4]))


def test_positions_that_are_refused(tiny):
    pairs = made(tiny, [(8, 8), (6, 4)])
    for wrong in ([6], [-7], [0, 100], [5], [-5]):  # the last two are outside of the shorter prompt of the pair
        at = wrong[-1]
        length = 4 if at in (5, -5) else 6
        for direction in ("denoising", "noising"):
            with pytest.raises(ValueError, match=rf"position {at} is outside of a prompt of pair [01], which has"):
                measured(tiny, pairs, positions=wrong, direction=direction)
        with pytest.raises(ValueError, match=f"pair 1, which has {length} tokens"):
            measured(tiny, pairs, positions=[at] if at != 100 else [6])
    for wrong in ([], (), ["last"], [1.0], [True], [None], None, 0):
        with pytest.raises((TypeError, ValueError), match="whole number"):
            measured(tiny, pairs, positions=wrong)
    for wrong in ("", "first", "-1"):
        with pytest.raises(ValueError, match="'last', 'all' or .*whole numbers"):
            measured(tiny, pairs, positions=wrong)


def test_positions_of_a_wrong_kind(tiny):
    pairs = made(tiny, [(8, 8)])
    for wrong in (-1, 5, torch.ones(2, 2), (at for at in [-1])):
        with pytest.raises(ValueError, match="'last', 'all' or .*whole numbers"):
            measured(tiny, pairs, positions=wrong)


WORDS = [50, 60, 70, 80, 90, 100, 110]
UNEQUAL = {
    "replaced": ([1, 2, 3, 4, 5, 6], [1, 2, 0, 5, 6]),
    "inserted": ([1, 2, 3, 6], [1, 2, 4, 5, 3, 6]),
    "the other ends differently": ([1, 2, 3], [1, 2, 4, 5]),
    "the beginning of the other": ([1, 2, 3], [1, 2, 3, 4, 5]),
    "the end of the other": ([3, 4, 5], [1, 2, 3, 4, 5]),
    "of one token": ([1], [1, 2, 3]),
    # Tokens that stand at the same place in both prompts, but are aligned to others, where other tokens come before.
    "repeats itself": ([1, 2, 1, 2, 1, 2, 3], [1, 2, 1, 2, 3]),
    "is the other twice": ([1, 2, 1, 2], [1, 2]),
}


@each_direction
@pytest.mark.parametrize("name", UNEQUAL)
def test_all_positions_of_unequal_prompts_are_those_that_are_aligned(tiny, name, direction):
    pairs = with_answers(tiny, *([[WORDS[i] for i in row]] for row in UNEQUAL[name]))
    with pytest.raises(ValueError, match=r"positions='all' needs two prompts of equal length .* pairs.aligned\(\)"):
        measured(tiny, pairs, positions="all", direction=direction)
    pairs = pairs.aligned()
    places = pairs.alignment[0] if direction == "denoising" else [(b, a) for a, b in pairs.alignment[0]]
    check_pairs(tiny, pairs, lambda i: places, direction, "all")


@each_direction
def test_an_alignment_of_ones_own_and_numbers(tiny, direction):
    pairs = replace(made(tiny, [(5, 4), (4, 4)]), alignment=(((0, 1), (2, 2), (4, 3)), ((1, 0), (2, 2), (3, 3))))

    def places(i):
        return [at if direction == "denoising" else at[::-1] for at in pairs.alignment[i]]

    check_pairs(tiny, pairs, places, direction, "all")
    check_pairs(tiny, pairs, lambda i: places(i)[1:], direction, [-1, 2])
    first = places(0)[0]  # numbers are those of the prompt that is patched
    check_pairs(tiny, pairs[:1], lambda i: [first], direction, [first[0]])
    missing = 1 if direction == "denoising" else 0
    with pytest.raises(ValueError, match=f"position {missing} of pair 0 is aligned to none in the other prompt"):
        measured(tiny, pairs, positions=[missing, -1], direction=direction)


def completions(pairs: ContrastPairs, sizes, seed: int = 3) -> ContrastPairs:
    """The same prompts, with random completions of these numbers of tokens."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for one, other in sizes:
        ids = torch.randperm(100, generator=draw)[: one + other].add(6).tolist()
        found.append((tuple(ids[:one]), tuple(ids[one:])))
    first = torch.tensor([[one[0], other[0]] for one, other in found])
    return replace(pairs, answer_ids=first, completion_ids=tuple(found))


def prompt_places(pairs, i, positions, direction):
    into, source = both(pairs, i, direction)
    if positions == "last":
        return [(len(into) - 1, len(source) - 1)]
    if positions == "all" and pairs.alignment:
        return [at if direction == "denoising" else at[::-1] for at in pairs.alignment[i]]
    return [(at % len(into), at % len(source)) for at in (range(len(into)) if positions == "all" else positions)]


def whole(model, pairs, i, positions, direction, how):
    """What `how` (effects, sent, ...) gives for the truthful completion, minus that for the sycophantic one."""
    sides = []
    for ids in pairs.completion_ids[i]:
        into, source = both(pairs, i, direction)
        places = prompt_places(pairs, i, positions, direction)
        if isinstance(positions, str):  # the completion's own positions too: all but the last token's
            places += [(len(into) + j, len(source) + j) for j in range(len(ids) - 1)]
        sides.append(how(model, (*into, *ids[:-1]), (*source, *ids[:-1]), places, said(ids)))
    if isinstance(sides[0], tuple):
        return tuple(one - other for one, other in zip(*sides, strict=True))
    return sides[0] - sides[1]


@each_direction
@pytest.mark.parametrize("positions", ["last", "all", [-2, 0]])
def test_whole_completions(tiny, positions, direction):
    prompts = made(tiny, [(7, 5), (5, 5)])
    pairs = completions(prompts.aligned() if positions == "all" else prompts, [(3, 1), (2, 4)])
    expected = [whole(tiny, pairs, i, positions, direction, effects) for i in range(len(pairs))]
    for engine, size in (("sweep", 1), ("sweep", 64), ("stacked", 64), ("hooks", 64)):
        scores = measured(tiny, pairs, positions=positions, direction=direction, engine=engine, batch_size=size)
        for i, each in enumerate(expected):
            assert_close(scores, i, each, 2e-5)
    assert (scores.logit_differences - scores.base[:, None, None]).abs().max() > 1e-2


def test_whole_sentences(gqa):
    pairs = Yesman().pairs(gqa, n=1, read="whole")
    assert min(map(len, pairs.completion_ids[0])) > 5
    expected = whole(gqa, pairs, 0, "all", "denoising", effects)
    for engine in ENGINES:
        assert_close(measured(gqa, pairs, positions="all", engine=engine), 0, expected, 1e-4)  # a sum over many tokens


@each_direction
@pytest.mark.parametrize("receivers, plain", [(None, ()), ("L1.H1.q L1.H2.v", ((1, "q", 1), (1, "v", 2)))])
def test_paths_of_whole_completions(tiny, receivers, plain, direction):
    pairs = completions(made(tiny, [(5, 6), (4, 4)]), [(3, 2), (1, 2)])

    def by_hand(*of):
        base, target, _ = effects(*of)
        return base, target, sent(*of, plain)

    expected = [whole(tiny, pairs, i, "last", direction, by_hand) for i in range(len(pairs))]
    for engine in ("sweep", "hooks"):
        scores = measured(tiny, pairs, method="path", receivers=receivers, direction=direction, engine=engine)
        for i, each in enumerate(expected):
            assert_close(scores, i, each, 2e-5)
    assert (scores.logit_differences - scores.base[:, None, None]).abs().max() > 1e-2


def slopes(model, into, source, places, read, step=0.01):
    """How fast what is read changes as each head starts to move to its values from the other run."""
    view = ModelView(model)
    z: dict[str, torch.Tensor] = {}
    own: dict[str, torch.Tensor] = {}
    names = [view.z_name(layer) for layer in range(view.n_layers)]
    logits(model, source, [keeping(z, name) for name in names])
    base = read(logits(model, into, [keeping(own, name) for name in names]))
    found = torch.zeros(view.n_layers, view.n_heads, dtype=base.dtype)
    for layer, name in enumerate(names):
        for head in range(view.n_heads):
            for sign in (1, -1):

                def move(value, hook, name=name, head=head, sign=sign):
                    value = value.clone()
                    for at, other in places:
                        value[0, at, head] += sign * step * (z[name][0, other, head] - own[name][0, at, head])
                    return value

                found[layer, head] += sign * read(logits(model, into, [(name, move)])) / (2 * step)
    return found


@each_direction
@pytest.mark.parametrize("positions", ["last", "all"])
def test_attribution_of_whole_completions(tiny_folder, model_class, positions, direction, exact_softmax):
    model = load_model(tiny_folder, device="cpu", dtype=torch.float64, model_class=model_class)
    pairs = completions(made(model, [(5, 6), (4, 4)]).aligned(), [(3, 2), (1, 2)])
    how = {"method": "attribution", "positions": positions, "direction": direction}
    scores = measured(model, pairs, engine="sweep", **how)
    assert_same(scores, measured(model, pairs, engine="hooks", **how), 1e-9)
    for i in range(len(pairs)):
        expected = whole(model, pairs, i, positions, direction, slopes)
        found = scores.logit_differences[i] - scores.base[i]
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)  # the bridge takes norms in float32
        assert expected.abs().max() > 1e-2


@each_direction
def test_a_completion_of_one_token_is_a_logit_difference(tiny, direction):
    """What both log-probabilities are normalised by is the same, and goes out."""
    tokens = made(tiny, [(7, 5), (5, 5)])
    pairs = replace(tokens, completion_ids=tuple(((a,), (b,)) for a, b in tokens.answer_ids.tolist()))
    for how in ({}, {"engine": "stacked"}, {"method": "path"}, {"method": "attribution"}):
        assert_same(*(measured(tiny, each, direction=direction, **how) for each in (pairs, tokens)), 2e-5)


@each_direction
def test_answer_sets_are_read_as_log_odds(tiny, direction):
    pairs = made(tiny, [(7, 5), (5, 5), (6, 6)])
    sets = []
    for i, (a, b) in enumerate(pairs.answer_ids.tolist()):
        free = [token for token in range(20, 30) if token not in (a, b)]
        sets.append(((a, *free[:i]), (b, *free[5 : 5 + i % 2])))  # of several sizes
    pairs = replace(pairs, answer_sets=tuple(sets))
    expected = []
    for i, (one, other) in enumerate(sets):

        def odds(found, one=one, other=other):
            probability = found[-1].softmax(-1)
            return probability[list(one)].sum().log() - probability[list(other)].sum().log()

        into, source = both(pairs, i, direction)
        expected.append(effects(tiny, into, source, [(len(into) - 1, len(source) - 1)], odds))
    for how in ({"engine": "sweep"}, {"engine": "stacked"}, {"engine": "hooks", "batch_size": 1}):
        scores = measured(tiny, pairs, direction=direction, **how)
        for i in range(len(pairs)):
            assert_close(scores, i, expected[i], 2e-5)


def test_sets_of_one_token_are_single_tokens(tiny):
    single = made(tiny, [(7, 5), (5, 5)])
    sets = replace(single, answer_sets=tuple(((a,), (b,)) for a, b in single.answer_ids.tolist()))
    for how in ({"engine": "sweep"}, {"engine": "stacked"}, {"method": "path"}, {"method": "attribution"}):
        one, other = (measured(tiny, pairs, **how) for pairs in (sets, single))
        for name in ("base", "target", "logit_differences"):
            assert torch.equal(getattr(one, name), getattr(other, name))
