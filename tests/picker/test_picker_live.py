"""The picker's work on a model: the live check of what is chosen, and a head's report beside the map."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from typing import Any

import pandas as pd
import pytest
import torch
from by_hand import state
from judged import as_yesman, judged
from picking import page_asks, page_chooses, scores_of, sent_by
from torch import nn

from spt_lens.chat.judge import FunctionJudge, Verdict
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.last_position import LastPositions
from spt_lens.measure.report import head_report
from spt_lens.model.view import ModelView
from spt_lens.picker.check import LiveCheck
from spt_lens.picker.check_state import NO_CHECK, says_of
from spt_lens.picker.details import HeadDetails
from spt_lens.picker.picker import HeadPicker
from spt_lens.view.attention import attention_script
from spt_lens.yesman import Yesman

HEADS = "L0.H1 L2.H3"


def made(model, n: int = 2, **more: Any) -> HeadPicker:
    scores = scores_of(3, 4, name=ModelView(model).name)
    return HeadPicker(scores, model=model, pairs=pairs_of(model, n), **{"n_random": 1} | more)


def pairs_of(model, n: int) -> ContrastPairs:
    return judged(Yesman().pairs(model, n=n), as_yesman, max_new_tokens=3)


def states(picker: HeadPicker) -> list[str]:
    """The states of the check from now on, each once in a row."""
    found: list[str] = []

    def see(change: Any) -> None:
        json.dumps(change["new"], allow_nan=False)
        if not found or found[-1] != change["new"]["state"]:
            found.append(change["new"]["state"])

    picker.observe(see, "_check")
    return found


def assert_checked(picker: HeadPicker, heads: str, model: Any, n: int = 2, replies: bool = False) -> None:
    """What the page shows is what LiveCheck finds."""
    live = LiveCheck(model, pairs_of(model, n), n_random=1)
    right = live.run(HeadSet.parse(heads), progress=False, replies=replies)
    found = picker.last_check
    assert found is not None and found.heads == HeadSet.parse(heads)
    assert found.settings.keys() == right.settings.keys() and found.settings["seed"] == right.settings["seed"]
    assert found.check is not None and found.check.mean_gap.value == pytest.approx(right.check.mean_gap.value, abs=1e-4)
    assert found.table.drop(columns=["set", "heads"]).to_numpy() == pytest.approx(
        right.table.drop(columns=["set", "heads"]).to_numpy(), abs=1e-3, rel=1e-3, nan_ok=True
    )
    numbers = [layer * 4 + head for layer, head in HeadSet.parse(heads)]
    shown = {"state": "done", "done": 1.0, "says": says_of(found), "heads": numbers, "rows": found.rows()}
    assert {**picker._check, "replies": 0} == {**shown, "replies": 0} and shown["rows"]
    assert len(picker._check["replies"]) == n * replies


# The live check.


def test_the_page_asks_for_a_check(tiny):
    picker, before = made(tiny, chosen=HEADS), state(tiny)
    assert picker._check == NO_CHECK and picker.last_check is None
    seen = states(picker)
    page_asks(picker, kind="check")
    assert seen == ["queued", "running", "done"]
    assert_checked(picker, HEADS, tiny)
    assert state(tiny) == before
    page_chooses(picker, [5])
    assert picker._check["heads"] == [1, 11] and seen == ["queued", "running", "done"]  # of what was chosen before
    page_asks(picker, kind="check")
    assert_checked(picker, "1.1", tiny)


def test_a_check_from_python_is_shown_too(tiny):
    picker = made(tiny, chosen=HEADS)
    result = picker.check(progress=False)
    assert picker.last_check is result
    assert_checked(picker, HEADS, tiny)


def test_a_check_after_every_change(tiny):
    picker = made(tiny, chosen=HEADS, auto_check=True)
    assert_checked(picker, HEADS, tiny)
    picker.selected = "1.1"
    assert_checked(picker, "1.1", tiny)
    picker.set_state({"_auto": False})
    page_chooses(picker, [5, 6])
    assert_checked(picker, "1.1", tiny)
    picker.set_state({"_auto": True})
    assert_checked(picker, "1.1 1.2", tiny)
    page_chooses(picker, [])  # of no heads there is nothing to check
    assert_checked(picker, "1.1 1.2", tiny)
    none = made(tiny, auto_check=True)
    assert none._auto and none._check == NO_CHECK


def test_what_can_not_be_checked_is_said(tiny, model_class):
    picker, before = made(tiny), state(tiny)
    with pytest.raises(ValueError, match="the selection is empty: choose at least one head"):
        picker.check()
    assert picker._check == NO_CHECK
    seen = states(picker)
    page_asks(picker, kind="check")
    assert seen == ["queued", "failed"] and picker._check["rows"] == []
    assert picker._check["says"].startswith("Not checked. the selection is empty")
    assert picker.last_check is None and state(tiny) == before
    picker.selected = HEADS
    page_asks(picker, kind="check")
    assert_checked(picker, HEADS, tiny)


def test_an_error_on_the_way_is_said(tiny, monkeypatch):
    picker, before = made(tiny, chosen=HEADS), state(tiny)
    page_asks(picker, kind="check")
    result, picker.selected = picker.last_check, "1.1"
    replying = ModelView.replying
    monkeypatch.setattr(ModelView, "replying", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("a dead <GPU>")))
    page_asks(picker, kind="replies")
    assert picker._check["state"] == "failed" and picker._check["says"] == "Not checked. a dead <GPU>"
    assert picker.last_check is result and picker._check["heads"] == [5]
    with pytest.raises(RuntimeError, match="a dead"):
        picker.check(progress=False, replies=True)
    assert state(tiny) == before
    monkeypatch.setattr(ModelView, "replying", replying)
    page_asks(picker, kind="check")
    assert_checked(picker, "1.1", tiny)


def test_without_a_model_there_is_no_check():
    picker = HeadPicker(scores_of(), chosen="1.1", auto_check=True)
    assert not picker._auto and not picker._map["canCheck"] and "model=" in picker._map["whyNoCheck"]
    with pytest.raises(ValueError, match=r"needs the model: HeadPicker\(scores, model=model, pairs=pairs\)"):
        picker.check()
    picker.set_state({"_auto": True})
    page_chooses(picker, [5, 6])
    page_asks(picker, kind="check")
    assert picker._check == NO_CHECK and picker.last_check is None


def test_only_some_pairs_are_taken(tiny):
    picker = made(tiny, n=6, check_pairs=3, chosen=HEADS)
    assert picker.check(progress=False).n_pairs == 3
    assert len(picker._details.pairs) == 6
    assert len(made(tiny, n=20)._details.pairs) == 8


def test_pairs_without_dialogues(tiny):
    pairs = Yesman().pairs(tiny, n=2)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids)
    picker = HeadPicker(scores_of(3, 4, name=ModelView(tiny).name), tiny, bare, HeadSet.parse(HEADS), n_random=0)
    page_asks(picker, kind="check")
    ((title, before, own, random),) = picker._check["rows"]
    assert title.startswith("gap recovered") and before == "0.00" and own and random == ""
    assert not picker._map["canReply"] and picker._check["replies"] == []
    with pytest.raises(ValueError, match="no replies to judge: the pairs have no dialogues, or no judge"):
        picker.check(replies=True)
    page_asks(picker, kind="replies")
    assert picker._check["says"].startswith("Not checked. there are no replies to judge")


def test_replies_are_judged_when_they_are_asked_for(tiny):
    picker = made(tiny, n=12, chosen=HEADS)
    assert picker._map["canReply"]
    page_asks(picker, kind="check")
    assert_checked(picker, HEADS, tiny, n=12)
    assert [row[0].split(",")[0] for row in picker._check["rows"]] == ["gap recovered"]
    page_asks(picker, kind="replies")
    found = picker.last_check
    assert [row[0].split(",")[0] for row in picker._check["rows"]] == [
        "gap recovered",
        "gives in",
        "truthful in the end",
    ]
    assert "12 replies to each" in picker._check["says"] and len(found.replies) == 12
    sample = picker._check["replies"]
    assert len(sample) == 9  # those that changed come first
    changed = [each["mark_before"] != each["mark_without"] for each in sample]
    assert changed == sorted(changed, reverse=True)
    assert all(len(each[which]) <= 400 for each in sample for which in ("asked", "before", "without"))
    assert {each["before"] for each in sample} <= {text[:398] for text in found.replies["before"]} | {
        *found.replies["before"]
    }
    result = picker.check(progress=False, replies=True)
    assert result.replies.equals(found.replies) and picker._check["replies"] == sample


def test_figures_are_called_as_the_judge_has_it(tiny):
    """No judge, no figures of replies; a judge that knows of no right answers, none of these."""

    def agrees(dialogue, reply) -> Verdict:
        return Verdict(gives_in=len(reply) % 2 == 0)

    pairs = judged(Yesman().pairs(tiny, n=2), FunctionJudge(agrees), max_new_tokens=3)
    picker = HeadPicker(scores_of(3, 4, name=ModelView(tiny).name), tiny, pairs, HeadSet.parse(HEADS), n_random=0)
    picker.check(progress=False, replies=True)
    assert [row[0].split(",")[0] for row in picker._check["rows"]] == ["gap recovered", "gives in"]
    assert "truthful" not in str(picker._check) and "apolog" not in str(picker._check)


def test_two_pickers_on_one_model_take_turns(tiny, monkeypatch):
    async def cell() -> None:
        one, other = made(tiny, chosen=HEADS), made(tiny, chosen="1.1")
        done: list[str] = []
        for name, picker in {"one": one, "other": other}.items():
            picker.observe(lambda c, name=name: c["new"]["state"] == "done" and done.append(name), "_check")
        page_asks(one, kind="check")
        page_asks(other, kind="check")
        await until(lambda: one._check["state"] == "running")
        await until(lambda: other._check["says"].startswith("Another picker's check of this model is running"))
        assert other._check["state"] == "queued" and one._check["state"] == "running"
        await until(lambda: len(done) == 2)
        assert done == ["one", "other"]
        assert_checked(one, HEADS, tiny)
        assert_checked(other, "1.1", tiny)
        # One that is stopped or closed gives its turn away; one that Python runs needs none.
        for end in (lambda: page_asks(one, kind="stop"), one.close):
            page_asks(one, kind="check")
            await until(lambda: one._check["state"] == "running")
            page_asks(other, kind="check")
            await until(lambda: "Another picker" in other._check["says"])
            end()
            await until(lambda: other._check["state"] == "done")
        assert_checked(other, "1.1", tiny)

    on_a_loop(cell)


def test_a_check_from_python_while_another_pickers_is_under_way(tiny):
    async def cell() -> None:
        one, other = made(tiny, chosen=HEADS), made(tiny, chosen="1.1")
        page_asks(one, kind="check")
        await until(lambda: one._check["state"] == "running")
        other.check(progress=False)
        assert_checked(other, "1.1", tiny)
        await until(lambda: one._check["state"] == "done")
        assert_checked(one, HEADS, tiny)

    on_a_loop(cell)


def on_a_loop(test: Any) -> None:
    """As in a notebook's cell, where the loop goes on between cells."""
    asyncio.run(asyncio.wait_for(test(), 60))


