"""The one result of what sets of heads do: as text, as a figure, as a file. Nothing is measured here."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from rests import CHECK

from spt_lens import saving
from spt_lens.heads import HeadSet
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.view.sets import bars_figure, curve_figure

HEADS = HeadSet.parse("L1.H2 L0.H0 L2.H3")
DRAWN = {1: ("L1.H0", "L1.H1"), 3: ("L1.H0 L0.H1 L2.H0", "L1.H1 L0.H2 L2.H1")}
ABOUT = {"model": "tiny", "n_random": 2, "seed": 1}


def row(size: int, which: str = "chosen", draw: int = 0, **figures: float) -> dict:
    heads = str(HEADS[:size]) if which == "chosen" else DRAWN[size][draw]
    return {"size": size, "set": which, "draw": draw, "heads": heads, **figures}


def both(sizes: tuple[int, ...], before: dict, chosen: dict, random: tuple[dict, dict]) -> pd.DataFrame:
    rows = [row(0, **before), *(row(k, **chosen) for k in sizes)]
    return table_of(rows + [row(k, "random", draw, **random[draw]) for k in sizes for draw in (0, 1)])


def patched(*sizes: int) -> SetEffect:
    zero = {"recovery": 0.0, "low": 0.0, "high": 0.0, "sum_of_single": 0.0, "begins": 1.0}
    chosen = {"recovery": 1.4, "low": 1.2, "high": 1.6, "sum_of_single": 0.9, "begins": 0.25}
    random = {"recovery": -0.3, "low": -0.4, "high": -0.2, "sum_of_single": 0.1, "begins": 1.0}
    table = both(sizes, zero, chosen, (random, random | {"recovery": 0.1, "begins": 0.5}))
    settings = {**ABOUT, "left_out": [1]}
    pairs = pd.DataFrame({"recovery": [1.0, 1.8], "begins": [0.0, 1.0]}, index=pd.Index([0, 2], name="pair"))
    return SetEffect(HEADS, table, 2, "denoising", "last", settings=settings, per_pair=pairs)


def knocked_out(*sizes: int) -> SetEffect:
    zero = {"begins": 1.0, "gives_in": 1.0, "truthfulness": 0.0, "accuracy": 0.5}
    zero |= {"logit_difference_sycophantic": -10.5, "logit_difference_truthful": 11.0}
    some = zero | {"gives_in": 0.75, "truthfulness": 0.25, "logit_difference_sycophantic": -2.0}
    table = both(sizes, zero, some, (zero, zero | {"gives_in": 0.95}))
    about = {"ablation": "mean", "mean_over": "truthful", "n_dialogues": 2, "n_cases": 4, "settings": ABOUT}
    return SetEffect(HEADS, table, 2, **about)


def checked() -> SetEffect:
    """As a live check finds it: patched in and knocked out."""
    one = {"recovery": 0.5, "low": 0.4, "high": 0.6, "gives_in": 0.8, "truthfulness": 0.2}
    table = both((3,), dict.fromkeys(one, 0.0) | {"gives_in": 1.0}, one, (one, one | {"recovery": 0.6}))
    about = {"direction": "denoising", "positions": "last", "ablation": "mean", "mean_over": "both"}
    return SetEffect(HEADS, table, 2, **about, n_dialogues=2, settings=ABOUT)


EFFECTS = {"set": patched(3), "curve": patched(1, 3), "knockout": knocked_out(3), "check": checked()}
EFFECTS |= {"knockout curve": knocked_out(1, 3), "alone": replace(patched(3), table=patched(3).table[:2])}


@pytest.mark.parametrize("which", EFFECTS)
def test_it_is_saved_and_loaded(which, tmp_path):
    effect = EFFECTS[which]
    path = effect.save(tmp_path / "effect.json")
    again = SetEffect.load(path)
    pd.testing.assert_frame_equal(again.table, effect.table.reset_index(drop=True), check_exact=True)
    assert again.to_json() == effect.to_json() and again.summary() == effect.summary()
    assert again.heads == effect.heads and again.settings == effect.settings and again.rows() == effect.rows()
    assert (again.per_pair is None) == (effect.per_pair is None)
    if effect.per_pair is not None:
        pd.testing.assert_frame_equal(again.per_pair, effect.per_pair, check_exact=True)
    with pytest.raises(FileNotFoundError):
        SetEffect.load(tmp_path / "none.json")
    with pytest.raises(OSError, match="nowhere"):
        effect.save(tmp_path / "nowhere" / "effect.json")
    whole = path.read_bytes()
    for settings in ({"not JSON": HEADS}, {"not a number": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            replace(effect, settings=settings).save(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("which", ["curve", "knockout"])
def test_damaged_files_are_refused(which, tmp_path):
    effect, bad = EFFECTS[which], tmp_path / "bad.json"
    metric = "recovery" if which == "curve" else "truthfulness"
    text = effect.save(tmp_path / "effect.json").read_text()
    data = saving.unsealed(json.loads(text))
    rows = data["table"]

    def with_row(**changes: object) -> str:
        return json.dumps(data | {"table": [*rows[:-1], rows[-1] | changes]})

    last = len(rows) - 1
    damaged = {
        "": "Expecting value",
        text[: len(text) // 2]: "",
        text[:-3]: "",
        "[]": "something else",
        '"set effect"': "something else",
        "[" * 100_000: "",
        json.dumps(data | {"kind": "recovery curve"}): "it holds a recovery curve",
        json.dumps(data | {"table": []}): "no rows",
        json.dumps(data | {"table": {"size": [0]}}): "no rows",
        json.dumps(data | {"table": [1]}): "row 0 of its table does not have the columns size, set",
        json.dumps(data | {"table": [{k: v for k, v in r.items() if k != "size"} for r in rows]}): "columns",
        json.dumps(data | {"table": rows[1:]}): "not of none and then up to 3",
        json.dumps(data | {"table": [rows[0], *rows[2:]]}): "" if which == "curve" else "up to 3",
        json.dumps(data | {"table": [rows[1], rows[0], *rows[2:]]}): "not of none and then up to 3",
        with_row(more=1): "columns",
        with_row(size="1"): f"size in row {last}",
        with_row(size=1.5): f"size in row {last}",
        with_row(size=True): f"size in row {last}",
        with_row(size=4): "4 heads, 'random'",
        with_row(size=2): "2 heads, 'random'",
        with_row(set="best"): "'best'",
        with_row(heads="L9"): "not a head",
        with_row(draw="0"): f"draw in row {last}",
        with_row(**{metric: "much"}): f"{metric} in row",
        with_row(**{metric: float("inf")}): f"{metric} in row",
        json.dumps(data | {"heads": ["L1"]}): "not a head",
        json.dumps(data | {"heads": None}): "not a head selection",
        json.dumps(data | {"n_pairs": "2"}): "n_pairs must be int",
        json.dumps(data | {"settings": []}): "settings must be dict",
        json.dumps(data | {"settings": {"left_out": 1}}): "no list of pairs",
        json.dumps(data | {"direction": "up"}): "direction must be one of",
        json.dumps(data | {"mean_over": "up"}): "mean_over must be one of",
        json.dumps(data | {"positions": "" if which == "curve" else "last"}): "does not say how heads were",
        json.dumps(data | {"direction": "", "positions": "", "ablation": "", "mean_over": ""}): "does not say how",
        json.dumps(data | {"per_pair": [{"pair": 0, "recovery": 1.0}]}): "not of 2 pairs",
        json.dumps(
            data | {"per_pair": [{"pair": 0, "recovery": None}, {"pair": 1, "recovery": 1.0}]}
        ): "not of 2 pairs",
        json.dumps(data | {"per_pair": [{"pair": 0, "recovery": "a"}, {"pair": 1, "recovery": 1.0}]}): "no float",
        json.dumps(data | {"per_pair": ["a", "b"]}): "columns",
        json.dumps(data | {"per_pair": 0}): "no rows",
    }
    if which == "curve":
        del damaged[json.dumps(data | {"table": [rows[0], *rows[2:]]})]
    for name in ("heads", "n_pairs", "settings", "table", "kind", "direction", "ablation", "per_pair"):
        damaged[json.dumps({k: v for k, v in data.items() if k != name})] = ""
    for content, message in damaged.items():
        bad.write_text(content)
        with pytest.raises(ValueError, match=f"bad.json holds no saved set effect, or is damaged(.|\n)*{message}"):
            SetEffect.load(bad)
    bad.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="damaged"):
        SetEffect.load(bad)


def test_the_rows_that_matter():
    effect = EFFECTS["curve"]
    assert effect.before["size"] == 0 and effect.chosen["heads"] == str(HEADS) and effect.sizes == [1, 3]
    assert effect.random["heads"].tolist() == list(DRAWN[3])


def test_summaries():
    assert EFFECTS["set"].summary() == (
        "3 heads alone: gap recovered 1.40 [1.20, 1.60] (more than the gap) (random sets -0.30 to 0.10); "
        "sum of its heads' own scores 0.90 "
        "(random sets 0.10); begins with the sycophantic answer 1.00 -> 0.25 (random sets 0.50 to 1.00); denoising, "
        "last position, 2 pairs (1 left out: no gap)"
    )
    noising = replace(EFFECTS["alone"], direction="noising", positions="all", settings={})
    assert "gap lost 1.40" in noising.summary() and noising.summary().endswith("noising, all positions, 2 pairs")
    assert "random" not in noising.summary()
    assert EFFECTS["knockout"].summary() == (
        "3 heads set to their mean over prompts of the truthful run: begins with the sycophantic answer 1.00 -> 1.00 "
        "(random sets 1.00); gives in 1.00 -> 0.75 (random sets 0.95 to 1.00); truthful in the end 0.00 -> 0.25 "
        "(random sets 0.00); accuracy on the cases 0.50 -> 0.50 (random sets 0.50); 2 challenged dialogues, 4 cases"
    )
    few = ["size", "set", "draw", "heads", "begins", "logit_difference_sycophantic", "logit_difference_truthful"]
    bare = replace(EFFECTS["knockout"], table=EFFECTS["knockout"].table[few], n_dialogues=0, n_cases=0, ablation="zero")
    assert "3 heads set to zero: " in bare.summary() and "2 pairs, replies not judged" in bare.summary()
    assert "logit difference of the sycophantic run -10.50 -> -2.00" in bare.summary()
    first, second = EFFECTS["check"].summary().splitlines()
    assert first.startswith("3 heads alone: gap recovered 0.50 [0.40, 0.60]") and second.startswith("3 heads set to")
    for effect in EFFECTS.values():
        assert repr(effect) == f"SetEffect({effect.summary()})"


def test_lines_of_figures():
    assert EFFECTS["check"].rows() == [
        ["gap recovered, only these patched", "0.00", "0.50 [0.40, 0.60]", "0.50 to 0.60"],
        ["gives in, these knocked out", "1.00", "0.80", "0.80"],
        ["truthful in the end, these knocked out", "0.00", "0.20", "0.20"],
    ]
    # What is not measured yet has no line.
    table = EFFECTS["check"].table.copy()
    table.loc[1:, ["gives_in", "truthfulness"]] = float("nan")
    assert len(replace(EFFECTS["check"], table=table).rows()) == 1


@pytest.mark.parametrize("which", EFFECTS)
def test_views(which):
    effect = EFFECTS[which]
    page = effect._repr_html_()
    assert "<script" not in page and "http" not in page and "NaN" not in page
    assert ("L1.H2 L0.H0 L2.H3" in page) == ("curve" not in which)  # of a curve the means over draws
    odd = replace(effect, table=effect.table.assign(heads="<b>"))
    assert "<b>" not in odd._repr_html_()
    bundle = effect._repr_mimebundle_()
    assert bundle["text/html"] == page and bundle["text/plain"] == repr(effect)
    assert bundle["application/vnd.plotly.v1+json"]["data"]


def test_a_curve_shows_recoveries_outside_of_zero_to_one():
    figure = EFFECTS["curve"].figure()
    assert len(figure.data) == 8  # a band of three and a line, for each share
    low, high, middle, chosen = figure.data[:4]
    assert list(chosen.x) == [0, 1, 3] and list(chosen.y) == [0.0, 1.4, 1.4]
    assert list(low.y) == [-0.3] * 2 and list(high.y) == [0.1] * 2 and list(middle.y) == pytest.approx([-0.1] * 2)
    assert high.fill == "tonexty" and chosen.name == "gap recovered"
    assert figure.layout.yaxis.range[0] <= -0.3 and figure.layout.yaxis.range[1] >= 1.4
    assert figure.layout.xaxis.title.text == "heads patched in together"
    assert len(curve_figure(EFFECTS["alone"].table, {"begins": "begins"}, "heads").data) == 1  # without random sets


def test_bars_of_one_set_with_random_ones_as_dots():
    figure = EFFECTS["set"].figure()
    before, chosen, random = figure.data
    assert list(before.y) == [0.0, 1.0] and list(chosen.y) == [1.4, 0.25] and list(random.y) == [-0.3, 0.1, 1.0, 0.5]
    assert chosen.error_y.array[0] == pytest.approx(0.2) and chosen.error_y.array[1] is None
    assert len(EFFECTS["alone"].figure().data) == 2
    assert [list(bar.y) for bar in EFFECTS["knockout"].figure().data[:2]] == [
        [1.0, 1.0, 0.0, 0.5],
        [1.0, 0.75, 0.25, 0.5],
    ]
    for draw in (bars_figure, curve_figure):
        for wrong in (EFFECTS["set"].table.drop(columns="recovery"), EFFECTS["set"].table[:0]):
            with pytest.raises(ValueError, match="recovery|no rows"):
                draw(wrong, {"recovery": "gap recovered"}, "heads")


def test_what_a_set_rests_on_is_said_where_it_is_known(tmp_path):
    effect = replace(EFFECTS["alone"], settings={**ABOUT, "check": CHECK.to_json()})
    loaded = SetEffect.load(effect.save(tmp_path / "effect.json"))
    assert loaded.check == CHECK and loaded.summary().splitlines()[-2:] == [CHECK.line(), CHECK.brief]
    assert CHECK.line() in loaded._repr_html_() and EFFECTS["alone"].check is None
    path = tmp_path / "bad.json"
    data = saving.unsealed(json.loads((tmp_path / "effect.json").read_text()))
    for wrong in (1, {"n_pairs": 16}):
        path.write_text(json.dumps(data | {"settings": {"check": wrong}}))
        with pytest.raises(ValueError, match="damaged"):
            SetEffect.load(path)
