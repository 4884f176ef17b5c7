"""HeadPicker in Python: the selection, live both ways, and where it came from. The page is in tests/browser."""

from __future__ import annotations

import gzip
import json
import random
import threading
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
import traitlets
from by_hand import state
from picking import page_asks, page_chooses, scores_of, sent_by

import spt_lens as spt
from spt_lens.heads import Head, HeadSet
from spt_lens.model.view import ModelView
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

N_HEADS = 16


@pytest.fixture
def picker() -> HeadPicker:
    return HeadPicker(scores_of())


def numbers(text: str) -> list[int]:
    return [layer * N_HEADS + head for layer, head in HeadSet.parse(text)]


def assert_shown(picker: HeadPicker, text: str) -> None:
    """Both sides have the same heads in the same order, and Python has seen the last change."""
    assert str(picker.selected) == text
    assert picker._chosen["heads"] == numbers(text)
    assert picker._seen == picker._chosen["number"]


# The selection, from Python.


@pytest.mark.parametrize(
    "given", ["5.3 0.8", HeadSet.parse("5.3 0.8"), ["L5.H3", (0, 8)], [Head(5, 3), (0, 8)], ((5, 3), "0.8", (5, 3))]
)
def test_a_selection_set_in_python_is_shown(picker, given):
    picker.selected = given
    assert isinstance(picker.selected, HeadSet)
    assert_shown(picker, "L5.H3 L0.H8")


def test_it_begins_with_the_chosen_heads():
    picker = HeadPicker(scores_of(), chosen=HeadSet.parse("5.3 1.1"))
    assert_shown(picker, "L5.H3 L1.H1")
    assert_shown(HeadPicker(scores_of(), chosen="2.2"), "L2.H2")
    assert_shown(HeadPicker(scores_of()), "")


def test_a_selection_of_a_picker_can_be_worked_with(picker):
    picker.selected = picker.scores["activation"].top(3)
    picker.selected |= HeadSet.parse("7.7")
    assert len(picker.selected) == 4
    picker.selected -= HeadSet.parse("7.7")
    assert picker.selected == picker.scores["activation"].top(3)
    picker.selected = ""
    assert_shown(picker, "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("8.0 1.1 0.16", r"L8.H0, L0.H16 have no score: there are 8 layers x 16 heads"),
        (HeadSet.of((99, 0)), "L99.H0"),
        ("five", "'five' is not a head"),
        (5, "5 is not a head"),
        (None, "None is not a head"),
        ([(1, -1)], "count from 0"),
    ],
)
def test_heads_without_a_score_are_refused(picker, wrong, message):
    picker.selected = "1.1 2.2"
    seen = []
    picker.observe(seen.append, "selected")
    before = dict(picker._chosen), picker.selected.about
    with pytest.raises(ValueError, match=message):
        picker.selected = wrong
    with pytest.raises(ValueError, match=message), picker.hold_trait_notifications():
        picker.selected = wrong
    assert_shown(picker, "L1.H1 L2.H2")
    assert (picker._chosen, picker.selected.about) == before and not seen
    if not (wrong is None or wrong == 5):  # the one is none chosen yet, the other no selection by type
        with pytest.raises(ValueError, match=message):
            HeadPicker(scores_of(), chosen=wrong)


# The selection, from the page.


def test_what_a_page_chooses_is_selected(picker):
    seen = []
    picker.observe(lambda change: seen.append((str(change["old"]), str(change["new"]))), "selected")
    page_chooses(picker, numbers("5.3"))
    assert_shown(picker, "L5.H3")
    page_chooses(picker, numbers("5.3 0.8"), number=7)
    assert_shown(picker, "L5.H3 L0.H8")
    assert picker._seen == 7
    picker.selected = "1.1"
    assert_shown(picker, "L1.H1")
    assert picker._chosen["number"] == 8
    picker._chosen = {"heads": [], "number": 9}
    assert_shown(picker, "")
    assert seen == [("", "L5.H3"), ("L5.H3", "L5.H3 L0.H8"), ("L5.H3 L0.H8", "L1.H1"), ("L1.H1", "")]


def test_the_same_heads_again_change_nothing_but_are_seen(picker):
    picker.selected = "5.3 0.8"
    seen = []
    picker.observe(seen.append, "selected")
    page_chooses(picker, numbers("5.3 0.8"), number=40)
    assert picker._seen == 40 and not seen
    page_chooses(picker, numbers("0.8 5.3"))  # in another order it is another choice
    assert_shown(picker, "L0.H8 L5.H3")
    assert len(seen) == 1