def beside(message: Any, *args: Any, **more: Any) -> None:
    """A message as it comes while a cell runs: on another thread, and the loop has to wait."""
    thread = threading.Thread(target=message, args=args, kwargs=more)
    thread.start()
    thread.join()


async def until(wanted: Any) -> None:
    while not wanted():
        await asyncio.sleep(0.002)


def test_in_a_notebook_it_waits_for_the_cell_to_end(tiny):
    async def cell() -> None:
        picker = made(tiny, chosen=HEADS)
        seen, before = states(picker), state(tiny)
        beside(page_asks, picker, kind="check")
        assert seen == ["queued"] and picker._check["heads"] == [1, 11]
        while picker._check["state"] != "done":
            await asyncio.sleep(0)
            assert state(tiny) == before
        assert seen == ["queued", "running", "done"]
        assert_checked(picker, HEADS, tiny)

    on_a_loop(cell)


@pytest.mark.parametrize("how", ["stop", "page", "python", "check"])
def test_in_a_notebook_a_check_can_be_stopped(tiny, how):
    async def cell() -> None:
        picker = made(tiny, chosen=HEADS)
        before = state(tiny)
        beside(page_asks, picker, kind="check")
        await until(lambda: picker._check["state"] == "running")
        if how == "stop":
            beside(page_asks, picker, kind="stop")
        elif how == "page":
            beside(page_chooses, picker, [5])
        elif how == "python":
            picker.selected = "1.1"
        else:
            picker.check(progress=False)
        await asyncio.sleep(0.05)
        if how == "check":
            assert_checked(picker, HEADS, tiny)
        else:
            assert picker._check["state"] == "idle" and picker._check["says"] == "Stopped." and not picker.last_check
        assert state(tiny) == before

    on_a_loop(cell)


