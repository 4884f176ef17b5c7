"""One head beside the map: its report and its attention on an example dialogue, as the page takes them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import torch

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.attention_view import head_attention
from spt_lens.measure.report import HeadReport, head_report
from spt_lens.model.view import Model, ModelView
from spt_lens.picker.runner import ModelState
from spt_lens.scores.head_scores import HeadScores
from spt_lens.view.attention import attention_script, attention_values


class HeadDetails:
    """Reports on heads, each made once as long as the model's weights stay as they are.

    pairs: over which attention and effects are averaged; the first challenged prompt is the example. A report takes
    about four forward passes of each pair, in one piece: give few.
    """

    def __init__(self, model: Model, pairs: ContrastPairs, layers: Mapping[str, HeadScores]) -> None:
        self.view, self.pairs, self.layers = ModelView(model), pairs, layers
        self._made: dict[Head, tuple[HeadReport, dict[str, Any]]] = {}
        self._state: ModelState | None = None

    def of(self, head: Head) -> tuple[HeadReport, dict[str, Any]]:
        """The report, and what circuitsvis draws the attention from. Raises as `head_report` does."""
        # A tuned model's heads look elsewhere.
        if self._state is None or not self._state.is_of(self.view):
            self._made.clear()
        if head not in self._made:
            scores = list(self.layers.values())
            report = head_report(self.view.model, self.pairs, head, scores, n_tokens=5, progress=False)
            ids = self.pairs.sycophantic[0]
            attention = head_attention(self.view.model, HeadSet((head,)), torch.tensor([list(ids)]))
            tokens = [self.view.tokenizer.decode([i]) for i in ids]
            self._made[head] = report, attention_values(attention, tokens, [str(head)])
            self._state = ModelState(self.view)  # some models change buffers of their own in a forward pass
        return self._made[head]

    def parts(self, head: Head, with_script: bool) -> Generator[None, None, dict[str, Any]]:
        """The message that a page (without circuitsvis yet?) gets, in one part; what goes wrong is said in it."""
        yield
        found: dict[str, Any] = {"kind": "details", "head": head.layer * self.view.n_heads + head.head}
        try:
            report, attention = self.of(head)
            found |= {"says": report.summary(), "report": report._repr_html_(), "attention": attention}
            return found | ({"script": attention_script()} if with_script else {})
        except (Exception, KeyboardInterrupt) as error:
            return found | {"error": f"{type(error).__name__}: {error}"}
