"""`random_pairs_null`: the scores that heads get where nothing is to be recovered."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch

from spt_lens.checking import door, seed_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.limits import find_limits
from spt_lens.model.ranks import Share
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine, measure
from spt_lens.patching.methods import method_named
from spt_lens.patching.readings import to_scores
from spt_lens.patching.rows import Direction, Positions, Rows, make_rows, named, run_source
from spt_lens.scores.head_scores import HeadScores


@door
def random_pairs_null(
    model: Model,
    pairs: ContrastPairs,
    *,
    method: str = "activation",
    seed: int = 0,
    direction: Direction = "denoising",
    positions: Positions = "last",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    **arguments: Any,
) -> HeadScores:
    """How large the scores of a method get where nothing is to be recovered: `scores.above_null(null)`.

    The values come from the same kind of run of another, random pair instead of the other run of the pair itself. They
    differ in what is talked about and not in the stance; the change is still divided by the mean of the pairs' own
    gaps. With positions other than "last" only prompts of equal length are paired, and a pair without such a partner is
    left out.

    method: "activation", "path", "attribution" or "screened", with its own `arguments` as in path_patching, ... seed:
    of the draw of partners. The other arguments, and what raises, are those of activation_patching.

    Raises: ValueError also for an unknown method, arguments that it does not have, and when there are no two pairs that
    can be partners.
    """
    view = ModelView(model)
    seed_number(seed)
    way = method_named(method, arguments)
    rows = make_rows(view, pairs, direction, positions)
    way.check(view, rows)
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    partners = _partners(pairs, direction, positions == "last", seed)
    kept = sorted(partners)
    place = {pair: i for i, pair in enumerate(kept)}
    real = Rows(
        tuple(replace(row, pair=place[row.pair]) for row in rows.rows if row.pair in place),
        tuple(readout[kept] for readout in rows.readouts),
        len(kept),
    )
    targets = torch.zeros(len(real), dtype=torch.promote_types(view.dtype, torch.float32))

    def read_targets(part: list[int]) -> None:
        targets[part] = run_source(view, *real.some(part))[1].to(targets)

    with view.kept(), torch.no_grad():
        share = Share("null", {"model": view, "pairs": real.same, "settings": [way, seed]}, [targets])
        find_limits(view, real.longest, batch_size, max_memory).each(real.alike(), read_targets, share)
    swapped = []
    for row in real.rows:  # the row's own completion stands behind the other prompt
        source = (*prompts[partners[kept[row.pair]]], *row.into[len(row.into) - row.reads + 1 :])
        at = tuple(at + len(source) - len(row.into) for at in row.into_at)
        swapped.append(replace(row, source=source, source_at=at))
    real = replace(real, rows=tuple(swapped), targets=targets)
    readings, settings = measure(view, real, way, engine, batch_size, max_memory, progress)
    scores = to_scores(readings, way.name, direction, named(positions), settings | {"seed": seed})
    left_out = [i for i in range(len(pairs)) if i not in place]
    return replace(scores, meta={**scores.meta, "pairs_used": kept, "left_out": left_out, "null": "random pairs"})


def _partners(pairs: ContrastPairs, direction: Direction, any_length: bool, seed: int) -> dict[int, int]:
    """Another pair for each pair, none twice; pairs whose prompt is as long as no other's have none."""
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(0 if any_length else len(prompt), []).append(i)
    draw = random.Random(f"random pairs {seed}")
    found: dict[int, int] = {}
    for group in groups.values():
        if len(group) > 1:
            ring = draw.sample(group, len(group))
            found |= dict(zip(ring, ring[1:] + ring[:1], strict=True))
    if not found:
        raise ValueError(
            "no two pairs can be partners in a random-pairs null: give more pairs, or with positions other than 'last' "
            "pairs with prompts of equal length"
        )
    return found