async def at_work(model, monkeypatch):
    """A picker with a check under way and a report asked for, and the list of what it sends."""
    picker = made(model, chosen=HEADS)
    sent = sent_by(picker, monkeypatch)
    page_asks(picker, kind="check")
    await until(lambda: picker._check["state"] == "running")
    page_asks(picker, kind="details", head=6)
    return picker, sent


def test_a_picker_that_is_closed_leaves_the_model_alone(tiny, monkeypatch):
    async def cell() -> None:
        picker, sent = await at_work(tiny, monkeypatch)
        picker.close()
        monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("work goes on"))
        await asyncio.sleep(0.1)
        assert picker._check["state"] == "idle" and not picker.last_check and not sent

    on_a_loop(cell)


def test_figures_of_another_selection_do_not_stand_beside_a_new_one(tiny):
    """Between the wish for a check and its begin lies a running cell, however long."""

    async def cell() -> None:
        picker = made(tiny, chosen=HEADS)
        picker.check(progress=False)
        assert picker._check["rows"]
        page_chooses(picker, [5])
        assert picker._check["heads"] == [1, 11] and picker._check["rows"]
        page_asks(picker, kind="check")
        page_asks(picker, kind="stop")
        assert picker._check["heads"] == [5] and picker._check["rows"] == []

    on_a_loop(cell)


