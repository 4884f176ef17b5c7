"""spt_lens.measure.null."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine
from spt_lens.patching.limits import find_limits
from spt_lens.patching.method import Method, Options, measure_rows
from spt_lens.patching.path import Mlps
from spt_lens.patching.rows import Direction, Positions, Row, Rows, check_patching, make_rows, named, run_source
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.made import How, to_scores


def random_pairs_null(
    model: Model,
    pairs: ContrastPairs,
    method: Method = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    padding: Padding = "right",
    engine: Engine = "auto",
    steps: int = 1,
    mlps: Mlps = "recomputed",
    receivers: str | Sequence[str] | None = None,
    max_memory: float | None = None,
) -> HeadScores:
    """How large the scores of head_recovery get where nothing is to be recovered: `scores.above_null(null)`.

    The values come from the same kind of run of another, random pair instead of the other run of the pair itself. They
    differ in what is talked about and not in the stance; the change is still divided by the pair's own gap. With
    positions other than "last" only prompts of equal length are paired, and a pair without such a partner is left out.

    seed: of the draw of partners. The other arguments, and what raises, are those of head_recovery.

    Raises: ValueError also when there are no two pairs that can be partners.
    """
    view = ModelView(model)
    options = Options(method, engine, steps, None, mlps, receivers, batch_size, max_memory, padding)
    options.check()
    check_patching(view, pairs, direction, positions, padding)
    rows = make_rows(pairs, direction, positions)
    partners = _partners(pairs, direction, positions == "last", seed)
    kept = sorted(partners)
    place = {pair: i for i, pair in enumerate(kept)}
    real = Rows(
        tuple(replace(row, pair=place[row.pair]) for row in rows.rows if row.pair in place),
        tuple(readout[kept] for readout in rows.readouts),
        len(kept),
    )
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    with view.kept(), torch.no_grad():
        targets = torch.zeros(len(real), dtype=torch.promote_types(view.dtype, torch.float32))
        limits = find_limits(view, real, batch_size, max_memory)

        def read_targets(part: list[int]) -> None:
            _, target = run_source(view, [real.rows[i] for i in part], real.readout(part), padding)
            targets[part] = target.to(targets)

        limits.each(real.alike(padding), read_targets)
    swapped = tuple(_from(row, prompts[partners[kept[row.pair]]]) for row in real.rows)
    found = measure_rows(view, replace(real, rows=swapped, targets=targets), options, progress)
    how = How(method, direction, named(positions), found.engine, {**found.settings, "seed": seed})
    base, target = found.readings.base, found.readings.target
    scores = to_scores(view, how, base, target, found.patched, found.verified, numbers=kept)
    used = [kept[i] for i in scores.meta["pairs_used"]]
    left_out = [i for i in range(len(pairs)) if i not in used]
    return replace(scores, meta={**scores.meta, "pairs_used": used, "left_out": left_out, "null": "random pairs"})


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


def _from(row: Row, prompt: tuple[int, ...]) -> Row:
    """The row with its values from another prompt of the same kind, the row's own completion behind it."""
    behind = row.into[len(row.into) - row.reads + 1 :]
    source = (*prompt, *behind)
    return replace(row, source=source, source_at=tuple(at + len(source) - len(row.into) for at in row.into_at))
