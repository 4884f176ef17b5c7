"""What scores say of themselves: how and on which model they were measured, and whether two were measured alike."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.checking import instance
from spt_lens.data.check import LEAST_SHARE, PairsCheck

METHODS = {
    "activation": "activation patching",
    "path": "path patching",
    "attribution": "attribution patching, estimates",
    "knockout": "knockout, one head at a time",
    "attention": "attention",
    "objective": "gradient of the tuning objective",
    "probe": "accuracy of a linear probe",
}
# What their scores are called, where that is not the metric, and which of them can't be below zero.
_QUANTITIES = {"attention": "share of attention", "objective": "gradient (nats a token)"}
# Settings that are told in words of their own, or change no score.
_SAID = set("engine engine_reason batch_size padding seed steps screen receivers mlps ablation mean_over".split())


class Described:
    """The methods of HeadScores that tell how it was measured."""

    values: Float[Tensor, "n_layers n_heads"]
    per_pair: Float[Tensor, "n_pairs n_layers n_heads"]
    verified: Bool[Tensor, "n_layers n_heads"] | None
    method: str
    direction: str
    positions: str
    model_name: str
    meta: dict[str, Any]
    engine: str
    metric: str
    logit_differences: Float[Tensor, "n_pairs n_layers n_heads"] | None
    base: Float[Tensor, " n_pairs"] | None
    target: Float[Tensor, " n_pairs"] | None

    @property
    def n_pairs(self) -> int:
        return self.per_pair.shape[0]

    @property
    def measured(self) -> Bool[Tensor, "n_layers n_heads"]:
        """True for heads that `method` measured itself, False for attribution estimates."""
        return torch.ones_like(self.values, dtype=torch.bool) if self.verified is None else self.verified

    @property
    def of_gap(self) -> bool:
        """Whether scores are shares of the gap between two runs, of which 1 is all; attention and gradients are not."""
        return self.metric == "recovery" and self.method not in ("attention", "objective", "probe")

    @property
    def quantity(self) -> str:
        """What a score is called, on its map and beside its colours."""
        if self.method in _QUANTITIES or self.metric != "recovery":
            return _QUANTITIES.get(self.method, self.metric)
        known = {"denoising": "recovery", "noising": "loss"}
        return known.get(self.direction, "recovery" if self.method == "knockout" else "score")

    @property
    def one_sided(self) -> bool:
        """Whether no score can be below zero: attention, gradients, and of another method without a direction, where
        none is."""
        own = self.method not in METHODS and not self.direction
        return self.method in _QUANTITIES or (own and bool((self.per_pair >= 0).all()))

    @property
    def gaps(self) -> Float[Tensor, " n_pairs"] | None:
        """The gap of each pair as a share of the mean gap; None for what is no mean effect over the mean gap, such as
        importance, attention, a mean of two measurements, or the mean of shares that older files hold."""
        if self.logit_differences is None or self.base is None or self.target is None or self.metric != "recovery":
            return None
        gap = self.target - self.base
        moved, shares = self.logit_differences - self.base[:, None, None], self.per_pair * gap.mean()
        # An older file's shares are each of its own pair's gap.
        return gap / gap.mean() if torch.allclose(shares, moved, rtol=1e-3, atol=1e-5) else None

    @property
    def label(self) -> str:
        """How and on which model it was measured, in a few words."""
        metric = "" if self.metric == "recovery" else self.metric
        how = (self.method, self.direction, self.positions, self.engine, metric, *self.special(), self._null())
        return ", ".join([*filter(None, how), self.model_name, self._pairs()])

    def special(self) -> tuple[str, ...]:
        """What else tells measurements of one method apart: receivers and MLPs of a path, steps, what knocks out, and
        any other setting of a method of yours."""
        settings = (self.meta.get("mean_of") or [self.meta])[0].get("settings", {})
        to, steps = settings.get("receivers", "logits"), settings.get("steps", 1)
        ablation, over = settings.get("ablation", ""), settings.get("mean_over", "both")
        said = {
            f"to {to}": to != "logits",
            "MLPs frozen": settings.get("mlps") == "frozen",
            f"{steps} steps": steps > 1,
            "set to zero": ablation == "zero",
            f"mean of the {over} prompts": ablation == "mean" and over != "both",
        }
        said |= {f"{name} {value}": True for name, value in settings.items() if name not in _SAID}
        return tuple(text for text, true in said.items() if true)

    @property
    def check(self) -> PairsCheck | None:
        """What the scores rest on, as `pairs.check` found it when they were measured; None where nobody looked."""
        found = (self.meta.get("mean_of") or [self.meta])[0].get("check")
        return PairsCheck.from_json(found) if isinstance(found, dict) else None

    def plainly(self) -> str:
        """How often the run with the behaviour prefers its answer, in its own words, and whether that is little;
        "" where nobody looked. It is of the words that are read: what whole replies come to, only a judge can say."""
        if (check := self.check) is None:
            return ""
        there, words = round(check.sycophantic.value * check.n_pairs), check.words
        said = f"the model prefers the {words.answer} answer in {there} of {check.n_pairs} {words.of('prompts')}"
        if check.swapped:
            return f"⚠ {said}: are the answers swapped?"
        if check.sycophantic.value < LEAST_SHARE:
            return f"⚠ {said}: there is little to find here"
        if check.n_pairs > 1 and check.mean_gap.low <= 0 <= check.mean_gap.high:
            return f"⚠ {said}, but the two runs can't be told apart: a share of their gap may be anything"
        return said

    def titled(self) -> str:
        """`describe`, and in more lines what the scores rest on, where that is known, and what is wrong with it."""
        check = self.check
        first = "the first of them: " if self.meta.get("mean_of") else ""
        rests = [] if check is None else [self.plainly(), first + check.line(), check.brief]
        return "\n".join(filter(None, [self.describe(), *rests]))

    def describe(self) -> str:
        """What its map shows, in one line."""
        places = f"{self.positions} position{'s' * (self.positions != 'last')}"
        span = f"on the {self.meta['span']}" if self.meta.get("span") else ""
        parts = [METHODS.get(self.method, self.method), span, self.direction, places, *self.special(), self._null()]
        parts.append(self._pairs())
        if several := self.meta.get("mean_of"):
            parts.append(f"mean of {len(several)} measurements")
        if estimates := int((~self.measured).sum()):
            parts.append(f"{self.measured.numel() - estimates} heads measured, {estimates} estimated")
        return f"{self.model_name}: {self.quantity} of each head ({', '.join(filter(None, parts))})"

    def check_alike(self, other: Described, what: str) -> None:
        """Raises ValueError if the other differs in shape, in how or on which model it was measured, in metric, or if
        one is a mean of each pair's own share, as older files hold it, and the other is not."""
        instance(other, "the other scores", Described, "give HeadScores")
        names = ("n_layers", "n_heads", "method", "direction", "positions", "metric", "model_name")
        ours, theirs = (
            {name: getattr(each, name) for name in names} | {"settings": each.special()} for each in (self, other)
        )
        for name, its in ours.items():
            if its != theirs[name]:
                raise ValueError(
                    f"the scores differ in {name}, {its!r} and {theirs[name]!r}, so that {what}: measure both alike"
                )

        shares = [each for each in (self, other) if each.of_gap and each.logit_differences is not None]
        if len({each.gaps is None for each in shares}) > 1:
            raise ValueError(
                "one of the scores is the mean of each pair's own share, from an older file, the other the mean effect "
                f"over the mean gap, so that {what}: measure both anew"
            )

    def _null(self) -> str:
        return f"null of {self.meta['null']}" if self.meta.get("null") else ""

    def _pairs(self) -> str:
        return self.meta.get("rows") or f"{self.n_pairs} pair{'s' * (self.n_pairs > 1)}"