def test_a_head_named_twice_by_a_page_is_there_once(picker):
    page_chooses(picker, [5, 5, 3])
    assert_shown(picker, "L0.H5 L0.H3")


@pytest.mark.parametrize(
    "message",
    [
        {"heads": [-1], "number": 5},
        {"heads": [128], "number": 5},
        {"heads": [10**30], "number": 5},
        {"heads": ["3"], "number": 5},
        {"heads": [1.5], "number": 5},
        {"heads": [True], "number": 5},
        {"heads": [None], "number": 5},
        {"heads": [[3]], "number": 5},
        {"heads": "L0.H3", "number": 5},
        {"heads": None, "number": 5},
        {"heads": {"0": 3}, "number": 5},
        {"heads": [3], "number": -1},
        {"heads": [3], "number": "5"},
        {"heads": [3], "number": None},
        {"heads": [3]},
        {"number": 5},
        {},
    ],
)
def test_a_message_that_makes_no_sense_changes_nothing(picker, message):
    picker.selected = "1.1 2.2"
    before, seen = dict(picker._chosen), []
    picker.observe(seen.append, "selected")
    picker.set_state({"_chosen": message})
    assert_shown(picker, "L1.H1 L2.H2")
    picker._chosen = message
    assert_shown(picker, "L1.H1 L2.H2")
    assert picker._chosen == before and not seen
    page_chooses(picker, numbers("3.3"))
    assert_shown(picker, "L3.H3")


@pytest.mark.parametrize("wrong", ["heads", None, [3], 3])
def test_a_message_of_another_type_changes_nothing(picker, wrong):
    picker.selected = "1.1 2.2"
    with pytest.raises(traitlets.TraitError):
        picker.set_state({"_chosen": wrong})
    assert_shown(picker, "L1.H1 L2.H2")


@pytest.mark.parametrize(
    "message",
    [
        None,
        "check",
        [],
        {},
        {"kind": None},
        {"kind": ["check"]},
        {"kind": "delete"},
        {"kind": "check"},
        {"kind": "stop"},
        {"kind": "details"},
        {"kind": "details", "head": 3, "script": True},
    ],
)
def test_messages_that_ask_for_nothing_that_there_is(picker, monkeypatch, message):
    sent, before = sent_by(picker, monkeypatch), picker.get_state()
    picker._hear(picker, message, [])
    assert not sent and picker.get_state() == before


def test_an_observer_that_fails_or_chooses_otherwise(picker):
    def at_most_two(change):
        picker.selected = change["new"][:2]

    picker.observe(at_most_two, "selected")
    page_chooses(picker, numbers("1.1 2.2 3.3"))
    assert_shown(picker, "L1.H1 L2.H2")
    picker.selected = "4.4 5.5 6.6"
    assert_shown(picker, "L4.H4 L5.H5")
    picker.unobserve_all("selected")

    def fails(change):
        raise RuntimeError("no")

    picker = HeadPicker(scores_of())
    picker.observe(fails, "selected")
    with pytest.raises(RuntimeError, match="no"):
        page_chooses(picker, numbers("1.1"))
    assert_shown(picker, "L1.H1")


def test_both_sides_at_once_end_with_the_same_heads(picker):
    """A page's messages come on a thread of their own, while a cell sets the selection."""
    rng, errors = random.Random(0), []

    def page():
        try:
            for i in range(200):
                picker._chosen = {"heads": rng.sample(range(128), 3), "number": i}
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=page)
    thread.start()
    for i in range(200):
        picker.selected = [(i % 8, i % 16), (0, 0)]
    thread.join()
    assert not errors
    assert picker._chosen["heads"] == [layer * N_HEADS + head for layer, head in picker.selected]


# Where a selection came from.


def test_a_selection_says_where_it_came_from():
    layers = {"one": scores_of(), "other <b>": scores_of(seed=1, n_pairs=3, method="path", positions="all")}
    picker = HeadPicker(layers, budget=0.25, name="mine")
    for choose in (lambda: page_chooses(picker, [3]), lambda: setattr(picker, "selected", "1.1")):
        choose()
        about = picker.selected.about
        assert {**about, "date": "", "chosen_by": ""} == {
            "name": "mine",
            "model": "random",
            "scores": [
                {"layer": "one", "method": "activation", "direction": "denoising", "positions": "last"}
                | {"metric": "recovery", "n_pairs": 8, "model_name": "random"},
                {"layer": "other <b>", "method": "path", "direction": "denoising", "positions": "all"}
                | {"metric": "recovery", "n_pairs": 3, "model_name": "random"},
            ],
            "chosen_by": "",
            "budget": 0.25,
            "date": "",
        }
        assert about["chosen_by"].startswith("HeadPicker, spt_lens")
        assert abs((datetime.now(UTC) - datetime.fromisoformat(about["date"])).total_seconds()) < 60
        assert json.loads(json.dumps(about, allow_nan=False)) == about


