"""Recovery as heads are patched in by rank, and both curves as files."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spt_lens import saving as saved
from spt_lens.behaviours.are_you_sure import are_you_sure, are_you_sure_cases
from spt_lens.heads import HeadSet
from spt_lens.measure import set_table as rank_steps
from spt_lens.measure.knockout import KnockoutCurve, knockout_curve
from spt_lens.measure.set_table import RecoveryCurve, recovery_curve
from spt_lens.measure.sets import joint_recovery
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.view.curves import recovery_figure

ALL = HeadSet.of((layer, head) for layer in range(3) for head in range(4))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_each_point_is_joint_recovery(gqa, direction, positions):
    pairs, heads = are_you_sure(gqa, n=4), HeadSet.parse("L2.H1 L0.H3 L1.H0 L1.H2")
    with torch.no_grad():  # what it says first stands for an apology, so that the rate is not zero throughout
        said = torch.stack([gqa(torch.tensor([row]))[0, -1].argmax() for row in pairs.sycophantic])
    pairs = replace(pairs, answer_ids=torch.stack([pairs.answer_ids[:, 0], said], dim=1))
    how = {"direction": direction, "positions": positions}
    curve = recovery_curve(gqa, pairs, heads, n_random=2, batch_size=3, progress=False, **how)
    assert list(curve.table.columns) == ["k", "order", "draw", "recovery", "apology_rate"]
    runs = [(k, "ranked", 0) for k in (0, 1, 2, 4)] + [(k, "random", draw) for k in (1, 2, 4) for draw in (0, 1)]
    assert list(curve.table[["k", "order", "draw"]].itertuples(index=False, name=None)) == runs
    for row in curve.table.to_dict("records"):
        if row["k"] == 0:
            before = joint_recovery(gqa, pairs, ALL, **how).apologises_before
            assert row["recovery"] == 0 and row["apology_rate"] == float(before.float().mean())
            continue
        chosen = heads[: row["k"]]
        if row["order"] == "random":
            chosen = chosen.random_like(gqa, seed=row["draw"])
        effect = joint_recovery(gqa, pairs, chosen, **how)
        assert row["recovery"] == pytest.approx(float(effect.recovery.mean()), abs=1e-4)
        assert row["apology_rate"] == float(effect.apologises_after.float().mean())
    assert curve.heads == heads and curve.n_pairs == 4 and curve.table["apology_rate"].nunique() > 1
    assert curve.settings == {"model": ModelView(gqa).name, "n_random": 2, "seed": 0, "left_out": []}


def test_scores_are_taken_in_rank_order_and_all_heads_recover_everything(tiny):
    pairs = are_you_sure(tiny, n=3, contrast="neutral")
    scores = activation_patching(tiny, pairs, progress=False)
    curve = recovery_curve(tiny, pairs, scores, ks=[12, 1], n_random=0, progress=False)
    assert curve.table["k"].tolist() == [1, 12] and curve.heads == scores.order()
    best, whole = curve.table["recovery"]
    assert best == pytest.approx(float(scores.values.max()), abs=1e-4)
    assert whole == pytest.approx(1, abs=1e-3)
    default = recovery_curve(tiny, pairs, scores, n_random=0, progress=False)
    assert default.table["k"].tolist() == [0, 1, 2, 4, 8, 12]
    short = recovery_curve(tiny, pairs, scores, ks=[2], n_random=1, seed=3, progress=False)
    assert short.heads == scores.top(2) and short.table["k"].tolist() == [2, 2]
    assert short.table.equals(recovery_curve(tiny, pairs, scores, [2], 1, 3, progress=False).table)


def test_scores_go_up_to_16_heads_by_themselves_and_a_selection_to_its_end(tiny, monkeypatch):
    pairs, asked = are_you_sure(tiny, n=2), []
    scores = activation_patching(tiny, pairs, progress=False)
    monkeypatch.setattr(rank_steps, "steps", lambda ks, n, largest: asked.append((ks, n, largest)) or [0])
    recovery_curve(tiny, pairs, scores, progress=False)
    recovery_curve(tiny, pairs, ALL[:5], ks=[3], progress=False)
    assert asked == [(None, 12, 16), ([3], 5, 5)]


def test_random_heads_are_drawn_as_for_a_knockout(tiny):
    view, heads = ModelView(tiny), HeadSet.parse("0.0 1.1 0.1 0.2")
    runs = rank_steps.runs(view, heads, [0, 2, 4], n_random=3, seed=5)
    assert [run[:3] for run in runs[:3]] == [(0, "ranked", 0), (2, "ranked", 0), (4, "ranked", 0)]
    assert [run[3] for run in runs[:3]] == [HeadSet(), heads[:2], heads]
    for k, order, draw, drawn in runs[3:]:
        assert order == "random" and len(drawn) == k and not drawn & heads[:k]
        # Three of four heads of layer 0 can't be matched by others of it.
        assert drawn == heads[:k].random_like(tiny, seed=5 + draw, matched=k == 2)


@pytest.fixture
def curves(tiny) -> tuple[RecoveryCurve, KnockoutCurve]:
    pairs, heads = are_you_sure(tiny, n=2), HeadSet.parse("L1.H2 L0.H0 L2.H3")
    cases = [d.prompt for d in are_you_sure_cases("train", n=3)]
    how = {"ks": [0, 1, 3], "n_random": 2, "seed": 1, "progress": False}
    return recovery_curve(tiny, pairs, heads, **how), knockout_curve(
        tiny, pairs, heads, mean_over="truthful", cases=cases, max_new_tokens=2, **how
    )


def test_curves_are_saved_and_loaded(curves, tmp_path):
    path = tmp_path / "curve.json"
    for curve in (*curves, replace(curves[1], table=curves[1].table.drop(columns="accuracy"), n_cases=0)):
        assert curve.save(path) == path
        again = type(curve).load(path)
        pd.testing.assert_frame_equal(again.table, curve.table, check_exact=True)
        assert again.to_json() == curve.to_json() and again.summary() == curve.summary()
        assert again.heads == curve.heads and again.settings == curve.settings
        assert again._repr_html_() == curve._repr_html_()
    assert curves[1].settings == {"model": curves[0].settings["model"], "n_random": 2, "seed": 1, "max_new_tokens": 2}
    for kind in (RecoveryCurve, KnockoutCurve):
        with pytest.raises(FileNotFoundError):
            kind.load(tmp_path / "none.json")
    with pytest.raises(OSError, match="nowhere"):
        curves[0].save(tmp_path / "nowhere" / "curve.json")


def test_saving_in_vain_leaves_what_was_there(curves, tmp_path):
    path = tmp_path / "curve.json"
    for curve in curves:
        whole = curve.save(path).read_bytes()
        for settings in ({"not JSON": ModelView}, {"not a number": float("nan")}):
            with pytest.raises((TypeError, ValueError)):
                replace(curve, settings=settings).save(path)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("which", [0, 1])
def test_damaged_files_are_refused(curves, which, tmp_path):
    curve, other = curves[which], curves[1 - which]
    path, bad = tmp_path / "curve.json", tmp_path / "bad.json"
    kind = "recovery curve" if which == 0 else "knockout curve"
    metric = "recovery" if which == 0 else "truthfulness"
    text = curve.save(path).read_text()
    data = json.loads(text)
    rows = data["table"]

    def with_row(**changes: object) -> str:
        return json.dumps(data | {"table": [*rows[:-1], rows[-1] | changes]})

    damaged = {
        "": "Expecting value",
        text[: len(text) // 2]: "",
        text[:-3]: "",
        "[]": "something else",
        '"recovery curve"': "something else",
        "[" * 100_000: "",
        other.save(path).read_text(): "it holds a (recovery|knockout) curve",
        json.dumps(data | {"table": []}): "no rows",
        json.dumps(data | {"table": {"k": [0]}}): "no rows",
        json.dumps(data | {"table": [1]}): "row 0 of its table does not have the columns k, order",
        json.dumps(data | {"table": [{k: v for k, v in row.items() if k != metric} for row in rows]}): "columns",
        with_row(more=1): "columns",
        with_row(k="1"): "k in row 6",
        with_row(k=1.5): "k in row 6",
        with_row(k=True): "k in row 6",
        with_row(k=4): "k = 4",
        with_row(k=-1): "k = -1",
        with_row(order="best"): "'best'",
        with_row(**{metric: "much"}): f"{metric} in row",
        with_row(**{metric: float("inf")}): f"{metric} in row",
        json.dumps(data | {"heads": ["L1"]}): "not a head",
        json.dumps(data | {"heads": None}): "not a head selection",
        json.dumps(data | {"n_pairs": "2"}): "n_pairs must be int",
        json.dumps(data | {"settings": []}): "settings must be dict",
    }
    for name in ("heads", "n_pairs", "settings", "table", "kind", *(["direction"] if which == 0 else ["ablation"])):
        damaged[json.dumps({k: v for k, v in data.items() if k != name})] = ""
    unknown = "direction" if which == 0 else "mean_over"
    damaged[json.dumps(data | {unknown: "up"})] = f"{unknown} must be one of"
    for content, message in damaged.items():
        bad.write_text(content)
        with pytest.raises(ValueError, match=f"bad.json holds no saved {kind}, or is damaged(.|\n)*{message}"):
            type(curve).load(bad)
    bad.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="damaged"):
        type(curve).load(bad)


def test_missing_numbers_are_null():
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, float("nan")], "c": ["x", "<y>"]})
    rows = saved.rows(table)
    assert json.loads(json.dumps(rows, allow_nan=False))[1] == {"a": 2, "b": None, "c": "<y>"}
    again = saved.table({"table": rows}, {"a": int, "b": float, "c": str})
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_summary_and_views(curves):
    curve, _ = curves
    last = curve.table[curve.table["k"] == 3]["recovery"].tolist()
    assert curve.summary() == (
        f"3 heads patched in together: {last[0]:.2f} of the gap recovered, random heads {min(last[1:]):.2f} to "
        f"{max(last[1:]):.2f}; denoising, last position, 2 pairs"
    )
    assert (
        "lost; noising, all positions"
        in replace(curve, direction="noising", positions="all", table=curve.table[:3]).summary()
    )
    bundle = curve._repr_mimebundle_()
    assert bundle["text/html"] == curve._repr_html_() and bundle["text/plain"] == repr(curve)
    assert "<script" not in bundle["text/html"] and "http" not in bundle["text/html"]
    assert len(bundle["application/vnd.plotly.v1+json"]["data"]) == 8  # a band of three and a line, for each metric


def test_the_figure_shows_recoveries_outside_of_zero_to_one():
    rows = [
        (0, "ranked", 0, 0.0, 1.0),
        (2, "ranked", 0, 1.4, 0.0),
        (2, "random", 0, -0.3, 1.0),
        (2, "random", 1, 0.1, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["k", "order", "draw", "recovery", "apology_rate"])
    figure = recovery_figure(table, "a title")
    low, high, middle, ranked = figure.data[:4]
    assert list(ranked.y) == [0.0, 1.4] and list(low.y) == [-0.3] and list(high.y) == [0.1]
    assert list(middle.y) == pytest.approx([-0.1]) and list(figure.data[7].y) == [1.0, 0.0]
    assert figure.layout.yaxis.range[0] <= -0.3 and figure.layout.yaxis.range[1] >= 1.4
    assert figure.layout.xaxis.title.text == "heads patched in together" and figure.layout.title.text == "a title"
    for wrong in (table.drop(columns="recovery"), table[:0]):
        with pytest.raises(ValueError, match="recovery|no rows"):
            recovery_figure(wrong)


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs, heads = are_you_sure(tiny, n=2), HeadSet.parse("L0.H0 L1.H1")
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"ks": [3]}, "from 0 to 2"),
        ({"ks": []}, "at least one"),
        ({"n_random": -1}, "n_random"),
        ({"direction": "up"}, "direction"),
        ({"positions": "first"}, "positions"),
        ({"padding": "both"}, "padding"),
    ):
        with pytest.raises(ValueError, match=message):
            recovery_curve(tiny, pairs, heads, progress=False, **wrong)
    with pytest.raises(ValueError, match="empty"):
        recovery_curve(tiny, pairs, HeadSet())
    with pytest.raises(ValueError, match=r"L0\.H7"):
        recovery_curve(tiny, pairs, HeadSet.parse("L0.H7"))
    with pytest.raises(ValueError, match="only 4 left"):
        recovery_curve(tiny, pairs, ALL[:9], n_random=1)
    with pytest.raises(TypeError, match="HeadScores or a HeadSet"):
        recovery_curve(tiny, pairs, ["L0.H0"])  # type: ignore[arg-type]
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        recovery_curve(tiny, pairs, heads)


def test_progress_is_one_bar_that_can_be_turned_off(tiny, capsys):
    pairs = are_you_sure(tiny, n=2)
    recovery_curve(tiny, pairs, HeadSet.parse("L0.H0"), n_random=1, progress=False)
    assert capsys.readouterr() == ("", "")
    recovery_curve(tiny, pairs, HeadSet.parse("L0.H0"), n_random=1)
    shown = capsys.readouterr()
    assert shown.out == "" and "patching sets" in shown.err and "100%" in shown.err and shown.err.count("\n") == 1
