"""The tables on the real model are what its kept result says. The result itself takes minutes: `make real-model`."""

from __future__ import annotations

import pytest

from spt_lens import saving
from tools import real_model


def test_tables_are_of_the_kept_result():
    found = saving.load_json(real_model.RESULT, real_model.KIND, dict)
    for name, text in real_model.tables(found).items():
        begin, end = real_model.marks(name)
        page = real_model.PAGES[name].read_text(encoding="utf-8")
        assert page.split(begin)[1].split(end)[0].strip() == text


@pytest.mark.parametrize("contrast", real_model.CONTRASTS)
def test_every_contrast_has_its_row(contrast):
    found = saving.load_json(real_model.RESULT, real_model.KIND, dict)
    assert any(row["contrast"] == contrast for row in found["readouts"])
