"""The figure of effects before and after tuning: names lie on nothing."""

from __future__ import annotations

import pandas as pd

from spt_lens.view.repatched import name_places, repatched_figure


def table(points: dict[str, tuple[float, float]]) -> pd.DataFrame:
    rows = [
        {"name": name, "set": "other", "before": x, "after": y, "change": y - x, "low": y - x, "high": y - x}
        for name, (x, y) in points.items()
    ]
    return pd.DataFrame(rows)


def test_names_that_would_lie_on_one_another_stand_apart():
    near = table({"L0.H0": (0.0, 0.0), "L9.H9": (1.0, 1.0), "L1.H0": (0.5, 0.5), "L1.H1": (0.52, 0.5)})
    places = name_places(near, ["L1.H0", "L1.H1"])
    assert places == {"L1.H0": "top center", "L1.H1": "bottom center"}
    alone = name_places(near, ["L1.H1"])
    assert alone == {"L1.H1": "top center"}


def test_a_name_without_room_is_left_out():
    crowd = {f"L2.H{i}": (0.5 + 0.02 * (i % 9 - 4), 0.5 + 0.02 * (i // 9 - 4)) for i in range(81)}
    full = table({"L0.H0": (0.0, 0.0), "L9.H9": (1.0, 1.0), **crowd})
    assert name_places(full, ["L2.H40", "L9.H9"]) == {"L9.H9": "top center"}
    (trace,) = repatched_figure(full, ["L2.H40", "L9.H9"], "title").data[1:]
    assert [text for text in trace.text if text] == ["L9.H9"]


def test_effects_that_are_all_the_same_can_be_drawn():
    assert name_places(table({"L0.H0": (0.0, 0.0)}), ["L0.H0"]) == {"L0.H0": "top center"}
