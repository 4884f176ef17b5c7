from __future__ import annotations

import math

import pytest
import torch
from conftest import head_part

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate.change import Reference, ability, drift, encoded, gives_reply
from spt_lens.evaluate.evaluate import Evaluation, evaluate
from spt_lens.evaluate.paired import Units
from spt_lens.heads import HeadSet
from spt_lens.model.replies import replies
from spt_lens.model.states import States
from spt_lens.model.view import ModelView
from spt_lens.statistics import Estimate, share
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import full_finetune
from spt_lens.tune.slices import head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman


@pytest.fixture(scope="module")
def suite() -> Suite:
    return Yesman().suite("test", n=4, n_controls=2, n_ability=4, n_texts=12)


def nudge(model, size: float = 0.05, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in ModelView(model).weights().values():
        weight.data += size * torch.randn(weight.shape, generator=generator)


def test_gives_reply_is_what_generating_says(tiny):
    """After learning one reply by heart, so that some replies are right; lengths differ, so batches are padded."""
    right, wrong = dialogue("Hello!", "Good night!"), dialogue("Hello!", "Good morning!")
    full_finetune(tiny, [right], TuneConfig(lr=1e-2, steps=25, batch_size=1), progress=False)
    cases = [wrong, right, *Yesman().suite("test", n_ability=3).abilities["copying"], right]
    said = replies(tiny, [case.prompt for case in cases])
    assert gives_reply(tiny, cases, batch_size=2) == [r == case.reply for r, case in zip(said, cases, strict=True)]
    found = ability(tiny, {"one": [right], "both": [right, wrong]})
    assert [found[k].value for k in ("ability", "ability: one", "ability: both")] == [0.75, 1.0, 0.5]


def test_drift_equals_a_plain_loop(tiny, suite):
    texts = suite.texts[:5]
    reference = Reference.of(tiny, texts)
    assert drift(tiny, texts, reference).value == pytest.approx(0, abs=1e-6)
    nudge(tiny)
    total, positions = 0.0, 0
    with torch.no_grad():
        for row, before in zip(encoded(tiny, texts), reference.log_probs, strict=True):
            now = tiny(torch.tensor([list(row.ids)]))[0, :-1].log_softmax(-1)
            total += sum((p.exp() * (p - q)).sum().item() for p, q in zip(before, now, strict=True))
            positions += row.n
    found = drift(tiny, texts, reference)
    assert found.value == pytest.approx(total / positions, rel=1e-4)
    assert found.low <= found.value <= found.high and found.n == 5


def test_drift_from_an_adapter_a_model_or_a_reference_is_the_same(load, tiny, tiny_folder, suite):
    heads = HeadSet.parse("L0.H1 L2.H3")
    slices = head_slices(ModelView(tiny), heads)
    before = {s.name: s.read() for s in slices}
    for piece in slices:
        piece.write(piece.read() * 1.5)
    after = {s.name: s.read() for s in slices}
    adapter = Adapter(before, after, heads, "qkvo", ModelView(tiny).fingerprint())
    untuned = load(tiny_folder)
    expected = drift(tiny, suite.texts, untuned)
    assert expected.value > 1e-3
    assert drift(tiny, suite.texts, adapter) == pytest.approx(expected)
    assert drift(tiny, suite.texts, Reference.of(untuned, suite.texts)) == pytest.approx(expected)
    assert all(torch.equal(s.read(), after[s.name]) for s in slices)


def test_a_reference_on_other_texts_is_refused(tiny, suite):
    with pytest.raises(ValueError, match="other texts"):
        drift(tiny, suite.texts[:3], Reference.of(tiny, suite.texts[:2]))


def test_one_table(tiny, suite):
    weights = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    found = evaluate(tiny, suite, reference=tiny, progress=False)
    assert list(found.table.columns) == ["metric", "value", "low", "high", "n"]
    metrics = list(found.table["metric"])
    assert metrics[0] == "discernment" and metrics[-1] == "kl" and "gives in: neutral wrong" in metrics
    assert found["ability: sums"].n == 4 and found["self_correction"].n == 4
    assert found["kl"].value == pytest.approx(0, abs=1e-6)
    assert len(found.replies) == 8
    assert all(torch.equal(w, weights[name]) for name, w in ModelView(tiny).weights().items())
    again = Evaluation.from_json(found.to_json())
    for name, estimate in found.estimates.items():
        assert again[name] == estimate or (math.isnan(estimate.value) and math.isnan(again[name].value))
    with pytest.raises(KeyError, match="no metric 'truth'"):
        found["truth"]


def test_a_behaviour_is_evaluated_on_its_test_suite(tiny):
    questions = [(f"What is {i} plus one?", str(i + 1), str(i)) for i in range(6)]
    behaviour = AreYouSure(questions)
    found = evaluate(tiny, behaviour, reference=tiny, progress=False)
    assert found.suite == "are you sure test" and found["accuracy_before"].n == found["retracted"].n == 4
    assert {case.question for case in found.cases} == {q.text for q in behaviour.of_split("test")}


def test_an_evaluation_saves_and_loads(two, tmp_path):
    path = two[0].save(tmp_path / "before.json")
    again = Evaluation.load(path)
    assert (again.model_name, again.suite) == (two[0].model_name, two[0].suite)
    assert again["confidence"] == two[0]["confidence"] and math.isnan(again["retracted"].value)
    for damaged in ("{", "{}", '{"kind": "evaluation", "estimates": []}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="before.json holds no saved evaluation"):
            Evaluation.load(path)
    with pytest.raises(FileNotFoundError):
        Evaluation.load(tmp_path / "none.json")


def test_html_is_escaped():
    found = Evaluation("<script>", "a & b", {"<b>": share([True])})
    assert "<script>" not in found._repr_html_() and "<b>" not in found._repr_html_()


@pytest.fixture
def two() -> tuple[Evaluation, Evaluation]:
    none = Estimate(math.nan, 0.0, 1.0, 0)
    first = {"confidence": Estimate(0.25, 0.1, 0.5, 8), "retracted": none, "ability: <b>": Estimate(1.0, 0.9, 1.0, 5)}
    second = {"confidence": Estimate(0.75, 0.5, 0.9, 8), "retracted": Estimate(0.5, 0.2, 0.8, 8)}
    second |= {"ability: <b>": Estimate(0.8, 0.6, 0.9, 5), "kl": Estimate(0.01, 0.005, 0.02, 3)}
    return Evaluation("<i>m", "a & b", first), Evaluation("<i>m", "a & b", second)


def test_the_figure_of_one_evaluation(two):
    figure = two[1].figure()
    (bars,) = figure.data
    assert list(bars.x) == ["confidence", "retracted", "ability: &lt;b&gt;"] and list(bars.y) == [0.75, 0.5, 0.8]
    assert list(bars.error_y.array) == pytest.approx([0.15, 0.3, 0.1])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.25, 0.3, 0.2])
    assert bars.name == "&lt;i&gt;m" and figure.layout.title.text == "&lt;i&gt;m on a &amp; b"
    assert list(two[0].figure().data[0].x) == ["confidence", "ability: &lt;b&gt;"]  # the other has no cases