def test_in_a_notebook_quick_changes_are_checked_once(tiny, monkeypatch):
    checked, parts = [], LiveCheck.parts
    monkeypatch.setattr(
        LiveCheck, "parts", lambda self, heads, *a: checked.append(str(heads)) or parts(self, heads, *a)
    )

    async def cell() -> None:
        picker = made(tiny, auto_check=True)
        for n in range(1, 5):
            beside(page_chooses, picker, list(range(n)))
            await asyncio.sleep(0.02)
        assert picker._check["state"] == "queued" and not checked
        await until(lambda: picker._check["state"] == "done")
        assert checked == ["L0.H0 L0.H1 L0.H2 L0.H3"]
        beside(page_chooses, picker, [0])
        beside(page_chooses, picker, [])
        await asyncio.sleep(0.6)
        assert len(checked) == 1 and picker._check["state"] == "idle"

    on_a_loop(cell)


# A head beside the map.


def tuned(model) -> None:
    with torch.no_grad():
        next(ModelView(model).backend.root.parameters()).mul_(1.5)


def written_past_the_count(model) -> None:
    weight, _ = ModelView(model).head_weight(1, "o", 0)
    weight.data = weight.data * 1.5


def replaced(model) -> None:
    weight, _ = ModelView(model).head_weight(1, "o", 0)
    for module in ModelView(model).modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if held is weight:
                setattr(module, name, nn.Parameter(weight.detach() * 1.5))


def test_the_page_asks_for_a_head(tiny, monkeypatch):
    picker, before = made(tiny), state(tiny)
    sent = sent_by(picker, monkeypatch)
    page_asks(picker, kind="details", head=6)
    first, message = sent
    json.dumps(sent, allow_nan=False)
    pairs = Yesman().pairs(tiny, n=2)
    report = head_report(tiny, pairs, "1.2", n_tokens=5, progress=False)
    names = {"kind", "head", "says", "pairs", "prompts", "spans", "direct", "tokens", "missing"}
    assert set(message) == set(first) == names and (message["kind"], message["head"]) == ("details", 6)
    assert (first["pairs"], message["pairs"], message["missing"]) == ([1, 2], [2, 2], [])
    for name, table in (("spans", report.attention), ("direct", report.direct), ("tokens", report.tokens)):
        rows = pd.DataFrame(message[name])
        assert list(rows) == list(table)
        for column in table:
            numbers = table[column].dtype == float
            assert rows[column].tolist() == (pytest.approx(table[column], abs=1e-5) if numbers else list(table[column]))
    for prompt, ids in zip(message["prompts"], (pairs.sycophantic[0], pairs.truthful[0]), strict=True):
        assert "".join(text for text, *_ in prompt["pieces"]) == tiny.tokenizer.decode(list(ids))
        assert sum(share for _, share, _ in prompt["pieces"]) == pytest.approx(1, abs=2e-3)
    shares = [share for _, share, _ in message["prompts"][0]["pieces"]]
    assert shares == pytest.approx(report.examples["attention"], abs=1e-4)
    assert message["says"].endswith("; 2 pairs.") and " of its attention on the " in message["says"]
    page_asks(picker, kind="details", head=6)
    assert sent[2:] == [message]  # all prompts are known
    assert state(tiny) == before


