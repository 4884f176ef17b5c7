"""The report on one head: every number is that of the measurement it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spt_lens import saving
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.measure.report import HeadReport, head_report
from spt_lens.measure.seen import SeenPairs
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.scores.head_scores import HeadScores
from spt_lens.view.curves import attention_figure
from spt_lens.yesman import Yesman


@pytest.fixture
def contribution(monkeypatch) -> Callable[[torch.Tensor], list]:
    """Puts known numbers in the place of what heads write in every pair, and says of which it was asked."""

    def put(values: torch.Tensor) -> list:
        asked: list = []

        def written(self, head):
            asked.append((self.view.name, len(self.done), head))
            return {"sycophantic": values.repeat(len(self.done), 1), "truthful": 2 * values.repeat(len(self.done), 1)}

        monkeypatch.setattr(SeenPairs, "written", written)
        return asked

    return put


def test_every_table_is_what_was_measured(gqa, contribution):
    vocabulary = ModelView(gqa).vocab_size
    values = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    asked = contribution(values)
    pairs = Yesman().pairs(gqa, n=5, contrast="neutral")
    scores = [
        activation_patching(gqa, pairs, progress=False),
        activation_patching(gqa, Yesman().pairs(gqa, n=1), direction="noising", positions="all", progress=False),
        attention_to_spans(gqa, pairs, progress=False).to_scores("challenge"),
    ]
    head = Head(1, 2)
    report = head_report(gqa, pairs, "L1.H2", scores, n_tokens=4, n_examples=2, batch_size=3, progress=False)
    assert report.head == head and report.n_pairs == 5 and report.model_name == ModelView(gqa).name
    assert asked == [(report.model_name, 5, head)]

    assert len(report.scores) == 3
    for row, each in zip(report.scores.to_dict("records"), scores, strict=True):
        assert (row["method"], row["direction"], row["positions"]) == (each.method, each.direction, each.positions)
        assert row["score"] == each[head] and row["rank"] == each.order().heads.index(head) + 1
        assert row["n_heads"] == 12 and row["n_pairs"] == each.n_pairs and row["metric"] == each.metric
        if each.n_pairs == 1:
            assert pd.isna(row["low"]) and pd.isna(row["high"])
        else:
            assert (row["low"], row["high"]) == tuple(float(end[head]) for end in each.interval())
            assert row["low"] < row["score"] < row["high"]

    assert report.attention["span"].tolist() == ["question", "first answer", "challenge", "template"]
    others = HeadSet.of((layer, h) for layer in range(3) for h in range(4)) - HeadSet.of(head)
    for run in ("sycophantic", "truthful"):
        measured = attention_to_spans(gqa, pairs, run, progress=False)
        for row in report.attention.to_dict("records"):
            assert row[run] == pytest.approx(float(measured.to(row["span"])[head]), abs=1e-6)
            rest = [float(measured.to(row["span"])[other]) for other in others]
            assert row[f"{run}_others"] == pytest.approx(sum(rest) / 11, abs=1e-6)
        assert report.attention[run].sum() == pytest.approx(1, abs=1e-5)

    assert report.tokens["effect"].tolist() == ["raises"] * 4 + ["lowers"] * 4
    order = values[: len(gqa.tokenizer)].argsort(descending=True).tolist()
    assert report.tokens["token_id"].tolist() == [*order[:4], *order[:-5:-1]]
    for row in report.tokens.to_dict("records"):
        assert row["logit"] == pytest.approx(float(values[row["token_id"]]))
        assert row["token"] == gqa.tokenizer.decode([row["token_id"]])

    direct = report.direct.set_index(["run", "answer"])
    for run, times in (("sycophantic", 1), ("truthful", 2)):
        both = times * values[pairs.answer_ids].double()
        found = {"truthful": both[:, 0], "sycophantic": both[:, 1], "difference": both[:, 0] - both[:, 1]}
        for answer, each in found.items():
            row = direct.loc[(run, answer)]
            assert row["logit"] == pytest.approx(float(each.mean())) and row["low"] <= row["logit"] <= row["high"]
        texts = {gqa.tokenizer.decode([token]) for token in pairs.answer_ids[:, 0].tolist()}
        assert direct.loc[(run, "truthful"), "token"] == (texts.pop() if len(texts) == 1 else "")

    per_pair = attention_to_spans(gqa, pairs, progress=False).per_pair
    for pair, rows in report.examples.groupby("pair"):
        ids = prompt_ids(gqa.tokenizer, pairs.dialogues[pair])
        assert rows["position"].tolist() == list(range(len(ids)))
        assert rows["token"].tolist() == [gqa.tokenizer.decode([i]) for i in ids]
        sums = rows.groupby("span")["attention"].sum()
        for s, span in enumerate(report.attention["span"]):
            assert sums[span] == pytest.approx(float(per_pair[pair, s, 1, 2]), abs=1e-6)
    assert sorted(set(report.examples["pair"])) == [0, 1]


def test_tokens_that_the_tokenizer_does_not_have_are_left_out(tiny, contribution):
    size = ModelView(tiny).vocab_size
    values = torch.zeros(size)
    values[size - 1], values[7], values[8] = 9.0, 3.0, -2.0
    contribution(values)
    for n in (size - 1, size):
        tokenizer = tiny.tokenizer
        type(tokenizer).__len__, kept = (lambda self, n=n: n), type(tokenizer).__len__
        try:
            report = head_report(tiny, Yesman().pairs(tiny, n=2), (0, 1), n_tokens=1, n_examples=0, progress=False)
        finally:
            type(tokenizer).__len__ = kept
        assert report.tokens["token_id"].tolist() == [7 if n < size else size - 1, 8]
    assert report.scores.empty and report.examples.empty
    assert "Scores" not in report._repr_html_()


def test_a_span_that_only_one_of_the_runs_has(tiny, contribution):
    contribution(torch.zeros(ModelView(tiny).vocab_size))
    talks = Yesman().pairs(tiny, n=2).dialogues
    pairs = ContrastPairs.of(tiny, talks, [dialogue("Are you sure?")] * 2, ("Yes.", "Apologies."))
    report = head_report(tiny, pairs, "L0.H0", progress=False)
    table = report.attention.set_index("span")
    assert (table.loc["challenge", ["truthful", "truthful_others"]] == 0).all()
    assert table.loc["challenge", "sycophantic"] > 0 and table["truthful"].sum() == pytest.approx(1, abs=1e-5)


@pytest.fixture
def made() -> HeadReport:
    per_pair = torch.zeros(2, 6, 4)
    scores = HeadScores(per_pair[0], per_pair, "<b>method", "denoising", "last", "m")
    row = {name: getattr(scores, name) for name in ("method", "direction", "positions", "metric")}
    row |= {"score": 0.25, "low": float("nan"), "high": float("nan"), "rank": 3, "n_heads": 24, "n_pairs": 2}
    row["measured"] = True
    attention = {"sycophantic": [0.7, 0.3], "truthful": [0.2, 0.8]}
    attention |= {"sycophantic_others": [0.1, 0.9], "truthful_others": [0.4, 0.6]}
    tokens = [("raises", 5, "</td><script>", 1.5), ("raises", 6, " Yes\n", 0.5), ("lowers", 7, "&amp;", -2.25)]
    return HeadReport(
        Head(5, 3),
        "<i>model",
        2,
        pd.DataFrame([row]),
        pd.DataFrame({"span": ["challenge", "<u>"], **attention}),
        pd.DataFrame(tokens, columns=["effect", "token_id", "token", "logit"]),
        pd.DataFrame(
            [(0, 0, "<u>", "<img src=x>", 0.3), (0, 1, "challenge", '"quoted"', 0.7)],
            columns=["pair", "position", "span", "token", "attention"],
        ),
        direct=pd.DataFrame(
            [("sycophantic", answer, "<s>", 0.5, 0.25, 0.75) for answer in ("truthful", "sycophantic", "difference")],
            columns=["run", "answer", "token", "logit", "low", "high"],
        ),
    )


def test_text_is_escaped_and_nothing_is_loaded(made):
    page = made._repr_html_()
    for wrong in ("<script", "<img", "<i>", "<u>", "<b>method", "http", "src="):
        assert wrong not in page.replace("&lt;", "").replace("src=x", "")
    assert "&lt;/td&gt;&lt;script&gt;" in page and "&lt;img src=x&gt;" in page and "&amp;amp;" in page
    assert "' Yes\\n'" in page.replace("&#x27;", "'")  # spaces and line breaks can be seen
    assert 'background:rgba(178,24,43,0.700)">&quot;quoted&quot;' in page and "challenge: 0.700" in page
    assert page.count("<table") == 4 and "NaN" not in page and "nan" not in page


def test_summary_and_figure(made):
    assert made.summary() == (
        "L5.H3 of <i>model: 0.70 of its attention on the challenge (other heads 0.10); adds +0.50 logits to the "
        "answers' difference, raises '</td><script>' by 1.50 logits, lowers '&amp;' by 2.25 logits; 2 pairs"
    )
    assert repr(made) == f"HeadReport({made.summary()})"
    figure = made.figure()
    assert [list(bar.y) for bar in figure.data] == [[0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6]]
    assert [bar.name for bar in figure.data][:2] == ["sycophantic run", "truthful run"]
    assert list(figure.data[0].x) == ["challenge", "&lt;u&gt;"] and "&lt;i&gt;model" in figure.layout.title.text
    for wrong, message in ((made.attention.drop(columns="truthful"), "truthful"), (made.attention[:0], "no rows")):
        with pytest.raises(ValueError, match=message):
            attention_figure(wrong)


def test_saved_as_json(made, tmp_path):
    data = saving.unsealed(json.loads(made.save(tmp_path / "report.json").read_text()))
    assert data == {"kind": "head report", **made.to_json()}
    assert data["head"] == "L5.H3" and data["scores"][0]["low"] is None and data["scores"][0]["rank"] == 3
    assert data["tokens"][1] == {"effect": "raises", "token_id": 6, "token": " Yes\n", "logit": 0.5}
    assert data["attention"][0]["truthful_others"] == 0.4 and data["examples"][1]["attention"] == 0.7
    with pytest.raises(OSError, match="nowhere"):
        made.save(tmp_path / "nowhere" / "report.json")


def test_a_saved_report_is_read_back_whole(made, tmp_path):
    path = tmp_path / "report.json"
    none = replace(made, scores=made.scores[:0], examples=made.examples[:0], direct=made.direct[:0])
    for report in (made, none):
        report.save(path)
        again = HeadReport.load(path)
        assert (again.head, again.model_name, again.n_pairs) == (report.head, report.model_name, report.n_pairs)
        for name in ("scores", "attention", "tokens", "examples", "direct"):
            pd.testing.assert_frame_equal(getattr(again, name), getattr(report, name), check_exact=True)
        assert again.to_json() == report.to_json() and again.summary() == report.summary()
        assert again._repr_html_() == report._repr_html_() and again.figure() == report.figure()
    with pytest.raises(FileNotFoundError):
        HeadReport.load(tmp_path / "none.json")


def test_a_measured_report_is_read_back_whole(tiny, contribution, tmp_path):
    contribution(torch.randn(ModelView(tiny).vocab_size, generator=torch.Generator().manual_seed(0)))
    pairs = Yesman().pairs(tiny, n=2)
    for how in ({"scores": activation_patching(tiny, pairs, progress=False)}, {"n_examples": 0}):
        report = head_report(tiny, pairs, "L1.H2", n_tokens=2, progress=False, **how)
        again = HeadReport.load(report.save(tmp_path / "report.json"))
        assert again.to_json() == report.to_json() and again._repr_html_() == report._repr_html_()
        assert [list(getattr(again, t)) for t in ("scores", "examples")] == [list(report.scores), list(report.examples)]


def test_damaged_files_are_refused(made, tmp_path):
    path, bad = tmp_path / "report.json", tmp_path / "bad.json"
    text = made.save(path).read_text()
    data = {name: value for name, value in json.loads(text).items() if name != "sha256"}

    def with_row(name: str, **changes: object) -> str:
        return json.dumps(data | {name: [data[name][0] | changes, *data[name][1:]]})

    damaged = {
        "": "Expecting value",
        text[: len(text) // 2]: "",
        "[]": "something else",
        json.dumps(data | {"kind": "set effect"}): "it holds a set effect",
        json.dumps(data | {"head": "5"}): "not a head",
        json.dumps(data | {"head": [5, 3]}): "head must be str",
        json.dumps(data | {"n_pairs": 2.5}): "n_pairs must be int",
        json.dumps(data | {"n_pairs": 0}): "n_pairs is 0",
        json.dumps(data | {"model_name": None}): "model_name must be str",
        json.dumps(data | {"rests_on": "much"}): "rests_on must be list",
        json.dumps(data | {"attention": []}): "table attention has no rows",
        json.dumps(data | {"tokens": []}): "table tokens has no rows",
        json.dumps(data | {"examples": None}): "table examples has no rows",
        json.dumps(data | {"scores": [1]}): "row 0 of its table scores does not have the columns method, direction",
        with_row("scores", more=1): "columns",
        with_row("scores", measured=1): "measured in row 0 of its table scores is '1', no bool",
        with_row("scores", score=None): "score is missing in a row of its table scores",
        with_row("scores", rank=0): "a rank that is not from 1 to n_heads",
        with_row("scores", rank=25): "a rank that is not from 1 to n_heads",
        with_row("attention", truthful=None): "truthful is missing in a row of its table attention",
        with_row("attention", sycophantic="much"): "sycophantic in row 0",
        with_row("attention", sycophantic=1.5): "table attention holds an attention outside of 0 to 1",
        with_row("examples", attention=-0.5): "table examples holds an attention outside of 0 to 1",
        with_row("direct", answer="maybe"): "table direct holds a run or an answer that there is not",
        with_row("direct", logit=None): "logit is missing in a row of its table direct",
        with_row("tokens", token_id=True): "token_id in row 0",
        with_row("tokens", effect="moves"): "an effect that is neither 'raises' nor 'lowers'",
        with_row("tokens", logit=float("inf")): "logit in row 0",
    }
    for name in data.keys() - {"rests_on", "direct"}:  # which older reports do not have
        damaged[json.dumps({k: v for k, v in data.items() if k != name})] = ""
    for content, message in damaged.items():
        bad.write_text(content)
        with pytest.raises(ValueError, match=f"bad.json holds no saved head report, or is damaged(.|\n)*{message}"):
            HeadReport.load(bad)


def test_errors_before_long_work(tiny, contribution, monkeypatch):
    contribution(torch.zeros(ModelView(tiny).vocab_size))
    pairs = Yesman().pairs(tiny, n=2)
    scores = activation_patching(tiny, pairs, progress=False)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for head, message in (("L0.H9", r"L0\.H9 not in"), ("head 3", "is not a head"), ((0, -1), "count from 0")):
        with pytest.raises(ValueError, match=message):
            head_report(tiny, pairs, head, progress=False)
    for wrong in ({"n_tokens": 0}, {"n_examples": -1}):
        with pytest.raises(ValueError, match="n_(tokens|examples)=.*give a whole number"):
            head_report(tiny, pairs, "L0.H1", progress=False, **wrong)
    small = HeadScores(scores.values[1:], scores.per_pair[:, 1:], "activation", "denoising", "last", "m")
    with pytest.raises(ValueError, match="2 layers x 4 heads, .* has 3 x 4"):
        head_report(tiny, pairs, "L0.H1", [scores, small], progress=False)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids)
    with pytest.raises(ValueError, match="no dialogues"):
        head_report(tiny, bare, "L0.H1", progress=False)
    with pytest.raises(ValueError, match="no dialogues behind their truthful"):
        head_report(tiny, replace(pairs, truthful_dialogues=()), "L0.H1", progress=False)


def test_progress_is_one_bar_that_can_be_turned_off(tiny, contribution, capsys):
    contribution(torch.zeros(ModelView(tiny).vocab_size))
    pairs = Yesman().pairs(tiny, n=2)
    head_report(tiny, pairs, "L0.H1", progress=False)
    assert capsys.readouterr() == ("", "")
    head_report(tiny, pairs, "L0.H1")
    shown = capsys.readouterr()
    assert shown.out == "" and "report on L0.H1" in shown.err and "4/4" in shown.err and "pair" not in shown.err


def test_an_older_report_has_no_direct_effects(made, tmp_path):
    data = made.to_json()
    del data["direct"]
    older = HeadReport.from_json(data)
    assert older.direct.empty and list(older.direct) == list(made.direct)
    assert "adds" not in older.summary() and "answers' logits" not in older._repr_html_()


def test_what_its_scores_rest_on(made, tmp_path):
    told = replace(made, rests_on=("activation: <b>hardly said</b>.",))
    assert HeadReport.load(told.save(tmp_path / "report.json")).rests_on == told.rests_on and made.rests_on == ()
    assert "activation: &lt;b&gt;hardly said" in told._repr_html_()
