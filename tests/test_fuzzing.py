"""What is read may be anything: made-up text, made-up JSON, and files of this library that were damaged.

Nothing crashes or hangs, and nothing wrong is read in silence: what comes back is what was written, or an error. A few
examples of each in every run of the tests; `make fuzz` tries many.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from saved import READ, bare, of_results, results_file

from spt_lens import saving
from spt_lens.behaviours.datasets import model_written_evals, sycophancy_eval
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.reading import read_questions
from spt_lens.chat.dialogues import Message
from spt_lens.heads import Head, HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.adapter import Adapter

SAME: dict[str, Any] = {"deadline": timedelta(seconds=20), "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=40, derandomize=True, database=None, **SAME)
settings.register_profile("many", max_examples=3000, print_blob=True, **SAME)
settings.load_profile(os.environ.get("SPT_LENS_FUZZ", "few"))

REFUSED = (ValueError, OSError)

# Text that a file can hold: half a character is none.
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
HEADS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=6)


def in_a_file(data: bytes, read: Callable[[Path], Any], name: str = "file") -> Any:
    """What is read of these bytes, None if they are refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return read(path)
        except REFUSED as error:
            assert str(error).strip()
            return None


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A way to damage a file: bits that flip, an end that is cut off, bytes that are lost, doubled or come from
    elsewhere."""
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 64))
    more, bits = draw(st.binary(max_size=16)), draw(st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True))
    how = draw(st.sampled_from(["flip", "flip", "cut", "lose", "double", "add"]))

    def damage(data: bytes) -> bytes:
        at = min(int(where * len(data)), len(data) - 1)
        if how == "flip":
            changed = data[at]
            for bit in bits:
                changed ^= 1 << bit
            return data[:at] + bytes([changed]) + data[at + 1 :]
        after = {"cut": b"", "lose": data[at + length :], "add": more + data[at:]}
        return data[:at] + after.get(how, data[max(0, at - length) :])

    return damage


class TestHeads:
    @given(st.text(max_size=30) | st.text("LHlh.0123456789 ,;()[]-+e\n\t٣²\u2028", max_size=30))
    def test_any_text_is_a_selection_or_refused(self, text):
        try:
            heads = HeadSet.parse(text)
        except ValueError:
            return
        assert HeadSet.parse(str(heads)) == heads and all(min(head) >= 0 for head in heads)

    @given(HEADS, st.dictionaries(TEXT, JSON.filter(lambda value: "nan" not in repr(value).lower()), max_size=3))
    def test_what_is_printed_or_saved_is_read_back(self, heads, about):
        made = HeadSet(tuple(heads))
        assert HeadSet.parse(str(made)) == HeadSet.from_json(made.to_json()) == made
        assert list(made) == list(dict.fromkeys(Head(*head) for head in heads))
        try:
            made = HeadSet(made.heads, about)
        except ValueError:  # infinity, which is no JSON
            return
        with tempfile.TemporaryDirectory() as folder:
            again = HeadSet.load(made.save(Path(folder) / "heads.json"))
        assert again == made and again.about == made.about

    @given(JSON)
    def test_any_json_is_a_selection_or_refused(self, data):
        try:
            made = HeadSet.from_json(data)
        except ValueError:
            return
        assert [Head.parse(head) for head in data["heads"]] or not made.heads


class TestFiles:
    """Of every kind that is read back."""

    whole: dict[str, tuple[bytes, Any]] = {}

    def saved(self, name: str) -> tuple[bytes, Any]:
        """A file of that kind, and what is read of it."""
        if name not in self.whole:
            kind = READ[name]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "it"
                kind.save(path, 3.0)
                self.whole[name] = (path / kind.file).read_bytes() if kind.file else path.read_bytes(), kind.load(path)
        return self.whole[name]

    def read(self, name: str, data: bytes) -> Any:
        kind = READ[name]
        return in_a_file(data, lambda path: kind.load(path.parent if kind.file else path), kind.file or "it")

    @pytest.mark.parametrize("name", READ)
    @given(damage=damages())
    def test_a_damaged_one_is_what_was_written_or_refused(self, name, damage):
        data, known = self.saved(name)
        assert self.read(name, damage(data)) in (None, known)

    @pytest.mark.parametrize("name", READ)
    def test_no_beginning_of_one_is_another(self, name):
        data, known = self.saved(name)
        for length in range(0, len(data), max(1, len(data) // 50)):
            assert self.read(name, data[:length]) in (None, known)

    @pytest.mark.parametrize("name", READ)
    @given(data=st.binary(max_size=200) | JSON.map(lambda data: json.dumps(data).encode()))
    def test_something_else_is_refused(self, name, data):
        self.read(name, data)

    @pytest.mark.parametrize("name", [name for name in READ if name not in ("scores", "adapter")])
    @given(key=st.integers(0, 10), value=JSON)
    def test_any_value_in_the_place_of_another_is_refused_or_read(self, name, key, value):
        data = saving.unsealed(json.loads(self.saved(name)[0]))
        self.read(name, json.dumps(data | {list(data)[key % len(data)]: value}).encode())

    @given(damages())
    def test_a_damaged_results_file_has_no_other_figures(self, damage):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.jsonl"
            results_file(path, 1.0, 2.0, 3.0)
            data, known = path.read_bytes(), of_results(path)
        found = in_a_file(damage(data), of_results)
        assert found is None or found.items() <= known.items()


class TestScoresAndAdapters:
    @given(
        st.data(), st.tuples(*[st.integers(1, 3)] * 3), st.sampled_from([torch.float32, torch.float64]), st.booleans()
    )
    def test_scores_come_back_to_the_bit(self, data, shape, dtype, full):
        def numbers(*sizes: int) -> torch.Tensor:
            n = torch.Size(sizes).numel()
            found = data.draw(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=n, max_size=n))
            return torch.tensor(found, dtype=dtype).reshape(sizes)

        more: dict[str, Any] = {}
        if full:
            more = {"logit_differences": numbers(*shape), "base": numbers(shape[0]), "target": numbers(shape[0])}
            more["verified"] = numbers(*shape[1:]) > 0
        names = [data.draw(TEXT) for _ in range(4)]
        meta = data.draw(st.dictionaries(TEXT.filter(lambda name: name != "check"), TEXT | st.integers(), max_size=3))
        per_pair = numbers(*shape)
        made = HeadScores(per_pair.mean(0), per_pair, *names, meta, **more)
        with tempfile.TemporaryDirectory() as folder:
            again = HeadScores.load(made.save(Path(folder) / "scores"))
        for name, value in vars(made).items():
            found = getattr(again, name)
            assert bare({"": value}) == bare({"": found}) if isinstance(value, torch.Tensor) else value == found

    @given(st.data(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), HEADS)
    def test_adapters_come_back_to_the_bit(self, data, dtype, heads):
        sizes = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=2))

        def slices() -> dict[str, torch.Tensor]:
            kinds = st.floats(-1e4, 1e4, width=16)
            each = [data.draw(st.lists(kinds, min_size=a * b, max_size=a * b)) for a, b in sizes]
            return {f"{i}": torch.tensor(each[i], dtype=dtype).reshape(size) for i, size in enumerate(sizes)}

        made = Adapter(slices(), slices(), HeadSet(tuple(heads)), data.draw(TEXT), {"of": data.draw(TEXT)}, {"n": 1})
        with tempfile.TemporaryDirectory() as folder:
            again = Adapter.load(made.save(folder))
        assert bare(dict(made.before)) == bare(dict(again.before)) and bare(dict(made.after)) == bare(dict(again.after))
        assert all(
            getattr(made, name) == getattr(again, name) for name in ("heads", "projections", "fingerprint", "meta")
        )


WORDS = TEXT.filter(str.strip)
ROW_NAMES = [
    "question",
    "text",
    "answer",
    "answers",
    "wrong",
    "split",
    "category",
    "before",
    "base",
    "metadata",
    "prompt",
]
ROW_NAMES += ["answer_matching_behavior", "answer_not_matching_behavior", "correct_answer", "incorrect_answer", "type"]
ROWS = st.dictionaries(st.sampled_from(ROW_NAMES) | TEXT, JSON, max_size=8)
READERS = {"questions": read_questions, "evals": model_written_evals, "sycophancy": sycophancy_eval}


class TestRows:
    @given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), st.sampled_from(["train", "test", None]))
    def test_questions_come_back(self, rows, split):
        try:
            made = [Question(*row, split, (Message("user", row[0]), Message("assistant", row[1]))) for row in rows]
        except ValueError:  # an answer that is wrong too
            return
        assume(len({(each.before, each.plain) for each in made}) == len(made))
        lines = [
            {"question": each.text, "answers": each.answers, "wrong": each.wrong}
            | ({"split": split} if split else {})
            | {"before": [vars(message) for message in each.before]}
            for each in made
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        found = in_a_file(text.encode(), lambda path: read_questions(path)[0], "questions.jsonl")
        assert [replace(each, source="") for each in found or ()] == made

    @pytest.mark.parametrize("name", READERS)
    @given(st.lists(ROWS, max_size=4), st.sampled_from(["raise", "skip"]))
    def test_any_row_is_read_or_refused(self, name, rows, on_error):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        in_a_file(text.encode(), lambda path: READERS[name](path, on_error=on_error), "rows.jsonl")

    @pytest.mark.parametrize("name", READERS)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, name, data):
        in_a_file(data, READERS[name], "rows.jsonl")

    @given(st.lists(st.lists(TEXT, min_size=3, max_size=3), max_size=4), st.sampled_from(["csv", "tsv"]), damages())
    def test_any_table_is_read_or_refused(self, rows, kind, damage):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"questions.{kind}"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows(
                    [["question", "answer", "wrong"], *rows]
                )
            data = path.read_bytes()
        for each in (data, damage(data)):
            in_a_file(each, read_questions, f"questions.{kind}")