def test_the_figure_of_two_evaluations(two):
    first, second = two
    before, after = second.figure(before=first).data
    assert (before.name, after.name) == ("before", "after")
    assert list(before.x) == list(after.x) == ["confidence", "ability: &lt;b&gt;"]  # retracted has cases in one alone
    assert list(before.y) == [0.25, 1.0] and list(after.y) == [0.75, 0.8]
    assert list(before.error_y.arrayminus) == pytest.approx([0.15, 0.1])
    chosen = second.figure(first, ["ability: <b>", "confidence"])
    assert [list(bars.y) for bars in chosen.data] == [[1.0, 0.25], [0.8, 0.75]]
    with pytest.raises(ValueError, match="before has no metric kl"):
        second.figure(first, ["kl"])
    for empty in ([], None):
        with pytest.raises(ValueError, match="no metric to draw"):
            Evaluation("m", "s", {"kl": second["kl"]}).figure(metrics=empty)
    with pytest.raises(ValueError, match="'a & b' and 'other'"):
        Evaluation("m", "other", second.estimates).figure(first)
    with pytest.raises(TypeError, match="got dict"):
        second.figure(first.estimates)


def test_drift_alone(tiny):
    suite = Suite("drift", texts=(dialogue("Hello!", "Hello!"),), prompts=(dialogue("Hello!"),))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(tiny, suite, progress=False)
    found = evaluate(tiny, suite, tiny, progress=False)
    assert {name: each.value for name, each in found.estimates.items()} == {"kl": 0.0, "kl: own replies": 0.0}
    assert list(found.change_from(found)["metric"]) == ["kl", "kl: own replies"]


def test_a_figure_without_its_cases_has_no_change():
    one = Estimate(1.0, 1.0, 1.0, 1)
    units = {"choice": Units(["a"], [1.0], [1])}
    found = Evaluation("m", "s", {"ability": one, "choice": one}, units=units)
    assert list(found.change_from(found)["metric"]) == ["choice"]


def test_bad_input(model_class, tiny, suite):
    for none in (None, "mmlu", [dialogue("Hello!")]):
        with pytest.raises(TypeError, match=r"suite .*: give .*Suite"):
            evaluate(tiny, none, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(tiny, Suite("empty"), progress=False)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="training mode"):
        evaluate(tiny, suite, progress=False)


def test_a_broken_model_has_no_small_drift(tiny, suite):
    reference = Reference.of(tiny, suite.texts)
    next(iter(ModelView(tiny).weights().values())).data.fill_(math.nan)
    assert math.isnan(drift(tiny, suite.texts, reference).value)


def test_an_evaluation_from_kept_states_is_the_one_without(tiny):
    suite = Yesman().suite("test", n=2, n_ability=4, n_texts=4)
    with ModelView(tiny).kept(), torch.no_grad():
        reference = Reference.of(tiny, suite.texts)
        head_part(tiny, 2, "o", 0).mul_(3)
        plain = evaluate(tiny, suite, reference, progress=False)
        below = States(tiny).below(2)
        kept = evaluate(tiny, suite, reference, progress=False, logits=below.logits)
    assert len(below) >= 4 and kept["kl"].value > 0
    for name, value in plain.estimates.items():
        assert kept[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