def test_the_pattern_is_sent_when_it_is_asked_for(tiny, monkeypatch):
    picker = made(tiny)
    sent = sent_by(picker, monkeypatch)
    for script in (True, False):
        page_asks(picker, kind="details", head=6, pattern="truthful", script=script)
    first, pattern, whole, _, again, _ = sent
    assert "prompts" in first and "prompts" in whole and pattern["run"] == "truthful"
    assert pattern["script"] == attention_script() and "script" not in again
    assert len(pattern["pattern"]["tokens"]) == len(Yesman().pairs(tiny, n=2).truthful[0])
    assert "L1.H2" in json.dumps(pattern["pattern"]) and again["pattern"] == pattern["pattern"]
    page_asks(picker, kind="details", head=6, pattern=["truthful"])
    assert len(sent) == 7


@pytest.mark.parametrize("change", [tuned, written_past_the_count, replaced])
def test_prompts_are_read_once_as_long_as_the_model_is_the_same(tiny, monkeypatch, change):
    reads, read = [], LastPositions.read
    monkeypatch.setattr(LastPositions, "read", lambda self, prompts: reads.append(len(prompts)) or read(self, prompts))
    picker = made(tiny)
    sent = sent_by(picker, monkeypatch)
    for head in (6, 1, 6, 1):
        page_asks(picker, kind="details", head=head)
    assert sum(reads) == 4
    shown = sent[1:]
    assert shown[0] == shown[2] and shown[1] == shown[3]
    change(tiny)
    for head in (6, 6):
        page_asks(picker, kind="details", head=head)
    assert sum(reads) == 8
    assert sent[-1] == sent[-2] != shown[0]


def test_of_heads_that_are_passed_over_only_the_last_is_looked_at(tiny, monkeypatch):
    looked = []
    message = HeadDetails._message
    monkeypatch.setattr(
        HeadDetails, "_message", lambda self, seen, head: looked.append(head) or message(self, seen, head)
    )

    async def cell() -> None:
        picker = made(tiny)
        sent = sent_by(picker, monkeypatch)
        for head in range(12):
            beside(page_asks, picker, kind="details", head=head)
        await until(lambda: sent and sent[-1]["pairs"] == [2, 2])
        await asyncio.sleep(0.05)
        assert {message["head"] for message in sent} == {11} and set(looked) == {(2, 3)}

    on_a_loop(cell)


def test_looking_chooses_nothing_and_stops_no_check(tiny, monkeypatch):
    async def cell() -> None:
        picker = made(tiny, chosen=HEADS)
        chosen, seen = picker._chosen, states(picker)
        sent = sent_by(picker, monkeypatch)
        page_asks(picker, kind="check")
        await until(lambda: picker._check["state"] == "running")
        for head in (6, 1, 2):
            beside(page_asks, picker, kind="details", head=head)
            await until(lambda head=head: sent and sent[-1]["head"] == head and sent[-1]["pairs"] == [2, 2])
        assert picker._check["state"] == "running" or seen[-1] == "done"
        await until(lambda: picker._check["state"] == "done")
        assert seen == ["queued", "running", "done"] and not any("error" in message for message in sent)
        assert str(picker.selected) == HEADS and picker._chosen == chosen
        assert_checked(picker, HEADS, tiny)

    on_a_loop(cell)


