"""One head beside the map, as the page takes it: where it looks in a prompt, what it adds to the answers, tables."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd
import torch

from spt_lens import saving
from spt_lens.chat.spans import token_texts
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.attention import Run
from spt_lens.measure.attention_view import head_attention
from spt_lens.measure.report import tokens_table
from spt_lens.measure.report_html import answer_names
from spt_lens.measure.seen import DIFFERENCE, RUNS, SIDES, SeenPairs
from spt_lens.model.view import Model, ModelView
from spt_lens.picker.check import LiveCheck
from spt_lens.picker.layers import heads_in
from spt_lens.picker.runner import ModelState, Work, beside
from spt_lens.view.attention import attention_script, attention_values

N_TOKENS = 5  # that a head raises most, and lowers most


class HeadDetails:
    """Tells of heads, from one pass over the pairs that all heads share, as long as the model stays as it is.

    pairs: over which attention and effects are averaged; the first one's prompts are shown. live: the check beside
    whose parts these run.
    """

    def __init__(self, model: Model, pairs: ContrastPairs, live: LiveCheck) -> None:
        self.view, self.pairs, self.live = ModelView(model), pairs, live
        self.state: ModelState | None = None  # of which model `_seen` is
        self._seen: SeenPairs | None = None

    def asked(self, message: Mapping[str, Any]) -> Callable[[], Work] | None:
        """What makes the parts that a page asks for; None if that makes no sense."""
        heads = heads_in([message.get("head")], self.view.n_layers, self.view.n_heads)
        if heads is None:
            return None
        parts = partial(self.parts, heads[0], message.get("pattern"), bool(message.get("script")))
        return lambda: beside(parts(), self.view, lambda: self.live._kept)

    def parts(
        self, head: Head, pattern: str | None = None, script: bool = False
    ) -> Generator[dict[str, Any] | None, None, dict[str, Any]]:
        """Messages to a page, in short parts, the last one returned: what the first pair shows of a head, then the mean
        over all pairs; what goes wrong is said in one.

        pattern: of which run to send the attention from all positions, too, which takes a pass more; script: with what
        draws it.
        """
        about = {"kind": "details", "head": head.layer * self.view.n_heads + head.head}
        yield None  # so that a head that is passed over costs nothing
        try:
            told = False
            for seen in self._reading():
                first = len(seen.done) == 1 and not told
                told = told or first
                yield about | self._message(seen, head) if first else None
            seen = self._current()
            if pattern in RUNS:
                if not told:
                    yield about | self._message(seen, head)
                yield about | self._pattern(seen, head, pattern, script)  # type: ignore[arg-type]
            return about | self._message(seen, head)
        except (Exception, KeyboardInterrupt) as error:
            self._seen = None
            return about | {"error": f"{type(error).__name__}: {error}"}

    def _current(self) -> SeenPairs:
        """Of the model as it is now: a tuned model's heads look elsewhere."""
        if self._seen is None or self.state is None or not self.state.is_of(self.view):
            self._seen = SeenPairs(self.view, self.pairs)
            self.state = ModelState(self.view)
        return self._seen

    def _reading(self) -> Iterator[SeenPairs]:
        """Reads on; from the start where a cell has changed the model meanwhile."""
        seen = self._current()
        work = seen.parts()
        while True:
            if self._current() is not seen:
                seen = self._current()
                work = seen.parts()
            if next(work, None) is None:
                return
            self.state = ModelState(self.view)  # some models change buffers of their own in a forward pass
            yield seen

    def _message(self, seen: SeenPairs, head: Head) -> dict[str, Any]:
        spans = None if seen.no_spans else seen.spans(head)
        written = None if seen.no_direct else seen.written(head)
        direct = None if written is None else seen.direct(written)
        tokens = None if written is None else tokens_table(self.view, written["sycophantic"].mean(dim=0), N_TOKENS)
        tables = {"spans": spans, "direct": direct, "tokens": tokens}
        return {
            "says": says(spans, direct, len(seen.done), answer_names(self.pairs.words)),
            "pairs": [len(seen.done), len(self.pairs)],
            "prompts": [{"run": run, "pieces": self._pieces(seen, run, head)} for run in RUNS],
            **{name: None if table is None else saving.rows(table) for name, table in tables.items()},
            "missing": [why for why in (seen.no_spans, seen.no_direct) if why],
        }

    def _pieces(self, seen: SeenPairs, run: Run, head: Head) -> list[list[Any]]:
        """[text, attention, span] of each piece of the first pair's prompt: a token, or those that write a letter."""
        shares = seen.last_row(run, 0, head).double().tolist()
        names = [""] * len(shares) if seen.no_spans else seen.labels[run][0]
        found: list[list[Any]] = []
        share = 0.0
        for text, more, name in zip(token_texts(self.view.tokenizer, seen.prompts[run][0]), shares, names, strict=True):
            share += more
            if text:
                found.append([text, round(share, 4), name])
                share = 0.0
        return found

    def _pattern(self, seen: SeenPairs, head: Head, run: Run, script: bool) -> dict[str, Any]:
        ids = seen.prompts[run][0]
        attention = head_attention(self.view.model, HeadSet((head,)), torch.tensor([list(ids)]))
        self.state = ModelState(self.view)
        values = attention_values(attention, [self.view.tokenizer.decode([i]) for i in ids], [str(head)])
        return {"pattern": values, "run": run} | ({"script": attention_script()} if script else {})


def says(spans: pd.DataFrame | None, direct: pd.DataFrame | None, n: int, answers: Mapping[str, str]) -> str:
    """What is most to say of a head, in one short sentence. answers: what they are called."""
    found = []
    if spans is not None:
        most = spans.loc[spans["sycophantic"].idxmax()]
        found.append(f"{most['sycophantic']:.2f} of its attention on the {most['span']}")
    if direct is not None:
        rows = direct[direct["run"] == "sycophantic"].set_index("answer")
        one, other = (repr(t) if (t := rows.loc[side, "token"]) else f"the {answers[side]} answer" for side in SIDES)
        found.append(f"adds {rows.loc[DIFFERENCE, 'logit']:+.2f} logits to {one} over {other}")
    return f"{'; '.join(found)}; {n} pair{'s' * (n != 1)}." if found else ""
