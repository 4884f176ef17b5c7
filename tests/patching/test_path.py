"""Path patching against its three steps, written out plainly for one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from by_hand import own_shares

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.path import path_patching
from spt_lens.scores.mean import mean_scores
from spt_lens.yesman import Yesman


@pytest.fixture
def pairs(tiny) -> ContrastPairs:
    return Yesman().pairs(tiny, n=2)


def run(model, tokens, hooks, ids) -> float:
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=torch.ones_like(tokens))[0, -1]
    return float(logits[ids[0]] - logits[ids[1]])


def kept(into: dict, name: str):
    def keep(value, hook):
        into[name] = value.clone()

    return name, keep


def put(value):
    return lambda old, hook: value


def three_steps(model, pairs: ContrastPairs, i: int, positions: str, mlps: str, receivers=()) -> torch.Tensor:
    """Shares of the gap, `[layer, head]`, of one pair. receivers: (layer, "q" | "k" | "v", unit)."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    into, source = torch.tensor([pairs.sycophantic[i]]), torch.tensor([pairs.truthful[i]])
    ids = pairs.answer_ids[i].tolist()
    names = [ModelView.z_name(layer) for layer in layers]
    if mlps == "frozen":
        names += [f"blocks.{layer}.hook_mlp_out" for layer in layers]
    own, other = {}, {}
    base = run(model, into, [kept(own, name) for name in names], ids)
    target = run(model, source, [kept(other, name) for name in names], ids)
    scores = torch.zeros(len(layers), len(heads))
    for layer in layers:
        for head in heads:
            sent = dict(own)
            z = own[ModelView.z_name(layer)].clone()
            where = slice(-1, None) if positions == "last" else slice(None)
            z[:, where, head] = other[ModelView.z_name(layer)][:, where, head]
            sent[ModelView.z_name(layer)] = z
            got: dict[str, torch.Tensor] = {}
            points = {f"blocks.{at}.attn.hook_{which}" for at, which, _ in receivers}
            hooks = [(name, put(value)) for name, value in sent.items()] + [kept(got, name) for name in points]
            found = run(model, into, hooks, ids)
            if receivers:
                hooks = []
                for at, which, unit in receivers:
                    name = f"blocks.{at}.attn.hook_{which}"

                    def receive(value, hook, name=name, unit=unit):
                        value = value.clone()
                        value[:, :, unit] = got[name][:, :, unit]  # noqa: B023
                        return value

                    hooks.append((name, receive))
                found = run(model, into, hooks, ids)
            scores[layer, head] = (found - base) / (target - base)
    return scores


def gap(model, pairs: ContrastPairs, i: int) -> float:
    one, other = (
        run(model, torch.tensor([rows[i]]), [], pairs.answer_ids[i].tolist())
        for rows in (pairs.sycophantic, pairs.truthful)
    )
    return min(1.0, abs(one - other))


@pytest.mark.parametrize("engine", ["sweep", "hooks"])
@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_direct_effect_on_the_logits(tiny, pairs, positions, mlps, engine):
    scores = path_patching(tiny, pairs, positions=positions, mlps=mlps, engine=engine, batch_size=2, progress=False)
    assert scores.engine == engine and scores.method == "path"
    for i in range(len(pairs)):
        expected = three_steps(tiny, pairs, i, positions, mlps)
        torch.testing.assert_close(own_shares(scores)[i], expected, atol=1e-5 / gap(tiny, pairs, i), rtol=0)
    assert scores.values.abs().max() > 1e-2


@pytest.mark.parametrize("engine", ["sweep", "hooks"])
@pytest.mark.parametrize("model_name", ["tiny", "gqa"])
@pytest.mark.parametrize(
    "receivers, plain",
    [
        ("L2.H1.q", [(2, "q", 1)]),
        (["L2.H3.k", "L1.H0.v"], [(2, "k", 3), (1, "v", 0)]),
        ("L1.H2.q L1.H2.k L1.H2.v L2.H0.q", [(1, "q", 2), (1, "k", 2), (1, "v", 2), (2, "q", 0)]),
    ],
)
@pytest.mark.parametrize("positions, mlps", [("last", "recomputed"), ("all", "recomputed"), ("all", "frozen")])
def test_the_way_to_a_later_head(model_name, receivers, plain, positions, mlps, engine, model_class, request):
    model = request.getfixturevalue(model_name)
    pairs = Yesman().pairs(model, n=2)
    group = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    plain = [(layer, which, unit if which == "q" else unit // group) for layer, which, unit in plain]
    how = {"positions": positions, "mlps": mlps, "receivers": receivers, "engine": engine}
    for size in (1, 64):
        scores = path_patching(model, pairs, batch_size=size, progress=False, **how)
        for i in range(len(pairs)):
            expected = three_steps(model, pairs, i, positions, mlps, plain)
            torch.testing.assert_close(own_shares(scores)[i], expected, atol=1e-5 / gap(model, pairs, i), rtol=0)
    last = max(layer for layer, _, _ in plain)
    assert (scores.values[last:] == 0).all() and scores.values[:last].abs().max() > 1e-4


def test_what_cannot_be_followed_is_refused(tiny, pairs):
    for receivers, message in (
        ("L9.H0.q", "layers 0 to 2"),
        ("L1.H9.q", "heads 0 to 3"),
        ("L1.H0", "no receiver"),
        ("L1.H0.z", "no receiver"),
        ([], "no receivers"),
        ("L0.H0.q", "no head comes before"),
    ):
        with pytest.raises(ValueError, match=message):
            path_patching(tiny, pairs, receivers=receivers)
    with pytest.raises(ValueError, match="mlps='melted': choose one of"):
        path_patching(tiny, pairs, mlps="melted")
    with pytest.raises(ValueError, match="engine='stacked': choose one of"):
        path_patching(tiny, pairs, engine="stacked")


def test_positions_that_are_not_read_reach_no_logits(tiny, pairs):
    with pytest.raises(ValueError, match="only what is written at the positions that are read"):
        path_patching(tiny, pairs, positions=[-3])
    scores = path_patching(tiny, pairs, positions=[-3], receivers="L2.H0.k", progress=False)
    assert scores.values.abs().max() > 0


def test_other_paths_are_other_kinds_of_scores(tiny, pairs):
    to_logits = path_patching(tiny, pairs, progress=False)
    to_head = path_patching(tiny, pairs, receivers=["L2.H0.q", "L1.H1.k"], progress=False)
    frozen = path_patching(tiny, pairs, mlps="frozen", progress=False)
    for other in (to_head, frozen):
        with pytest.raises(ValueError, match="differ in settings"):
            to_logits.above_null(other)
        with pytest.raises(ValueError, match="differ in settings"):
            mean_scores(to_logits, other)
    assert to_head.meta["settings"]["receivers"] == "L2.H0.q L1.H1.k"
    assert "to L2.H0.q L1.H1.k" in str(to_head.compare(to_logits)) and "MLPs frozen" in str(frozen.compare(to_head))
    with pytest.raises(ValueError, match="method='path'"):
        set_patching(tiny, pairs, HeadSet.parse("L1.H1"), scores=to_logits)


def test_importance_that_cannot_be_told_loses_no_measurement(tiny, pairs, monkeypatch):
    monkeypatch.setattr("spt_lens.scores.metrics.MIN_SHARE", 1.1)
    with pytest.warns(UserWarning, match="these are recoveries, since importance can't be told"):
        scores = activation_patching(tiny, pairs, metric="importance", progress=False)
    assert scores.metric == "recovery"
