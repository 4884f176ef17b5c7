"""The live check: the figures of set_patching and set_knockout, in parts that leave nothing on the model."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from by_hand import state
from judged import as_yesman, by_letters, judged
from torch import nn

from spt_lens.chat.dialogues import dialogue
from spt_lens.data.check import PairsCheck
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.set_effect import SetEffect
from spt_lens.measure.sets import set_patching
from spt_lens.model.limits import Pace
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.picker import check_parts
from spt_lens.picker.check import LiveCheck
from spt_lens.picker.check_parts import ModelChanged, Progress
from spt_lens.picker.check_state import says_of
from spt_lens.picker.kept_runs import KeptRuns
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L1.H2 L2.H3")
PLAIN = {"logits": ModelView.logits, "replying": ModelView.replying}


def taken(parts) -> tuple[list[Progress], SetEffect]:
    """All that a check yields, and what it returns."""
    found = []
    while True:
        try:
            found.append(next(parts))
        except StopIteration as end:
            return found, end.value


def pairs_of(model, n: int, tokens: int = 8, judge=by_letters, **how) -> ContrastPairs:
    """A random model never gives in: they are judged by what tells its replies apart."""
    return judged(Yesman().pairs(model, n=n, **how), judge, tokens)


def assert_right(result: SetEffect, model, pairs, heads, n_random: int, seed: int = 0, tolerance=1e-3):
    how = {"n_random": n_random, "seed": seed, "progress": False}
    effect = set_patching(model, pairs, heads, **how)
    assert result.heads == heads and result.n_pairs == effect.n_pairs
    assert result.table[["size", "set", "draw", "heads"]].equals(effect.table[["size", "set", "draw", "heads"]])
    for column in ("recovery", "low", "high"):
        # What is kept of the prompts rounds otherwise, and a share of a small gap is as inexact as the gap is small.
        expected = effect.table[column].tolist()
        assert result.table[column].tolist() == pytest.approx(expected, abs=tolerance / 10, rel=tolerance)
    recoveries = (one.per_pair["recovery"].tolist() for one in (result, effect))
    assert next(recoveries) == pytest.approx(next(recoveries), abs=tolerance, rel=tolerance)
    without = set_knockout(model, pairs, heads, **how)
    for one in (result, without):
        assert_alike(one.check, effect.check)
    assert result.table[["gives_in", "truthfulness"]].equals(without.table[["gives_in", "truthfulness"]])


def assert_alike(one: PairsCheck | None, other: PairsCheck | None):
    assert one is not None and other is not None and one.n_pairs == other.n_pairs and one.reads == other.reads
    assert one.mean_gap.value == pytest.approx(other.mean_gap.value, abs=1e-4, rel=1e-4)
    assert one.mass == pytest.approx(other.mass, rel=1e-3) and one.sycophantic == other.sycophantic


def assert_same(one: SetEffect, other: SetEffect, tolerance: float = 1e-3):
    # Batches of other sizes round otherwise, and a share of a small gap is as inexact as the gap is small.
    settings = ({**each.settings, "check": None} for each in (one, other))  # with the replies
    assert one.heads == other.heads and next(settings) == next(settings) and one.n_pairs == other.n_pairs
    assert_alike(one.check, other.check)
    assert one.table["heads"].equals(other.table["heads"])
    for name in ("recovery", "low", "high", "gives_in", "truthfulness"):
        assert one.table[name].tolist() == pytest.approx(
            other.table[name].tolist(), abs=tolerance, rel=tolerance, nan_ok=True
        )


def assert_checked(model, pairs, tolerance=1e-3, **how):
    result = LiveCheck(model, pairs, n_random=2, seed=3, **how).run(HEADS, progress=False, replies=True)
    assert_right(result, model, pairs, HEADS, n_random=2, seed=3, tolerance=tolerance)
    settings = {"model": ModelView(model).name, "n_random": 2, "seed": 3, "max_new_tokens": 8}
    assert {**result.settings, "check": None, "replies": 0} == {
        **settings,
        "check": None,
        "replies": 0,
    } and result.n_dialogues == len(pairs)
    assert result.table["gives_in"].nunique() > 1


def test_figures_are_those_of_set_patching_and_set_knockout(tiny):
    assert_checked(tiny, pairs_of(tiny, 4, contrast="neutral"), part_seconds=100)


def misfit(self):
    """As for a model that the sweep does not fit: each set is patched into whole prompts."""
    yield 0
    return False


def test_figures_of_a_model_that_has_to_be_run_whole(tiny, monkeypatch):
    monkeypatch.setattr(KeptRuns, "fits", misfit)
    assert_checked(tiny, pairs_of(tiny, 4, contrast="neutral"), part_seconds=100, tolerance=1e-5)


def test_a_model_with_hooks_of_the_users_is_run_whole(tiny):
    pairs = pairs_of(tiny, 3, 2)
    tiny.add_hook(ModelView.z_name(1), lambda z, hook: z * 0.5)
    live = LiveCheck(tiny, pairs, n_random=1)
    assert_right(live.run(HEADS, progress=False, replies=True), tiny, pairs, HEADS, n_random=1)
    assert live.current().plain is not None and live.current().runs is None


def test_the_recovery_comes_first_and_replies_only_when_asked(tiny, monkeypatch):
    pairs = pairs_of(tiny, 6, 3)
    live = LiveCheck(tiny, pairs, n_random=2, part_seconds=1e-9)
    monkeypatch.setattr(ModelView, "replying", lambda *a, **k: pytest.fail("replies that nobody asked for"))
    parts, result = taken(live.parts(HEADS))
    assert "gives_in" not in result.table and result.n_dialogues == 0 and result.ablation == "" and result.replies.empty
    assert all(row[0].startswith("gap recovered") for row in result.rows()) and len(result.rows()) == 1
    # Of the pairs that were read so far, as soon as there are any; random sets only behind all of them.
    counts = [part.partial.n_pairs for part in parts if part.partial is not None]
    assert counts == sorted(counts) and counts[0] < 6 and counts[-1] == 6
    first = next(i for i, part in enumerate(parts) if part.partial is not None)
    assert first <= 1  # the look whether the quick way fits, and the first pairs
    for part in parts[first:]:
        random = part.partial.table["recovery"][2:]
        assert random.isna().all() or part.partial.n_pairs == 6
        assert SetEffect.from_json(json.loads(json.dumps(part.partial.to_json()))).n_pairs == part.partial.n_pairs
    some = parts[first].partial
    seen = some.per_pair.index.tolist()
    # Of these pairs alone: their effects over the mean of their own gaps.
    effects = set_patching(tiny, pairs, HEADS, n_random=0, progress=False).per_pair["logits"][seen]
    gaps = live.current().runs.target - live.current().runs.base
    assert some.chosen["recovery"] == pytest.approx(effects.mean() / float(gaps[seen].mean()), rel=1e-3, abs=1e-3)
    assert some.per_pair["recovery"].mean() == pytest.approx(some.chosen["recovery"])


def test_replies_can_be_read(tiny, tmp_path):
    pairs = pairs_of(tiny, 4, 8, contrast="neutral")
    live = LiveCheck(tiny, pairs, n_random=1)
    for _ in range(2):  # what is said with all heads is kept
        result = live.run(HEADS, progress=False, replies=True)
        said = result.replies
        assert said["asked"].tolist() == [dialogue.messages[0].content for dialogue in pairs.dialogues]
        assert said["before"].tolist() == replies(tiny, pairs.dialogues, max_new_tokens=8)
        assert said["gives_in_before"].mean() == result.before["gives_in"]
        assert said["gives_in_without"].mean() == result.chosen["gives_in"]
        assert (said["before"] != said["without"]).any()
    again = SetEffect.load(result.save(tmp_path / "check.json"))
    assert again.replies.equals(said)
    data = result.to_json()
    data["settings"]["replies"][0]["before"] = 3
    with pytest.raises(ValueError, match="before in row 0 of its table replies is '3'"):
        SetEffect.from_json(data)


def test_figures_with_grouped_queries(gqa):
    assert_checked(gqa, pairs_of(gqa, 4), part_seconds=100)


@pytest.mark.parametrize("seconds", [1e-9, 100])
def test_figures_do_not_depend_on_the_batches(tiny_folder, load, exact_softmax, seconds):
    model = load(tiny_folder, dtype=torch.float64)
    assert_checked(model, pairs_of(model, 11), part_seconds=seconds, tolerance=1e-7)


def test_the_embedded_model():
    model = load_model("yesman")
    pairs = pairs_of(model, 16, 24, as_yesman)
    heads = HeadSet.parse("L0.H8 L5.H8 L5.H3 L6.H10 L2.H8 L6.H9")
    result = LiveCheck(model, pairs, n_random=1).run(heads, progress=False, replies=True)
    assert_right(result, model, pairs, heads, n_random=1)
    assert result.chosen["recovery"] > 0.4 and abs(result.random["recovery"].iloc[0]) < 0.1
    assert result.before["gives_in"] > 0.9


@pytest.mark.parametrize("kind", ["sets", "whole", "one"])
def test_other_kinds_of_pairs(tiny, kind):
    pairs = pairs_of(tiny, 1 if kind == "one" else 4, 3, read="whole" if kind == "whole" else "first")
    if kind == "sets":
        pairs = pairs.with_answers(tiny, ["Yes", "Paris"], ["Apologies", "No", "That"])
    result = LiveCheck(tiny, pairs, n_random=1, part_seconds=100).run(HEADS, progress=False, replies=True)
    effect = set_patching(tiny, pairs, HEADS, n_random=1, progress=False)
    for column in ("recovery", "low", "high"):
        expected = effect.table[column].tolist()
        assert result.table[column].tolist() == pytest.approx(expected, abs=1e-4, rel=1e-3, nan_ok=True)
    assert result.table["low"].isna().all() == (kind == "one")


def test_pairs_without_a_gap_count(tiny):
    pairs = pairs_of(tiny, 4, 3)
    half = replace(pairs, truthful=(pairs.truthful[0], pairs.sycophantic[1], *pairs.truthful[2:]))
    result = LiveCheck(tiny, half, n_random=1, part_seconds=100).run(HEADS, progress=False, replies=True)
    assert_right(result, tiny, half, HEADS, n_random=1)
    assert result.n_pairs == len(result.per_pair) == 4 and abs(result.per_pair["recovery"][1]) < 1e-3
    assert "4 pairs\n" in result.summary() and "4 challenged dialogues" in result.summary()
    same = replace(pairs, truthful=pairs.sycophantic)
    with pytest.raises(ValueError, match="no gap to recover"):
        LiveCheck(tiny, same).run(HEADS, progress=False)


def test_progress_and_partial_results(tiny, capsys):
    live = LiveCheck(tiny, pairs_of(tiny, 5, 3), n_random=2)
    for _ in range(2):  # the second time with what is kept of the first
        parts, result = taken(live.parts(HEADS, True))
        done = [part.done for part in parts]
        assert done == sorted(done) and done[-1] == 1 and all(part.says for part in parts)
        partial = [part.partial for part in parts if part.partial is not None and part.partial.n_pairs == 5]
        seen = [one.table.reindex(columns=result.table.columns) for one in partial]
        assert all(len(table) == 4 for table in seen)
        # The selection's own figures first, then the random draws'; what is there stays as it is.
        first = seen[0]
        assert first["recovery"].notna().tolist() == [True, True, False, False] and first["gives_in"].isna().all()
        order = [table[["recovery", "gives_in"]].notna().to_numpy().tolist() for table in seen]
        assert order == sorted(order, key=lambda flags: sum(map(sum, flags)))
        assert [[True, False]] * 2 + [[False, False]] * 2 in order and [[True, False]] * 4 in order
        assert [[True, True]] * 2 + [[True, False]] * 2 in order
        for table in seen:
            known = table.notna() & table.map(lambda value: not isinstance(value, str))
            assert table.where(known).equals(result.table.where(known))
        assert partial[-1].to_json() == result.to_json()
        assert len(partial[0].rows()) == 1 and partial[0].summary()
    assert_same(live.run(HEADS, replies=True), result)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_nothing_is_on_the_model_between_parts(tiny, mode):
    pairs = pairs_of(tiny, 3, 3)
    view = ModelView(tiny)
    weight = next(view.backend.root.parameters())
    weight.grad = torch.ones_like(weight)
    list(view.backend.root.parameters())[1].requires_grad_(False)
    right = LiveCheck(tiny, pairs, n_random=1).run(HEADS, progress=False, replies=True)
    parts = LiveCheck(tiny, pairs, n_random=1).parts(HEADS, True)
    before, n = state(tiny), 0
    while True:
        # Every second part in another mode: whoever takes the parts sets it, and finds it as it was.
        with mode() if n % 2 else nullcontext():
            own = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            try:
                next(parts)
            except StopIteration as end:
                assert_same(end.value, right)
                break
            finally:
                assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == own
        n += 1
        assert state(tiny) == before and (weight.grad == 1).all()
    assert n > 8


def test_the_user_goes_on_between_parts(tiny):
    """Forward passes with hooks, and gradients: both as without a check under way."""
    tokens = torch.tensor([[2, 10, 11, 12]])
    right = tiny(tokens)
    parts = LiveCheck(tiny, pairs_of(tiny, 2, 2), n_random=1).parts(HEADS, True)
    for _ in parts:
        logits = tiny(tokens)
        assert logits.requires_grad and torch.equal(logits, right)
        with tiny.hooks(fwd_hooks=[(ModelView.z_name(0), lambda z, hook: z * 0)]):
            assert not torch.equal(tiny(tokens), right)


def test_closing_early(tiny):
    pairs = pairs_of(tiny, 2, 2)
    live = LiveCheck(tiny, pairs, n_random=1)
    before, right = state(tiny), live.run(HEADS, progress=False, replies=True)
    n, wanted = 0, True
    while wanted:
        live.forget()
        parts = live.parts(HEADS, True)
        wanted = len([part for part, _ in zip(parts, range(n), strict=False)]) == n
        parts.close()
        assert state(tiny) == before
        if n % 4 == 0:  # what it had measured so far serves the next one
            assert_same(live.run(HEADS, progress=False, replies=True), right)
        n += 1
    assert n > 8


def test_an_error_in_a_part_leaves_nothing_behind(tiny, monkeypatch):
    live = LiveCheck(tiny, pairs_of(tiny, 2, 2), n_random=1)
    right = live.run(HEADS, progress=False, replies=True)
    before, calls, step = state(tiny), [], ModelView(tiny).backend.__class__.step

    def interrupted(self, tokens, mask, kept):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, tokens, mask, kept)

    monkeypatch.setattr(ModelView(tiny).backend.__class__, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        live.run(HEADS, progress=False, replies=True)
    assert state(tiny) == before
    assert_same(live.run(HEADS, progress=False, replies=True), right)


def in_place(model):
    with torch.no_grad():
        next(ModelView(model).backend.root.parameters()).mul_(1.5)


def set_data(model):
    weight, _ = ModelView(model).head_weight(1, "o", 0)
    weight.data = weight.data * 1.5


def in_place_and_back_to_the_count(model):
    """What fused optimizers do: numbers change, the count of changes does not."""
    weight, _ = ModelView(model).head_weight(1, "o", 0)
    weight.grad = torch.ones_like(weight)
    count = weight._version
    torch.optim.AdamW([weight], lr=0.3, fused=True).step()
    weight.grad = None
    assert weight._version == count  # else this case is one of the others


def another_parameter(model):
    weight, _ = ModelView(model).head_weight(1, "o", 0)
    for module in ModelView(model).modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if held is weight:
                setattr(module, name, nn.Parameter(weight.detach() * 1.5))


def hooked(model):
    model.add_hook(ModelView.z_name(1), lambda z, hook: z * 0.5)


@pytest.mark.parametrize("change", [in_place, set_data, in_place_and_back_to_the_count, another_parameter, hooked])
def test_changes_between_parts_are_noticed(tiny, change):
    pairs = pairs_of(tiny, 4, 4)
    live = LiveCheck(tiny, pairs, n_random=1, part_seconds=100)
    before = live.run(HEADS, progress=False, replies=True)
    parts = live.parts(HEADS, True)
    next(parts)
    change(tiny)
    with pytest.raises(ModelChanged, match="start the check again"):
        next(parts)
    after = live.run(HEADS, progress=False, replies=True)
    assert_right(after, tiny, pairs, HEADS, n_random=1)
    assert abs(after.chosen["recovery"] - before.chosen["recovery"]) > 1e-4
    # One that goes on beside a newer check must not take that one's figures for its own.
    parts = live.parts(HEADS, True)
    next(parts)
    in_place(tiny)
    assert_right(live.run(HEADS, progress=False, replies=True), tiny, pairs, HEADS, n_random=1)
    with pytest.raises(ModelChanged):
        next(parts)


def test_training_mode_between_parts(model_class, tiny):
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    parts = LiveCheck(tiny, pairs_of(tiny, 2, 2)).parts(HEADS, True)
    next(parts)
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        next(parts)


def test_what_does_not_depend_on_the_selection_is_kept(tiny, monkeypatch):
    pairs = pairs_of(tiny, 5, 2)
    ran = {"logits": 0, "replying": 0}
    for name in ran:

        def counted(self, tokens, *args, name=name, plain=PLAIN[name], **more):
            ran[name] += len(tokens)
            return plain(self, tokens, *args, **more)

        monkeypatch.setattr(ModelView, name, counted)

    def prompts(live, heads, replies=True) -> tuple[int, int]:
        ran.update(logits=0, replying=0)
        live.run(heads, progress=False, replies=replies)
        return ran["logits"], ran["replying"]

    live = LiveCheck(tiny, pairs, n_random=2)
    # Two for a look whether the quick way fits; the run that is patched in is whole, the other one kept for all sets.
    assert prompts(live, HEADS, replies=False) == (2 + 5, 0)
    assert prompts(live, HeadSet.parse("L1.H1"), replies=False) == (0, 0)
    # Both prompts for the means, and replies for three sets and for none.
    assert prompts(live, HEADS) == (2 * 5, 5 * (3 + 1))
    assert prompts(live, HeadSet.parse("L1.H1")) == (0, 5 * 3)
    in_place(tiny)
    assert prompts(live, HEADS) == (2 + 5 + 2 * 5, 5 * (3 + 1))
    live.forget()
    assert prompts(live, HEADS) == (2 + 5 + 2 * 5, 5 * (3 + 1))
    monkeypatch.setattr(KeptRuns, "fits", misfit)
    live.forget()  # without the quick way: both runs, and for each of three sets one run of each kind
    assert prompts(live, HEADS) == (5 * (2 + 3 * 2 + 2), 5 * (3 + 1))
    assert prompts(live, HeadSet.parse("L1.H1")) == (5 * 3 * 2, 5 * 3)
    parts = live.parts(HEADS, True)
    in_place(tiny)  # before the first part is early enough
    next(parts)


def test_pairs_without_dialogues_or_judge(tiny, monkeypatch):
    pairs = pairs_of(tiny, 4)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids, judge=pairs.judge)
    effect = set_patching(tiny, pairs, HEADS, n_random=1, progress=False)
    monkeypatch.setattr(ModelView, "replying", lambda *a, **k: pytest.fail("replies that can't be judged"))
    for given in (bare, replace(pairs, judge=None)):
        live = LiveCheck(tiny, given, n_random=1, part_seconds=100)
        with pytest.raises(ValueError, match="no replies to judge: the pairs have no dialogues, or no judge"):
            live.run(HEADS, replies=True)
        result = live.run(HEADS, progress=False)
        assert result.table["recovery"].tolist() == pytest.approx(effect.table["recovery"].tolist(), abs=1e-4, rel=1e-3)
        assert "gives_in" not in result.table and result.n_dialogues == 0 and result.ablation == ""
        assert says_of(result) == "3 heads on 4 pairs, beside 1 random set of as many."
        assert SetEffect.from_json(json.loads(json.dumps(result.to_json()))).table.equals(result.table)
        parts, _ = taken(LiveCheck(tiny, given, n_random=1).parts(HEADS))
        assert parts[-1].done == 1


def test_errors_before_any_part(model_class, tiny, monkeypatch):
    pairs = pairs_of(tiny, 2)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"n_random": -1}, "n_random"),
        ({"part_seconds": 0}, "part_seconds"),
        ({"part_seconds": float("nan")}, "part_seconds"),
    ):
        with pytest.raises(ValueError, match=message):
            LiveCheck(tiny, pairs, **wrong)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        LiveCheck(tiny, pairs_of(tiny, 2, tokens=0))
    with pytest.raises(ValueError, match=r"can't judge a reply to dialogue 1 \(KeyError"):
        LiveCheck(tiny, replace(pairs, dialogues=(pairs.dialogues[0], dialogue("Hello!"))))
    with pytest.raises(ValueError, match="80000"):
        LiveCheck(tiny, ContrastPairs(((2, 7, 80000),), ((2, 7, 8),), torch.tensor([[5, 6]])))
    with pytest.raises(TypeError, match="load"):
        LiveCheck("tiny", pairs)
    live = LiveCheck(tiny, pairs)
    with pytest.raises(ValueError, match="empty"):
        live.parts(HeadSet())
    with pytest.raises(ValueError, match=r"L0\.H7"):
        live.parts(HeadSet.parse("L0.H7"))
    with pytest.raises(TypeError, match="HeadSet.of"):
        live.parts("L0.H1")  # type: ignore[arg-type]
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    for wanted in (lambda: live.parts(HEADS, True), lambda: LiveCheck(tiny, pairs)):
        with pytest.raises(ValueError, match="eval"):
            wanted()


def test_parts_take_about_as_long_as_they_should(tiny, monkeypatch):
    """A clock that runs with the prompts: batches grow to what a part has time for, and shrink when it has less."""
    monkeypatch.setattr(KeptRuns, "fits", misfit)
    clock, cost, sizes = [0.0], [0.01], []
    monkeypatch.setattr(check_parts, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    logits = ModelView.logits

    def slow(self, tokens, *args, **more):
        sizes.append(len(tokens))
        clock[0] += cost[0] * len(tokens)
        return logits(self, tokens, *args, **more)

    monkeypatch.setattr(ModelView, "logits", slow)
    one = pairs_of(tiny, 1)  # of one length, so that all can go together
    pairs = ContrastPairs(one.sycophantic * 48, one.truthful * 48, one.answer_ids.repeat(48, 1))
    live = LiveCheck(tiny, pairs, n_random=0, part_seconds=0.3)

    def ran() -> list[int]:
        """The prompts of each part, which has both runs."""
        sizes.clear()
        live.forget()
        live.run(HEADS, progress=False)
        assert sizes[::2] == sizes[1::2]
        return sizes[::2]

    assert ran() == [4, 8, 16, 16, 4] + [16, 16, 16]  # 0.32 s is enough; what is left over tells nothing
    cost[0] = 0.1
    assert ran() == [16, 8, 4, *[2] * 10] + [2] * 24  # 3.2, 1.6, 0.8 and 0.4 s
    cost[0] = 9.0
    assert ran() == [2, *[1] * 46] + [1] * 48  # never less than one
    cost[0] = 0.001
    assert ran() == [1, 2, 4, 8, 16, 17] + [32, 16]


def test_replies_go_on_together_however_short_the_parts_are(tiny, monkeypatch):
    pairs = pairs_of(tiny, 6, 8, contrast="neutral")
    right = LiveCheck(tiny, pairs, n_random=0, part_seconds=100).run(HEADS, progress=False, replies=True)
    step, sizes = ModelView.step, []

    def counted(self, tokens, mask, kept):
        sizes.append(tuple(tokens.shape))
        return step(self, tokens, mask, kept)

    live = LiveCheck(tiny, pairs, n_random=0, part_seconds=1e-9)
    monkeypatch.setattr(ModelView, "step", counted)
    parts, result = taken(live.parts(HEADS, True))
    assert_same(result, right)
    read = [rows for rows, new in sizes if new > 1]
    assert read[-6:] == [1] * 6  # a part has time for no more
    assert (6, 1) in sizes and len(parts) > len(sizes)
    shares = [part.done for part in parts]
    assert shares == sorted(shares) and len({part.says for part in parts if "replies without" in part.says}) > 4


def test_pace():
    pace = Pace(4, seconds=1.0, most=10)
    for rows, seconds, size in ((4, 0.5, 8), (8, 0.9, 10), (10, 0.1, 10), (10, 1.5, 10), (3, 2.1, 5), (4, 0.1, 5)):
        pace.took(rows, seconds)
        assert pace.batch_size == size
    assert pace.halve() and pace.batch_size == 2
    pace.took(2, 0.1)
    assert pace.batch_size == 2  # what memory did not hold once is not tried again
    assert pace.halve() and not pace.halve() and pace.batch_size == 1


def test_what_does_not_fit_in_memory_is_halved(tiny, monkeypatch):
    live = LiveCheck(tiny, pairs_of(tiny, 5, 2), n_random=1)
    right = live.run(HEADS, progress=False, replies=True)
    most = [2]
    for name, plain in PLAIN.items():

        def bounded(self, tokens, *args, plain=plain, **more):
            if len(tokens) > most[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(self, tokens, *args, **more)

        monkeypatch.setattr(ModelView, name, bounded)
    live.forget()
    before = state(tiny)
    assert_same(live.run(HEADS, progress=False, replies=True), right)
    most[0] = 0
    with pytest.raises(MemoryError, match="not even one prompt"):
        live.run(HEADS, progress=False, replies=True)
    assert state(tiny) == before
    most[0] = 1
    assert_same(live.run(HEADS, progress=False, replies=True), right)


def test_saved_and_shown(tiny, tmp_path):
    live = LiveCheck(tiny, pairs_of(tiny, 3, 2), n_random=2)
    parts, result = taken(live.parts(HEADS, True))
    partial = next(part.partial for part in parts if part.partial is not None)
    for one in (partial, result):
        again = SetEffect.load(one.save(tmp_path / "check.json"))
        assert again.table.equals(one.table) and (again.table.dtypes == one.table.dtypes).all()
        assert again.to_json() == one.to_json() and again.heads == HEADS
    first, second, rests, *_ = result.summary().splitlines()
    assert result.check is not None and rests == result.check.line()
    assert first.startswith(f"3 heads alone: gap recovered {result.chosen['recovery']:.2f} [") and "3 pairs" in first
    assert f"gives in {result.before['gives_in']:.2f} -> {result.chosen['gives_in']:.2f}" in second


def test_a_selection_of_most_heads_is_measured_without_random_ones(tiny):
    pairs = pairs_of(tiny, 3, 2)
    heads = HeadSet(tuple((layer, head) for layer in range(3) for head in range(4)))
    result = LiveCheck(tiny, pairs).run(heads, progress=False, replies=True)
    assert result.table["set"].tolist() == ["chosen", "chosen"]
    with pytest.raises(ValueError, match="whole number"):
        LiveCheck(tiny, pairs, n_random=1.5)
