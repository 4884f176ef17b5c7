"""Scores of heads: one number for each head, with the values of every pair of prompts behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spt_lens import saving
from spt_lens.checking import door, number, one_of, share
from spt_lens.heads import Head, HeadSet
from spt_lens.scores.agreement import ScoreComparison, named
from spt_lens.scores.metrics import Metric, importance, recovery
from spt_lens.scores.uncertainty import Uncertainty
from spt_lens.statistics import By, heads_within, strength

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spt_lens.view.scale import Meaning

TENSORS = ("values", "per_pair", "logit_differences", "base", "target", "verified")
MOST_OFF = 4e-3  # half a step of bfloat16: of means that were summed up in another order, or kept in half precision
TEXTS = ("method", "direction", "positions", "model_name", "engine", "metric")


@door
@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Uncertainty):
    """How much each head does, by some method. Higher means more of the effect; below zero, against it.

    values: the mean over pairs; for recovery the mean effect over the mean gap of the logit differences (not the mean
        of shares: pairs with tiny or reversed gaps would rule that). per_pair: what it is the mean of; for recovery
        each pair's effect over the mean gap, for importance the relative change of each pair's share, as in the paper.
    method, direction, positions: how they were measured, e.g. "activation", "denoising", "last". engine: how that was
        computed, "sweep", "stacked" or "hooks"; "" where it is not known. metric: "recovery" or "importance".
    meta: anything else that JSON can hold; `pairs_used`, the numbers of the pairs that were kept, if some were not;
        `check`, what the scores rest on (`scores.check`).
    logit_differences: truthful minus sycophantic with the head patched, in logits or, for whole completions, nats.
    base, target: the same without a patch: of the run that is patched, and of the run that the values come from.
    verified: True where `method` measured the head itself; the others are attribution estimates and come after these
        in every order. None: all were measured.

    Raises: ValueError if the shapes do not fit each other, there is no pair, a number is not finite, the metric is
    unknown, or there are logit differences without base and target.
    """

    values: Float[Tensor, "n_layers n_heads"]
    per_pair: Float[Tensor, "n_pairs n_layers n_heads"]
    method: str
    direction: str
    positions: str
    model_name: str
    meta: dict[str, Any] = field(default_factory=dict)
    engine: str = ""
    metric: str = "recovery"
    logit_differences: Float[Tensor, "n_pairs n_layers n_heads"] | None = None
    base: Float[Tensor, " n_pairs"] | None = None
    target: Float[Tensor, " n_pairs"] | None = None
    verified: Bool[Tensor, "n_layers n_heads"] | None = None

    def __post_init__(self) -> None:
        heads, whole = tuple(self.values.shape), tuple(self.per_pair.shape)
        if len(heads) != 2 or len(whole) != 3 or whole[1:] != heads:
            raise ValueError(
                f"values {heads} and per_pair {whole} do not fit: "
                "they must be [n_layers, n_heads] and [n_pairs, n_layers, n_heads]"
            )
        if 0 in whole:
            raise ValueError(f"no scores: per_pair is {whole}")
        one_of(self.metric, "metric", get_args(Metric))
        shapes = {"values": heads, "per_pair": whole, "verified": heads}
        shapes |= {"logit_differences": whole, "base": whole[:1], "target": whole[:1]}
        for name, shape in shapes.items():
            if (value := getattr(self, name)) is None:
                continue
            kind = "torch.bool" if name == "verified" else "numbers"
            if value.shape != shape or (value.dtype == torch.bool) != (name == "verified"):
                raise ValueError(
                    f"{name} is {tuple(value.shape)} of {value.dtype} and does not fit: with these scores it must be "
                    f"{shape} of {kind}"
                )
            if not value.isfinite().all():
                raise ValueError(f"some numbers of {name} are not finite: look for pairs whose two runs hardly differ")
            wide = value.dtype if name == "verified" else torch.promote_types(value.dtype, torch.float32)
            object.__setattr__(self, name, value.detach().cpu().to(wide))
        off = (self.values - self.per_pair.mean(0)).abs().max() / self.per_pair.abs().max().clamp(min=1e-30)
        if off > MOST_OFF:
            raise ValueError(
                f"values are not the mean of per_pair over the pairs (off by {float(off):.2g} of its largest number), "
                "by which intervals and orders would be of other scores: give per_pair.mean(0)"
            )
        if self.logit_differences is not None and (self.base is None or self.target is None):
            raise ValueError("logit_differences need base and target, without which they mean nothing: give all three")

    @property
    def n_layers(self) -> int:
        return self.values.shape[0]

    @property
    def n_heads(self) -> int:
        return self.values.shape[1]

    @property
    def std(self) -> Float[Tensor, "n_layers n_heads"]:
        """Standard deviation over pairs; zero for a single pair, which shows no spread."""
        return self.per_pair.std(dim=0) if self.n_pairs > 1 else torch.zeros_like(self.values)

    def __getitem__(self, head: Head | tuple[int, int] | str) -> float:
        """The score of one head: `scores["L5.H3"]`. Raises KeyError when there is none."""
        found = layer, place = Head.parse(head)
        if layer >= self.n_layers or place >= self.n_heads:
            raise KeyError(f"{found} has no score: there are {self.n_layers} layers x {self.n_heads} heads")
        return float(self.values[found])

    def top(self, k: int, by: By = "signed") -> HeadSet:
        """The best k heads, best first. Raises ValueError unless k is from 1 to the number of heads."""
        return self.order(by)[: self._k(k)]

    def top_fraction(self, fraction: float, by: By = "signed") -> HeadSet:
        """The best heads within a share of all heads, at least one. Raises ValueError outside (0, 1]."""
        return self.top(heads_within(share(fraction, "fraction"), self.values.numel()), by)

    def above(self, threshold: float, by: By = "signed") -> HeadSet:
        """The heads with a score (or its size) above a threshold, best first. May be empty."""
        return self._where(strength(self.values, by) > number(threshold, "threshold"), by)

    def ranks(self, by: By = "signed") -> Int[Tensor, "n_layers n_heads"]:
        """The place of each head in the order; 1 is the best."""
        ranks = torch.zeros(self.values.shape, dtype=torch.long)
        for rank, head in enumerate(self.order(by), start=1):
            ranks[head] = rank
        return ranks

    def above_null(self, null: HeadScores, quantile: float = 1.0, by: By = "signed") -> HeadSet:
        """The measured heads with a score (or its size) above that quantile of the sizes of null scores, best first.

        null: the same model's, measured alike on random pairs, and on as many: with fewer they spread more.

        Raises: ValueError if the scores differ in shape or kind, or for a quantile outside of [0, 1].
        """
        self.check_alike(null, "the one is no null of the other")
        limit = torch.quantile(null.values.abs().double().flatten(), number(quantile, "quantile", least=0, most=1))
        return self._where(self.measured & (strength(self.values, by) > limit), by)

    def compare(self, other: HeadScores, k: int | None = None, names: Sequence[str] = ()) -> ScoreComparison:
        """How far these and others agree: by another method, of another model of the same shape, or on other pairs.

        k: how many heads "top" means; default: 5 % of them. names: what to call the two; default: how each was
        measured. Raises: ValueError for another shape, a wrong k, or names that are not two.
        """
        if self.values.shape != other.values.shape:
            raise ValueError(
                f"scores of {self.n_layers} layers x {self.n_heads} heads and of {other.n_layers} x {other.n_heads} "
                "can't be compared head by head: compare models of one shape"
            )
        k = self._k(k)
        columns = {"score_one": self.values, "score_other": other.values}
        columns |= {"difference": other.values.double() - self.values.double()}
        table = _table(self.order(), columns | {"rank_one": self.ranks(), "rank_other": other.ranks()})
        largest = self.top(k, "size"), other.top(k, "size")
        return ScoreComparison(table, named(self, other, names), (self.metric, other.metric), k, largest)

    def as_metric(self, metric: Metric) -> HeadScores:
        """The same patches judged by another metric; see `spt_lens.scores.metrics`.

        Raises: ValueError for an unknown metric; scores without logit differences; for recovery, a mean gap of nearly
        zero; for importance, a share of the sycophantic answer of nearly zero.
        """
        if metric == self.metric:
            return self
        if self.logit_differences is None or self.base is None or self.target is None:
            raise ValueError(
                f"these scores hold no logit differences to compute {metric} from (an older file has none, nor has a "
                "mean of two measurements): measure again, and change the metric before taking a mean"
            )
        patched = self.logit_differences.movedim(0, -1)
        if metric == "recovery":
            found = recovery(patched, self.base, self.target)
        else:
            found = importance(patched, self.base, self.direction)
        per_pair = found.movedim(-1, 0).contiguous()
        return replace(self, values=per_pair.mean(0), per_pair=per_pair, metric=metric)

    def to_pandas(self, by: By = "signed") -> pd.DataFrame:
        """A row for each head, best first: layer, head, name, score, std (over pairs), low, high, rank, logits, note.

        low, high: the 95 % interval of the score, nan for a single pair. logits: the mean effect in logits (of whole
        completions: nats), only where it is known. note: that the interval holds 0, or a recovery is above 1. verified:
        only where that is not None.
        """
        low, high = self._ends()
        columns = {"score": self.values, "std": self.std, "low": low, "high": high, "rank": self.ranks(by)}
        columns |= {} if self.effects is None else {"logits": self.effects.mean(0)}
        columns |= {} if self.verified is None else {"verified": self.verified}
        heads, notes = self.order(by), self.notes(low, high)
        table = _table(heads, columns)
        table.insert(table.columns.get_loc("rank") + 1, "note", [notes[head.layer][head.head] for head in heads])
        return table

    def _ends(self) -> tuple[Float[Tensor, "n_layers n_heads"], Float[Tensor, "n_layers n_heads"]]:
        """The interval; nan for a single pair."""
        return self.interval() if self.n_pairs > 1 else (torch.full_like(self.values, torch.nan),) * 2

    def heatmap(self, chosen: HeadSet | None = None, title: str | None = None) -> go.Figure:
        """The interactive heatmap, chosen heads outlined. title: default: what was measured, on which model.

        Raises: ValueError if a chosen head has no score.
        """
        from spt_lens.view.heatmap import head_heatmap

        low, high = self._ends()
        moved = torch.full_like(self.values, torch.nan) if self.effects is None else self.effects.mean(0)
        unit = "logits" if self.check is None else self.check.unit
        notes = [
            [
                (f"<br>effect {logits:.4f} {unit}" if self.effects is not None else "")
                + (f"<br>95 % interval {a:.4f} to {b:.4f}" if self.n_pairs > 1 else "")
                + (f"<br><b>{note}</b>" if note else "")
                + ("" if measured else "<br>attribution estimate, not measured")
                for logits, a, b, note, measured in zip(*layer, strict=True)
            ]
            for layer in zip(
                moved.tolist(), low.tolist(), high.tolist(), self.notes(low, high), self.measured.tolist(), strict=True
            )
        ]
        title = self.titled() if title is None else title
        return head_heatmap(self.values, self.std, self.ranks(), notes, title, chosen or (), self._meaning(low, high))

    def html(self, chosen: HeadSet | None = None) -> str:
        """The map as a static table that any viewer shows, with no script and no network; chosen heads outlined."""
        from spt_lens.view.heatmap import head_table

        ends = self._ends()
        both = zip(self.notes(*ends), self.measured.tolist(), strict=True)
        notes = [
            [(f", {note}" if note else "") + ("" if own else ", estimate") for note, own in zip(*layer, strict=True)]
            for layer in both
        ]
        return head_table(self.values, self.ranks(), notes, self.titled(), chosen or (), self._meaning(*ends))

    def _meaning(self, low: Float[Tensor, "n_layers n_heads"], high: Float[Tensor, "n_layers n_heads"]) -> Meaning:
        from spt_lens.view.scale import Meaning

        uncertain, more = self.marks(low, high)
        return Meaning(self.quantity, self.one_sided, uncertain if self.n_pairs > 1 else None, more)

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file, with the description in its header, and returns its path. Raises OSError."""
        tensors = {name: getattr(self, name) for name in TENSORS if getattr(self, name) is not None}
        return saving.save_tensors(path, "scores", tensors, {name: getattr(self, name) for name in (*TEXTS, "meta")})

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        tensors, about = saving.load_tensors(path, "scores")
        with saving.reading(path, "scores"):
            # Older files lack some.
            found: dict[str, Any] = {name: tensors[name] for name in TENSORS if name in tensors}
            found |= {name: saving.entry(about, name, str) for name in TEXTS if name in about}
            scores = cls(**found, meta=saving.entry(about, "meta", dict))
            _ = scores.check  # raises for one that is none
            return scores

    def __repr__(self) -> str:
        best = ", ".join(f"{head} {self[head]:+.3f}" for head in self.order()[:3])
        engine = f"engine={self.engine}" if self.engine else ""
        metric = f"metric={self.metric}" if self.metric != "recovery" else ""
        how = ", ".join(filter(None, (self.method, self.direction, f"positions={self.positions}", engine, metric)))
        estimates = int((~self.measured).sum())
        estimated = f" ({estimates} of these estimated)" if estimates else ""
        return (
            f"HeadScores({how}, {self.model_name}: {self.n_layers} layers x {self.n_heads} heads{estimated}, "
            f"{self._pairs()}; best {best})"
        )

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the static map."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.heatmap().to_json()),
            "text/html": self.html(),
            "text/plain": repr(self),
        }


def _table(heads: HeadSet, columns: dict[str, Tensor]) -> pd.DataFrame:
    layers, places = [head.layer for head in heads], [head.head for head in heads]
    about = {"layer": layers, "head": places, "name": list(map(str, heads))}
    return pd.DataFrame(about | {name: column[layers, places].tolist() for name, column in columns.items()})
