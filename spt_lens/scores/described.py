"""spt_lens.scores.described."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spt_lens.scores.head_scores import HeadScores


def named(scores: HeadScores) -> str:
    """How and on which model scores were measured, in a few words."""
    how = (scores.method, scores.direction, scores.positions, scores.engine)
    pairs = f"{scores.n_pairs} pair{'s' * (scores.n_pairs > 1)}"
    metric = () if scores.metric == "recovery" else (scores.metric,)
    null = (f"null of {scores.meta['null']}",) if scores.meta.get("null") else ()
    return ", ".join([*filter(None, how), *metric, *special(scores), *null, scores.model_name, pairs])


def special(scores: HeadScores) -> tuple[str, ...]:
    """What else tells two measurements of one method apart: receivers and MLPs of a path, steps, what knocks out."""
    settings = (scores.meta.get("mean_of") or [scores.meta])[0].get("settings", {})
    to, steps = settings.get("receivers", "logits"), settings.get("steps", 1)
    said = {f"to {to}": to != "logits", "MLPs frozen": settings.get("mlps") == "frozen", f"{steps} steps": steps > 1}
    ablation, over = settings.get("ablation", ""), settings.get("mean_over", "both")
    said |= {"set to zero": ablation == "zero", f"mean of the {over} prompts": ablation == "mean" and over != "both"}
    return tuple(text for text, true in said.items() if true)


def check_same_kind(one: HeadScores, other: HeadScores, what: str) -> None:
    """Raises ValueError if two scores differ in how, by which metric or on which model they were measured."""
    names = ("method", "direction", "positions", "metric", "model_name")
    kinds = [
        {**{name: getattr(scores, name) for name in names}, "settings": special(scores)} for scores in (one, other)
    ]
    for name, its in kinds[0].items():
        if its != kinds[1][name]:
            raise ValueError(
                f"the scores differ in {name}, {its!r} and {kinds[1][name]!r}, so that {what}: measure both alike"
            )


def shared_pairs(one: HeadScores, other: HeadScores) -> tuple[list[int], list[int], list[int]] | None:
    """The pairs that both kept: their places in `one`, in `other`, and their numbers. None if neither says which.

    `meta["pairs_used"]` are the numbers of the pairs that a measurement kept; without it, it kept all.

    Raises: ValueError if such a list does not fit the scores, or there is no pair in both.
    """
    if "pairs_used" not in one.meta and "pairs_used" not in other.meta:
        return None
    places = []
    for scores in (one, other):
        used = scores.meta.get("pairs_used", range(scores.n_pairs))
        numbers = isinstance(used, (list, tuple, range)) and all(isinstance(number, int) for number in used)
        if not numbers or len(used) != scores.n_pairs or len(set(used)) != len(used):
            raise ValueError(
                f"meta['pairs_used'] is {str(used)[:80]} and does not fit scores of {scores.n_pairs} pairs: it must "
                "list the number of each, once"
            )
        places.append({number: place for place, number in enumerate(used)})
    both = [number for number in places[0] if number in places[1]]
    if not both:
        raise ValueError("no pair was kept in both measurements, so they have no mean pair by pair: use more pairs")
    return [places[0][n] for n in both], [places[1][n] for n in both], both


METHODS = {
    "activation": "activation patching",
    "path": "path patching",
    "attribution": "attribution patching, estimates",
    "knockout": "knockout, one head at a time",
    "attention": "share of attention",
}


def describe(scores: HeadScores) -> str:
    """What the map shows, in one line, escaped."""
    if scores.metric == "recovery":
        what = {"denoising": "recovery", "noising": "loss"}.get(scores.direction, "score")
    else:
        what = scores.metric
    places = f"{scores.positions} position{'s' * (scores.positions != 'last')}"
    span = f"on the {scores.meta['span']}" if scores.meta.get("span") else ""
    parts = [METHODS.get(scores.method, scores.method), span, scores.direction, places]
    parts += special(scores)
    if scores.meta.get("null"):
        parts.append(f"null of {scores.meta['null']}")
    parts.append(f"{scores.n_pairs} pair{'s' if scores.n_pairs > 1 else ''}")
    measured = int(scores.measured.sum())
    if measured < scores.values.numel():
        parts.append(f"{measured} heads measured, {scores.values.numel() - measured} estimated")
    return escape(f"{scores.model_name}: {what} of each head ({', '.join(filter(None, parts))})")


def notes(scores: HeadScores) -> list[list[str]]:
    """What else is known of each head, in lines for the hover text, by layer: its 95 % interval, if it is an estimate.

    One pair has no interval.
    """
    low, high = scores.interval() if scores.n_pairs > 1 else (scores.values, scores.values)
    return [
        [
            (f"<br>95 % interval {a:.4f} to {b:.4f}" if scores.n_pairs > 1 else "")
            + ("" if seen else "<br>attribution estimate, not measured")
            for a, b, seen in zip(*layer, strict=True)
        ]
        for layer in zip(low.tolist(), high.tolist(), scores.measured.tolist(), strict=True)
    ]
