"""Scores of heads: one number for each head, with the values of every pair of prompts behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spt_lens.heads import Head, HeadSet
from spt_lens.scores.agreement import ScoreComparison, compare
from spt_lens.scores.described import check_same_kind, shared_pairs
from spt_lens.scores.files import load_scores, save_scores
from spt_lens.scores.metrics import Metric, importance, recovery
from spt_lens.scores.uncertainty import Uncertainty
from spt_lens.statistics import By, heads_within, strength

if TYPE_CHECKING:
    import plotly.graph_objects as go


def in_metric(scores: HeadScores, metric: Metric) -> HeadScores:
    """The same patches judged by another metric, pair by pair.

    "recovery": (LD_patched - LD_base) / (LD_target - LD_base), LD being the logit differences. "importance": see there.

    Raises:
        ValueError: An unknown metric; scores without logit differences; for recovery, a gap of nearly zero; for
            importance, as there.
    """
    if metric not in get_args(Metric):
        raise ValueError(f'unknown metric {metric!r}: use "recovery" or "importance"')
    if metric == scores.metric:
        return scores
    if scores.logit_differences is None or scores.base is None or scores.target is None:
        raise ValueError(
            f"these scores hold no logit differences to compute {metric} from (an older file has none, nor has a mean "
            "of two measurements): measure again, and change the metric before taking a mean"
        )
    patched = scores.logit_differences.movedim(0, -1)
    if metric == "recovery":
        found = recovery(patched, scores.base, scores.target)
    else:
        found = importance(patched, scores.base, scores.direction)
    per_pair = found.movedim(-1, 0).contiguous()
    return replace(scores, values=per_pair.mean(0), per_pair=per_pair, metric=metric)


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Uncertainty):
    """How much each head does, by some method. Higher means more of the effect; below zero, against it.

    Attributes:
        values: `[n_layers, n_heads]`, the mean over pairs (for recovery: a share of the logit-difference gap).
        per_pair: `[n_pairs, n_layers, n_heads]`, the values behind the mean.
        method, direction, positions: How they were measured, e.g. "activation", "denoising", "last".
        model_name: Which model.
        meta: Anything else that JSON can hold, such as the size of the gap; `pairs_used`, the numbers of the pairs
            that were kept, if some were not.
        engine: How it was computed: "sweep", "stacked" or "hooks"; "" where that is not known.
        metric: "recovery" or "importance"; see `as_metric`.
        logit_differences: `[n_pairs, n_layers, n_heads]`, truthful minus sycophantic with the head patched, in logits
            or, for whole completions, nats.
        base, target: `[n_pairs]`, the same without a patch: of the run that is patched, and of the run that the values
            come from.
        verified: `[n_layers, n_heads]`, True where `method` measured the head itself; the others are attribution
            estimates and come after these in every order. None: all were measured.

    Raises:
        ValueError: The shapes do not fit each other, there is no pair, a number is not finite, an unknown metric, or
            logit differences without base and target.
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
        if self.values.ndim != 2 or self.per_pair.ndim != 3 or self.per_pair.shape[1:] != self.values.shape:
            raise ValueError(
                f"values {tuple(self.values.shape)} and per_pair {tuple(self.per_pair.shape)} do not fit: "
                "they must be [n_layers, n_heads] and [n_pairs, n_layers, n_heads]"
            )
        if 0 in self.per_pair.shape:
            raise ValueError(f"no scores: per_pair is {tuple(self.per_pair.shape)}")
        if not (self.values.isfinite().all() and self.per_pair.isfinite().all()):
            raise ValueError("some scores are not finite: look for pairs whose two runs hardly differ")
        if self.metric not in get_args(Metric):
            raise ValueError(f'unknown metric {self.metric!r}: use "recovery" or "importance"')
        whole, pairs, heads = self.per_pair.shape, self.per_pair.shape[:1], self.values.shape
        shapes = {"logit_differences": whole, "base": pairs, "target": pairs, "verified": heads}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != shape or (value.dtype == torch.bool) != (name == "verified"):
                raise ValueError(
                    f"{name} is {tuple(value.shape)} of {value.dtype} and does not fit: with these scores it must be "
                    f"{tuple(shape)} of {'torch.bool' if name == 'verified' else 'logits'}"
                )
            if not value.isfinite().all():
                raise ValueError(f"some numbers of {name} are not finite: look at what the model gives for these pairs")
        if self.logit_differences is not None and (self.base is None or self.target is None):
            raise ValueError("logit_differences need base and target, without which they mean nothing: give all three")
        for name in ("values", "per_pair", *shapes):
            if (value := getattr(self, name)) is not None:
                value = value.detach().cpu()
                wide = value.dtype if name == "verified" else torch.promote_types(value.dtype, torch.float32)
                object.__setattr__(self, name, value.to(wide))

    @property
    def n_pairs(self) -> int:
        return self.per_pair.shape[0]

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
        layer, place = Head.parse(head)
        if layer >= self.n_layers or place >= self.n_heads:
            raise KeyError(
                f"{Head(layer, place)} has no score: there are {self.n_layers} layers x {self.n_heads} heads"
            )
        return float(self.values[layer, place])

    def order(self, by: By = "signed") -> HeadSet:
        """All heads, best first. "signed": the highest score first; "size": the largest, of either sign.

        Heads that were only estimated come after all measured ones. Equal scores keep the order of layers and heads.

        Raises:
            ValueError: `by` is neither.
        """
        flat, measured = strength(self.values, by).flatten().tolist(), self.measured.flatten().tolist()
        ranked = sorted(range(len(flat)), key=lambda i: (not measured[i], -flat[i]))
        return HeadSet(tuple(Head(*divmod(i, self.n_heads)) for i in ranked))

    def top(self, k: int, by: By = "signed") -> HeadSet:
        """The best k heads, best first. Raises ValueError unless k is from 1 to the number of heads."""
        if not 1 <= k <= self.values.numel():
            raise ValueError(f"k={k}: choose from 1 to {self.values.numel()} heads")
        return self.order(by)[:k]

    def top_fraction(self, fraction: float, by: By = "signed") -> HeadSet:
        """The best heads within a share of all heads, at least one. Raises ValueError outside (0, 1]."""
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: choose a share above 0 and up to 1, e.g. 0.05")
        return self.top(heads_within(fraction, self.values.numel()), by)

    def above(self, threshold: float, by: By = "signed") -> HeadSet:
        """The heads with a score (or its size) above a threshold, best first. May be empty."""
        return self._where(strength(self.values, by) > threshold, by)

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
        if null.values.shape != self.values.shape:
            raise ValueError(
                f"scores of shape {tuple(self.values.shape)} can't be judged by null scores of shape "
                f"{tuple(null.values.shape)} (layers, heads): measure both on the same model"
            )
        check_same_kind(self, null, "the one is no null of the other")
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile={quantile}: choose a share from 0 to 1; 1 is the largest null score")
        limit = torch.quantile(null.values.abs().double().flatten(), quantile)
        return self._where(self.measured & (strength(self.values, by) > limit), by)

    def compare(self, other: HeadScores, k: int | None = None) -> ScoreComparison:
        """How far these and others agree (`spt_lens.scores.agreement`). Raises ValueError for other shapes."""
        return compare(self, other, k)

    def as_metric(self, metric: Metric) -> HeadScores:
        """The same patches judged by "recovery" or "importance"; see `spt_lens.scores.metrics.in_metric`.

        Raises: ValueError for an unknown metric, or scores that it can't be computed from (no logit differences).
        """
        return in_metric(self, metric)

    def to_pandas(self, by: By = "signed") -> pd.DataFrame:
        """A row for each head, best first: layer, head, name, score, std (over pairs), low and high, rank.

        low, high: the 95 % interval of the score, nan for a single pair. verified: only where that is not None.
        """
        std = self.std
        low, high = self.interval() if self.n_pairs > 1 else (torch.full_like(std, torch.nan),) * 2
        return pd.DataFrame(
            [
                {
                    "layer": head.layer,
                    "head": head.head,
                    "name": str(head),
                    "score": float(self.values[head]),
                    "std": float(std[head]),
                    "low": float(low[head]),
                    "high": float(high[head]),
                    "rank": rank,
                }
                | ({} if self.verified is None else {"verified": bool(self.verified[head])})
                for rank, head in enumerate(self.order(by), start=1)
            ]
        )

    def heatmap(self, chosen: HeadSet | None = None) -> go.Figure:
        """The interactive heatmap, chosen heads outlined; see `spt_lens.view.heatmap.head_heatmap`."""
        from spt_lens.view.heatmap import head_heatmap

        return head_heatmap(self, chosen)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, with the description in its header. Raises OSError when it cannot be written."""
        save_scores(self, path)

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return load_scores(path)

    def __repr__(self) -> str:
        best = ", ".join(f"{head} {self[head]:+.3f}" for head in self.order()[:3])
        how = ", ".join(filter(None, (self.method, self.direction, f"positions={self.positions}")))
        how += f", engine={self.engine}" if self.engine else ""
        how += f", metric={self.metric}" if self.metric != "recovery" else ""
        estimates = int((~self.measured).sum())
        estimated = f" ({estimates} of these estimated)" if estimates else ""
        return (
            f"HeadScores({how}, {self.model_name}: {self.n_layers} layers x {self.n_heads} heads{estimated}, "
            f"{self.n_pairs} pairs; best {best})"
        )

    def _repr_html_(self) -> str:
        """A static map that any viewer shows, with no script and no network."""
        from spt_lens.view.heatmap import head_table

        return head_table(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the static map."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.heatmap().to_json()),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }


def mean_scores(one: HeadScores, other: HeadScores) -> HeadScores:
    """The mean of two measurements of the same heads on the same pairs, pair by pair.

    For example of patching in the supported run and the neutral one: a head that carries the user's opinion restores
    the honest reply from either. Where the two kept different pairs (`meta["pairs_used"]`), it is over those in both.
    The result has no logit differences, which would be of two runs; a head is verified where it is in both.

    Raises: ValueError if the shapes differ, or how or on which model they were measured, or no pair is in both.
    """
    check_same_kind(one, other, "their mean would be of neither kind")
    shared = shared_pairs(one, other)
    if one.values.shape != other.values.shape or (shared is None and one.n_pairs != other.n_pairs):
        raise ValueError(
            f"scores of shape {tuple(one.per_pair.shape)} and {tuple(other.per_pair.shape)} (pairs, layers, heads) "
            "have no mean pair by pair: measure both on as many pairs of the same model"
        )
    meta: dict[str, Any] = {"mean_of": [one.meta, other.meta]}
    if (null := one.meta.get("null")) != other.meta.get("null"):
        raise ValueError(
            "one of these scores is a null and the other is not, or of another kind: average like with like"
        )
    meta |= {"null": null} if null else {}
    if shared is None:
        values, per_pair = (one.values + other.values) / 2, (one.per_pair + other.per_pair) / 2
    else:
        here, there, meta["pairs_used"] = shared
        per_pair = (one.per_pair[here] + other.per_pair[there]) / 2
        values = per_pair.mean(0)
    every_head = one.verified is None and other.verified is None
    return replace(
        one,
        values=values,
        per_pair=per_pair,
        meta=meta,
        engine=one.engine if one.engine == other.engine else "",
        logit_differences=None,
        base=None,
        target=None,
        verified=None if every_head else one.measured & other.measured,
    )