def test_a_selection_that_says_so_already_keeps_it(picker):
    about = {"name": "theirs", "model": "random", "note": "by hand"}
    picker.selected = HeadSet(HeadSet.parse("1.1").heads, about)
    assert picker.selected.about == about
    picker.selected = HeadSet(picker.selected.heads, {"note": "the same heads, of which more is known"})
    assert picker.selected.about == {"note": "the same heads, of which more is known"}
    page_chooses(picker, numbers("1.1 2.2"))
    assert picker.selected.about["chosen_by"]  # another selection, and this picker's
    assert about == {"name": "theirs", "model": "random", "note": "by hand"}


def test_the_name_can_change(picker):
    picker.selected = "1.1"
    seen = []
    picker.observe(seen.append, "selected")
    about = picker.selected.about
    picker.name = "mine"
    assert picker.selected.about == {**about, "name": "mine"} and about["name"] == ""
    assert_shown(picker, "L1.H1")
    assert not seen  # the heads are the same
    page_chooses(picker, numbers("2.2"))
    assert picker.selected.about["name"] == "mine"


def test_saved_and_loaded(picker, tmp_path):
    picker.selected = "5.3 0.8"
    path = picker.save(tmp_path / "layer five.json")
    assert picker.name == "layer five" and picker.selected.about["name"] == "layer five"
    assert HeadSet.load(path) == picker.selected and HeadSet.load(path).about == picker.selected.about
    picker.save(tmp_path / "again.json")
    assert HeadSet.load(tmp_path / "again.json").about["name"] == "layer five"
    picker.save(tmp_path / "again.json", name="renamed")
    other = HeadPicker(scores_of())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = other.load(tmp_path / "again.json")
    assert loaded == other.selected == picker.selected
    assert other.name == picker.name == "renamed"
    assert dict(other.selected.about) == dict(picker.selected.about)
    assert_shown(other, "L5.H3 L0.H8")


def test_saved_under_the_pickers_name_also_with_a_colleagues_heads(picker, tmp_path):
    theirs = HeadSet(HeadSet.parse("1.1").heads, {"name": "theirs", "model": "random"})
    picker.selected = theirs
    picker.save(tmp_path / "a.json")
    assert HeadSet.load(tmp_path / "a.json").about == picker.selected.about == theirs.about
    named = HeadPicker(scores_of(), chosen=theirs, name="mine")
    named.selected = theirs
    named.save(tmp_path / "b.json")
    assert HeadSet.load(tmp_path / "b.json").about["name"] == "mine" and theirs.about["name"] == "theirs"


def test_what_can_not_be_saved(picker, tmp_path):
    with pytest.raises(ValueError, match="nothing to save"):
        picker.save(tmp_path / "none.json")
    picker.selected = "1.1"
    with pytest.raises(OSError):
        picker.save(tmp_path / "missing" / "heads.json", name="new")
    assert picker.name == "" and not list(tmp_path.iterdir())


def test_heads_chosen_on_another_model_warn(picker, tmp_path):
    other = HeadPicker(scores_of(name="another"), chosen="5.3", name="theirs")
    other.save(tmp_path / "heads.json")
    with pytest.warns(UserWarning, match="heads.json was chosen on another, these scores are of random") as caught:
        picker.load(tmp_path / "heads.json")
    assert caught[0].filename == __file__
    assert_shown(picker, "L5.H3")
    assert picker.selected.about["model"] == "another" and picker.name == "theirs"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picker.selected = "1.1"
        with pytest.raises(UserWarning):
            picker.load(tmp_path / "heads.json")
    assert_shown(picker, "L1.H1")


