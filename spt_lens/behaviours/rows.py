"""Rows of a data set, ready to measure (contrast pairs), to tune on and to evaluate."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass

from spt_lens.behaviours.are_you_sure import retract
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.answers import Completions, Read
from spt_lens.data.pairs import ContrastPairs, turns_html
from spt_lens.model.view import Model


@dataclass(frozen=True, repr=False)
class LoadedRows:
    """Rows of a data set, each as a contrast pair and as dialogues to tune on. Slices are taken as of a list.

    challenged, truthful: the two prompts of each row; they end with a user turn. meta has `source`, the file and row.
    completions: each row's (truthful, sycophantic) replies.
    training: each row's dialogues that end in the reply to be learnt. Where a data set knows right and wrong first
        answers, their meta says which (`right`) and fits `spt_lens.behaviours.suite.Suite`.
    skipped: what was wrong with the rows that were left out.

    Raises: ValueError if there are no rows, or not as many of each.
    """

    name: str
    challenged: tuple[Dialogue, ...]
    truthful: tuple[Dialogue, ...]
    completions: tuple[Completions, ...]
    training: tuple[tuple[Dialogue, ...], ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.challenged, self.truthful, self.completions, self.training)]
        if counts[0] == 0:
            raise ValueError(f"{self.name}: there are no rows")
        if len(set(counts)) > 1:
            raise ValueError(
                f"{self.name}: {counts} challenged prompts, truthful ones, completions and training dialogues: there "
                "must be as many of each"
            )

    def __len__(self) -> int:
        return len(self.challenged)

    def __getitem__(self, which: slice) -> LoadedRows:
        """Some of the rows, by a slice: `rows[:100]`. `skipped` stays as it is."""
        if not isinstance(which, slice):
            raise TypeError(f"rows are taken by slices, such as rows[:100], not by {type(which).__name__}")
        return LoadedRows(
            self.name,
            self.challenged[which],
            self.truthful[which],
            self.completions[which],
            self.training[which],
            self.skipped,
        )

    @property
    def right(self) -> tuple[Dialogue, ...]:
        """The challenges of right first answers, in the rows' order; empty where the data has none."""
        return tuple(d for row in self.training for d in row if d.meta.get("right") is True)

    @property
    def wrong(self) -> tuple[Dialogue, ...]:
        """The challenges of wrong first answers, in the rows' order; empty where the data has none."""
        return tuple(d for row in self.training for d in row if d.meta.get("right") is False)

    def pairs(self, model: Model, n: int | None = None, read: Read = "first") -> ContrastPairs:
        """The first `n` rows (default: all) as contrast pairs for a model; `read` as in ContrastPairs.of.

        Raises: ValueError as ContrastPairs.of does, for an n below one or above the number of rows, and with
        read="whole" for a row whose sycophantic reply names no answer.
        """
        stop = len(self) if n is None else n
        if not 1 <= stop <= len(self):
            raise ValueError(f"{n} pairs are not possible: {self.name} has {len(self)} rows, take from 1 to as many")
        # Enough for a first token, but as a whole nothing that anyone would say.
        bare = next((i for i, both in enumerate(self.completions[:stop]) if both[1] == retract("")), None)
        if read == "whole" and bare is not None:
            raise ValueError(
                f"pair {bare} ({self.challenged[bare].meta.get('source', self.name)}): its sycophantic reply "
                f"{retract('')!r} names no answer, so it can't be read as a whole: give wrong answers by "
                "sycophancy_eval(..., wrong=...), or use read='first'"
            )
        return ContrastPairs.of(model, self.challenged[:stop], self.truthful[:stop], self.completions[:stop], read)

    def dialogues(self, n: int | None = None, seed: int = 0) -> list[Dialogue]:
        """At most all, or `n`, dialogues to tune on, in an order drawn by `seed`.

        Where the data has right and wrong first answers, there are as many of each (of an odd n, one right one more):
        else a model could learn to always stand by, or never to. Surplus ones are left out.

        Raises: ValueError if there are not n of them, or right first answers only.
        """
        rng = random.Random(f"dialogues {seed}")
        right, wrong = list(self.right), list(self.wrong)
        if right and not wrong:
            raise ValueError(
                f"{self.name} has no wrong first answers, and on right ones alone a model would learn to always stand "
                "by: give wrong answers by sycophancy_eval(..., wrong=...), or take rows.right knowing this"
            )
        if right:
            rng.shuffle(right)
            rng.shuffle(wrong)
            chosen = [d for both in zip(right, wrong, strict=False) for d in both]
        else:
            chosen = [d for row in self.training for d in row]
            rng.shuffle(chosen)
        if n is not None and not (2 if right else 1) <= n <= len(chosen):
            balanced = " with as many right as wrong first answers" if right else ""
            raise ValueError(
                f"{n} dialogues are not possible: {self.name} has {len(chosen)}{balanced}, take "
                f"from {2 if right else 1} to as many"
            )
        chosen = chosen[:n]
        rng.shuffle(chosen)
        return chosen

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"LoadedRows({self.name!r}: {len(self)} rows, {sum(map(len, self.training))} to tune on{skipped})"

    def _repr_html_(self) -> str:
        head = (
            f"<p><b>{len(self)} rows</b> of {html.escape(self.name)}, {sum(map(len, self.training))} dialogues to "
            f"tune on, {len(self.skipped)} rows skipped</p>"
        )
        rows = "".join(
            f"<tr><td>{turns_html(one)}</td><td>{turns_html(other)}</td>"
            f"<td>{html.escape(both[0])}</td><td>{html.escape(both[1])}</td></tr>"
            for one, other, both in zip(self.challenged[:2], self.truthful[:2], self.completions[:2], strict=True)
        )
        names = ("sycophantic run", "truthful run", "truthful reply", "sycophantic reply")
        table = f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table>"
        notes = "".join(f"<li>{html.escape(message)}</li>" for message in self.skipped[:3])
        return head + table + (f"<p>Skipped:</p><ul>{notes}</ul>" if notes else "")