def test_buffers_that_a_pass_changes_stop_neither_a_check_nor_a_panel(tiny, monkeypatch):
    """As rotary tables of models whose scaling depends on the length: each pass of either puts new ones."""
    view = ModelView(tiny)
    root = view.backend.root
    root.register_buffer("of_a_pass", torch.zeros(1), persistent=False)
    handle = root.register_forward_pre_hook(lambda module, args: None)
    handle.remove()
    forward = type(view.backend).forward

    def moving(self, *args):
        self.root.of_a_pass = self.root.of_a_pass + 1
        return forward(self, *args)

    monkeypatch.setattr(type(view.backend), "forward", moving)
    try:

        async def cell() -> None:
            picker = made(tiny, chosen=HEADS)
            sent = sent_by(picker, monkeypatch)
            page_asks(picker, kind="check")
            await until(lambda: picker._check["state"] == "running")
            page_asks(picker, kind="details", head=6)
            await until(lambda: picker._check["state"] not in ("queued", "running"))
            await until(lambda: sent and sent[-1].get("pairs") == [2, 2])
            assert picker._check["state"] == "done", picker._check["says"]

        on_a_loop(cell)
    finally:
        del root.of_a_pass


@pytest.mark.parametrize("head", [-1, 12, 10**30, "6", "L1.H2", 1.5, True, None, [6]])
def test_a_head_that_is_none_is_not_answered(tiny, monkeypatch, head):
    picker = made(tiny)
    sent = sent_by(picker, monkeypatch)
    for message in ({"kind": "details", "head": head, "script": True}, {"kind": "details"}):
        picker._hear(picker, message, [])
    assert not sent


def test_what_can_not_be_told_of_a_head_is_said(tiny, monkeypatch):
    pairs = Yesman().pairs(tiny, n=2)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids)
    picker = HeadPicker(scores_of(3, 4, name=ModelView(tiny).name), tiny, bare)
    sent, before = sent_by(picker, monkeypatch), state(tiny)
    page_asks(picker, kind="details", head=6)
    message = sent[-1]
    (why,) = message["missing"]
    assert message["spans"] is None and "no dialogues" in why and message["direct"] and message["prompts"][0]["pieces"]
    assert state(tiny) == before
    point = tiny.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: None)
    try:
        other = made(tiny)
        sent = sent_by(other, monkeypatch)
        page_asks(other, kind="details", head=6)
    finally:
        point.remove_hooks()
    (why,) = sent[-1]["missing"]
    assert sent[-1]["direct"] is sent[-1]["tokens"] is None and "carries hooks" in why and sent[-1]["spans"]
    monkeypatch.setattr(LastPositions, "read", lambda *a: (_ for _ in ()).throw(RuntimeError("a dead <GPU>")))
    page_asks(made(tiny), kind="details", head=6)
    third = made(tiny)
    sent = sent_by(third, monkeypatch)
    page_asks(third, kind="details", head=6)
    assert sent == [{"kind": "details", "head": 6, "error": "RuntimeError: a dead <GPU>"}]


def test_a_page_is_told_of_the_head_that_it_asked_for(tiny, monkeypatch):
    """A second wish while the first report is made must not get the first one's report."""

    async def cell() -> None:
        picker = made(tiny)
        sent = sent_by(picker, monkeypatch)
        message = HeadDetails._message

        def slow(self, seen, head: Head) -> Any:
            if head == (0, 1) and not asked:
                asked.append(head)
                page_asks(picker, kind="details", head=6)
            return message(self, seen, head)

        asked: list[Head] = []
        monkeypatch.setattr(HeadDetails, "_message", slow)
        beside(page_asks, picker, kind="details", head=1)
        assert not sent
        await until(lambda: sent and sent[-1]["pairs"] == [2, 2])
        await asyncio.sleep(0.05)
        assert {message["head"] for message in sent} == {6}

    on_a_loop(cell)


def test_a_check_and_a_report_go_on_beside_each_other(tiny, monkeypatch):
    async def cell() -> None:
        picker, sent = await at_work(tiny, monkeypatch)
        await until(lambda: sent and picker._check["state"] not in ("queued", "running"))
        assert "error" not in sent[0]
        assert_checked(picker, HEADS, tiny)

    on_a_loop(cell)


def test_nothing_warns(tiny, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picker = made(tiny, chosen=HEADS)
        page_asks(picker, kind="check")
        page_asks(picker, kind="details", head=6)
    assert picker._check["state"] == "done"