def test_a_selection_that_does_not_fit_is_not_loaded(picker, tmp_path):
    picker.selected, picker.name = "1.1", "mine"
    before = picker.selected.about
    larger = HeadPicker(scores_of(20, 16), chosen="19.0 1.1", name="larger")
    cases = [(larger.save(tmp_path / "heads.json"), "L19.H0 have no score")]
    for i, text in enumerate(("not json", "[]", '{"heads": ["x"]}', '{"heads": ["1.1"], "about": 3}')):
        path = tmp_path / f"{i}.json"
        path.write_text(text)
        cases.append((path, "no saved head selection|not a"))
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            picker.load(path)
    with pytest.raises(FileNotFoundError):
        picker.load(tmp_path / "none.json")
    assert_shown(picker, "L1.H1")
    assert picker.name == "mine" and picker.selected.about == before
    HeadSet.parse("2.2").save(tmp_path / "plain.json")
    picker.load(tmp_path / "plain.json")  # without a word about itself: it is this picker's from now on
    assert picker.selected.about["chosen_by"] and picker.name == picker.selected.about["name"] == ""


def test_selections_of_the_same_heads_are_equal(picker):
    picker.selected = "1.1 2.2"
    assert picker.selected == HeadSet.parse("1.1 2.2") and hash(picker.selected) == hash(HeadSet.parse("1.1 2.2"))
    assert picker.selected != HeadSet.parse("2.2 1.1")


def test_an_adapter_keeps_where_its_heads_came_from(tiny, tmp_path):
    picker = HeadPicker(scores_of(3, 4, name=ModelView(tiny).name), name="mine", chosen="0.1 2.3")
    config = TuneConfig(steps=1, batch_size=2)
    run = pinpoint_tune(tiny, picker.selected, Yesman().cases("train", n=2), config, progress=False)
    about = dict(picker.selected.about)
    assert run.adapter.meta["selection"] == about and about["name"] == "mine"
    again = Adapter.load(run.adapter.save(tmp_path / "adapter"))
    assert again.meta["selection"] == dict(again.heads.about) == about
    assert again.heads == picker.selected
    picker.selected = again.heads
    assert dict(picker.selected.about) == about


# What it is made of.


def test_it_says_how_many_heads_and_whether_that_is_within_the_budget():
    picker = HeadPicker(scores_of(), budget=0.05, chosen=scores_of().top(6))
    assert picker.summary() == "6 of 128 heads (4.7%), within the budget of 5 %"
    picker.selected = scores_of().top(7)
    assert picker.summary() == "7 of 128 heads (5.5%), over the budget of 5 %"
    assert repr(picker) == f"HeadPicker(activation; {picker.summary()}: {picker.selected})"
    small = HeadPicker(scores_of(2, 2), budget=0.01, chosen="0.0")
    assert "within" in small.summary()  # one head is always allowed
    assert "within" in HeadPicker(scores_of(), budget=1, chosen=scores_of().order()).summary()


def test_scores_that_are_not_finite_never_reach_it():
    values = torch.full((2, 2), torch.nan)
    with pytest.raises(ValueError, match="not finite: look for pairs whose two runs hardly differ"):
        HeadPicker(HeadScores(values, values[None], "activation", "denoising", "last", "random"))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"scores": []}, ValueError, "no scores to pick from"),
        ({"scores": {}}, ValueError, "no scores to pick from"),
        ({"scores": torch.zeros(2, 2)}, TypeError, "scores must be a HeadScores"),
        ({"scores": None}, TypeError, "is None: give a HeadScores"),
        ({"scores": "yesman"}, TypeError, "is 'yesman'"),
        ({"scores": HeadSet.parse("1.1")}, TypeError, "is Head"),
        ({"scores": [scores_of(), torch.zeros(8, 16)]}, TypeError, "is a Tensor"),
        ({"scores": {"a": scores_of(), "b": scores_of(8, 4)}}, ValueError, "'a' 8 x 16, 'b' 8 x 4"),
        ({"budget": 0}, ValueError, "budget=0: give a number above 0"),
        ({"budget": 1.5}, ValueError, "budget=1.5"),
        ({"budget": -0.1}, ValueError, "budget=-0.1"),
        ({"budget": float("nan")}, ValueError, "budget=nan"),
        ({"budget": True}, ValueError, "budget=True: give a finite number"),
        ({"theme": "pink"}, ValueError, "theme='pink': choose one of 'auto', 'light', 'dark'"),
        ({"theme": None}, ValueError, "theme=None"),
        ({"check_pairs": 0}, ValueError, "check_pairs=0"),
        ({"presets": {"good": "1.1", "paper": "9.9"}}, ValueError, "preset 'paper': L9.H9 have no score"),
        ({"presets": {"paper": "nine"}}, ValueError, "preset 'paper': 'nine' is not a head"),
        ({"presets": HeadSet.parse("1.1")}, TypeError, "presets must be a Mapping"),
        ({"pairs": object()}, TypeError, "pairs must be a ContrastPairs"),
    ],
)
def test_what_it_can_not_be_made_of(wrong, error, message):
    with pytest.raises(error, match=message):
        HeadPicker(**{"scores": scores_of()} | wrong)


def test_a_model_that_the_scores_are_not_of(tiny):
    pairs, name = Yesman().pairs(tiny, n=2), ModelView(tiny).name
    fitting = scores_of(3, 4, name=name)
    before = state(tiny)
    with pytest.raises(ValueError, match="give both, or neither"):
        HeadPicker(fitting, model=tiny)
    with pytest.raises(ValueError, match=f"8 layers x 16 heads, {name} has 3 x 4: measure them on this model"):
        HeadPicker(scores_of(name=name), model=tiny, pairs=pairs)
    with pytest.raises(TypeError, match="pairs must be a ContrastPairs"):
        HeadPicker(fitting, model=tiny, pairs=[1])
    with pytest.raises(TypeError, match="load_model"):
        HeadPicker(fitting, model="tiny", pairs=pairs)
    with pytest.raises(ValueError, match="n_random=-1"):
        HeadPicker(fitting, model=tiny, pairs=pairs, n_random=-1)
    with pytest.raises(ValueError, match="projections='x'"):
        HeadPicker(fitting, model=tiny, pairs=pairs, projections="x")
    with pytest.warns(UserWarning, match=f"scores are of another and the model is {name}") as caught:
        HeadPicker(scores_of(3, 4, name="another"), model=tiny, pairs=pairs)
    assert caught[0].filename == __file__
    assert state(tiny) == before


def test_it_is_there_as_spt_headpicker():
    assert spt.HeadPicker is HeadPicker


def test_a_page_gets_plotly_when_it_asks(picker, monkeypatch):
    sent = sent_by(picker, monkeypatch)
    page_asks(picker, kind="plotly")
    (message,) = sent
    assert message["kind"] == "plotly" and b"Plotly" in gzip.decompress(message["buffers"][0])
    assert picker._map["plotly"] and len(json.dumps(picker._map)) < 100_000  # it is not kept in the notebook


def test_all_that_a_page_is_told_is_json(picker):
    picker.selected = "1.1"
    told = {name for name in picker.keys if name.startswith("_") and "module" not in name and "view" not in name}
    told -= {"_esm", "_css", "_dom_classes", "_model_name", "_anywidget_id"}
    assert told == {"_map", "_chosen", "_seen", "_check", "_auto", "_sets"}
    json.dumps({name: getattr(picker, name) for name in told}, allow_nan=False)


def test_a_cell_that_chooses_while_a_pages_message_is_taken_waits_and_is_checked():
    picker = HeadPicker(scores_of())
    inside, go = threading.Event(), threading.Event()

    def slow(change: Any) -> None:
        inside.set()
        assert go.wait(10)

    picker.observe(slow, "selected")
    page = threading.Thread(target=page_chooses, args=(picker, [3]))
    page.start()
    assert inside.wait(10)
    picker.unobserve(slow, "selected")
    failed: list[BaseException] = []

    def cell() -> None:
        try:
            picker.selected = "L99.H0"
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=cell)
    thread.start()
    go.set()
    page.join(10)
    thread.join(10)
    assert "L99.H0 have no score" in str(failed[0])
    assert picker.selected == HeadSet.parse("0.3") and picker._chosen["heads"] == [3]


def test_a_closed_picker_lets_go_of_the_model(tiny):
    pairs = Yesman().pairs(tiny, n=2)
    picker = HeadPicker(scores_of(3, 4, name=ModelView(tiny).name), tiny, pairs, auto_check=True)
    picker.close()
    picker.selected = "0.1"
    assert picker.last_check is None and picker._live is None and picker._details is None
    with pytest.raises(ValueError, match="the live check needs the model"):
        picker.check()


def test_a_name_that_is_none_is_refused_before_anything_is_written(tmp_path):
    picker = HeadPicker(scores_of(), chosen=HeadSet.parse("1.1"))
    with pytest.raises(TypeError, match="name must be a str, and is 3"):
        picker.save(tmp_path / "heads.json", name=3)
    assert not (tmp_path / "heads.json").exists()


@pytest.mark.parametrize("wrong", [{"budget": "x"}, {"check_pairs": 2.5}, {"check_pairs": "3"}])
def test_wrong_numbers_are_named(wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        HeadPicker(scores_of(), **wrong)


# Selections under names.


def page_keeps(picker: HeadPicker, *kept: tuple[str, list[int]]) -> None:
    picker.set_state({"_sets": [{"name": name, "heads": heads} for name, heads in kept]})


def test_selections_are_kept_under_names_from_python():
    picker = HeadPicker(scores_of(), presets={"paper": "5.3 0.8"}, chosen="1.1 5.3")
    picker.selections["  my\nown "] = picker.selected
    assert dict(picker.selections) == {"paper": HeadSet.parse("5.3 0.8"), "my own": HeadSet.parse("1.1 5.3")}
    assert picker._sets == [{"name": "my own", "heads": numbers("1.1 5.3")}]
    assert picker.selections["my own"].about["name"] == "my own" and picker.selections["my own"].about["chosen_by"]
    picker.selections["other"] = "2.2"
    picker.selections["my own"] = [(3, 3)]
    assert list(picker.selections) == ["paper", "my own", "other"] and len(picker.selections) == 3
    assert str(picker.selections["my own"]) == "L3.H3" and "'other': HeadSet.parse" in repr(picker.selections)
    picker.selected = picker.selections["paper"] | picker.selections["other"]
    assert_shown(picker, "L5.H3 L0.H8 L2.H2")
    del picker.selections["my own"]
    assert picker._sets == [{"name": "other", "heads": numbers("2.2")}] and "my own" not in picker.selections


def test_selections_are_kept_from_the_page():
    picker = HeadPicker(scores_of(), presets={"paper": "5.3"})
    page_keeps(picker, ("mine <b>", numbers("1.1 2.2")), ("7", [3]))
    assert str(picker.selections["mine <b>"]) == "L1.H1 L2.H2" and picker.selections["7"] == HeadSet.parse("0.3")
    about = picker.selections["7"].about
    page_keeps(picker, ("7", [3]), ("mine <b>", [4]))  # the last state wins
    assert picker.selections["7"].about == about and str(picker.selections["mine <b>"]) == "L0.H4"
    page_keeps(picker)
    assert list(picker.selections) == ["paper"]


@pytest.mark.parametrize(
    "kept",
    [
        [{"name": "a", "heads": [128]}],
        [{"name": "a", "heads": [-1]}],
        [{"name": "a", "heads": "L0.H1"}],
        [{"name": "a", "heads": []}],
        [{"name": "a"}],
        [{"name": "", "heads": [1]}],
        [{"name": 3, "heads": [1]}],
        [{"name": "a " * 60, "heads": [1]}],
        [{"name": "a", "heads": [1]}, {"name": "a", "heads": [2]}],
        [{"name": "a", "heads": [1]}] + [3],
        [{"name": str(i), "heads": [1]} for i in range(501)],
    ],
)
def test_names_that_make_no_sense_change_nothing(kept):
    picker = HeadPicker(scores_of())
    picker.selections["mine"] = "1.1"
    picker.set_state({"_sets": kept})
    assert dict(picker.selections) == {"mine": HeadSet.parse("1.1")}
    assert picker._sets == [{"name": "mine", "heads": numbers("1.1")}]


def test_what_can_not_be_kept():
    picker = HeadPicker(scores_of(), presets={"paper": "5.3"})
    for name, heads, message in (
        ("paper", "1.1", "'paper' is a preset of this picker, which stays as it is: take another name"),
        (" ", "1.1", "under a name: give it one"),
        ("mine", "", "there are no heads to keep as 'mine'"),
        ("mine", "9.9", "L9.H9 have no score"),
    ):
        with pytest.raises(ValueError, match=message):
            picker.selections[name] = heads
    with pytest.raises(TypeError, match="a selection's name must be a str, and is 3"):
        picker.selections[3] = "1.1"
    with pytest.raises(ValueError, match="'paper' is a preset"):
        del picker.selections["paper"]
    with pytest.raises(KeyError):
        del picker.selections["mine"]
    assert list(picker.selections) == ["paper"] and picker._sets == []


def test_layers_of_another_model_are_named(recwarn):
    HeadPicker([scores_of(), scores_of(seed=1)])
    assert not recwarn
    with pytest.warns(
        UserWarning, match="'path' is of other, and 'activation' of random: heads of two models"
    ) as caught:
        HeadPicker([scores_of(), scores_of(name="other", method="path")])
    assert caught[0].filename == __file__
