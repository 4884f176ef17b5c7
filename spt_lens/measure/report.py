"""Everything that is measured of one head, in one place: what it scores, where it looks, what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens import saving
from spt_lens.chat.words import Words
from spt_lens.checking import door, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadLike, HeadSet
from spt_lens.measure.report_html import report_html
from spt_lens.measure.seen import DIFFERENCE, RUNS, SIDES, SeenPairs
from spt_lens.measure.sets import check_scores
from spt_lens.model.ranks import shows
from spt_lens.model.view import Model, ModelView
from spt_lens.scores.head_scores import HeadScores

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class HeadReport:
    """One head, as five tables.

    scores: a row for each measurement: method, direction, positions, metric, score (mean over pairs), low and high (its
    95 % bootstrap interval over pairs; nan for a single pair), rank (1 is the highest score) of n_heads, n_pairs, and
    measured (false for an estimate).
    attention: a row for each span of the prompt: span, and the attention from the last position, 0 to 1, mean over
    pairs: sycophantic and truthful (this head's, in the two runs), sycophantic_others and truthful_others (the mean of
    all other heads).
    tokens: what the head writes straight to the logits at the last position of the sycophantic run: effect ("raises" or
    "lowers"), token_id, token (its text) and logit, the mean over pairs of what it adds (`measure.last_position`). The
    strongest first.
    direct: the same for the two answers, in both runs: run ("sycophantic" or "truthful"), answer ("truthful",
    "sycophantic" or "difference", the first less the second), token (its text; "" where pairs differ in it), logit (the
    mean over pairs), low and high (its 95 % bootstrap interval over pairs; nan for a single pair). An answer of several
    tokens, or a set of them, by its first.
    examples: every token of the first challenged prompts: pair, position, span, token, attention.
    rests_on: what its scores rest on, a text for each measurement that was looked at, with what is wrong. words: what
    the behaviour's runs are called.
    """

    head: Head
    model_name: str
    n_pairs: int
    scores: pd.DataFrame
    attention: pd.DataFrame
    tokens: pd.DataFrame
    examples: pd.DataFrame
    rests_on: tuple[str, ...] = ()
    direct: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(_COLUMNS["direct"])))
    words: Words = Words()

    def summary(self) -> str:
        """One line: where the head looks most in the challenged prompts, what it adds to the answers' difference there,
        and which tokens it moves most."""
        most = self.attention.loc[self.attention["sycophantic"].idxmax()]
        moved = [
            f"{effect} {first['token']!r} by {abs(first['logit']):.2f} logits"
            for effect in ("raises", "lowers")
            for first in self.tokens[self.tokens["effect"] == effect].head(1).to_dict("records")
        ]
        of_answers = self.direct[(self.direct["run"] == "sycophantic") & (self.direct["answer"] == "difference")]
        adds = [f"adds {value:+.2f} logits to the answers' difference" for value in of_answers["logit"]]
        return (
            f"{self.head} of {self.model_name}: {most['sycophantic']:.2f} of its attention on the {most['span']} "
            f"(other heads {most['sycophantic_others']:.2f}); {', '.join([*adds, *moved])}; {self.n_pairs} pairs"
        )

    def figure(self) -> go.Figure:
        """Bars of the attention to each span, in both runs and of the other heads."""
        from spt_lens.view.curves import attention_figure

        title = f"{self.head} of {self.model_name}: attention from the last position, mean over {self.n_pairs} pairs"
        return attention_figure(self.attention, title, self.words.runs)

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it: a table is a list of its rows, a missing number is null."""
        about: dict[str, Any] = {"head": str(self.head), "model_name": self.model_name, "n_pairs": self.n_pairs}
        about["rests_on"] = list(self.rests_on)
        about |= {"words": own} if (own := self.words.to_json()) else {}
        return {**about, **{name: saving.rows(getattr(self, name)) for name in _TABLES}}

    def save(self, path: str | Path) -> Path:
        """Writes the report as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, "head report", self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HeadReport:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        data = {"direct": [], **data}  # older files have none
        tables = {name: saving.table(data, _COLUMNS[name], name, empty=name in _MAY_BE_EMPTY) for name in _TABLES}
        for name, table in tables.items():
            _check_table(name, table)
        head, n_pairs = Head.parse(saving.entry(data, "head", str)), saving.entry(data, "n_pairs", int)
        if n_pairs < 1:
            raise ValueError(f"n_pairs is {n_pairs}, and a report is on one pair or more")
        rests_on = tuple(map(str, saving.entry({"rests_on": [], **data}, "rests_on", list)))  # older files have none
        words = Words.from_json(saving.entry({"words": {}, **data}, "words", dict))
        return cls(head, saving.entry(data, "model_name", str), n_pairs, **tables, rests_on=rests_on, words=words)

    @classmethod
    def load(cls, path: str | Path) -> HeadReport:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saving.load_json(path, "head report", cls.from_json)

    def __repr__(self) -> str:
        return f"HeadReport({self.summary()})"

    def _repr_html_(self) -> str:
        """All tables, and the examples with attention as the colour behind each token; no script and no network."""
        about = f"of {self.model_name}, {self.n_pairs} pair{'s' * (self.n_pairs != 1)}"
        tables = {name: getattr(self, name) for name in _TABLES}
        return report_html(str(self.head), about, tables, self.rests_on, self.words)


_TABLES = ("scores", "attention", "direct", "tokens", "examples")
_RUNS = (*RUNS, *(f"{run}_others" for run in RUNS))
_COLUMNS: dict[str, dict[str, type]] = {
    "scores": {
        **dict.fromkeys(("method", "direction", "positions", "metric"), str),
        **dict.fromkeys(("score", "low", "high"), float),
        **dict.fromkeys(("rank", "n_heads", "n_pairs"), int),
        "measured": bool,
    },
    "attention": {"span": str, **dict.fromkeys(_RUNS, float)},
    "direct": {**dict.fromkeys(("run", "answer", "token"), str), **dict.fromkeys(("logit", "low", "high"), float)},
    "tokens": {"effect": str, "token_id": int, "token": str, "logit": float},
    "examples": {"pair": int, "position": int, "span": str, "token": str, "attention": float},
}
_MAY_BE_EMPTY = ("scores", "examples", "direct")  # no scores and no examples were asked for
_MAY_BE_MISSING = ("low", "high")  # a single pair has no interval


def _check_table(name: str, table: pd.DataFrame) -> None:
    """Raises ValueError for what no report has in a table of the right columns."""
    missing = table.drop(columns=list(_MAY_BE_MISSING), errors="ignore").isna().any()
    if missing.any():
        raise ValueError(f"{missing.idxmax()} is missing in a row of its table {name}")
    # Half precision adds up to a little more than one.
    shares = table[[column for column in (*_RUNS, "attention") if column in table]]
    if not ((shares >= 0) & (shares <= 1.02)).all(axis=None):
        raise ValueError(f"its table {name} holds an attention outside of 0 to 1")
    if name == "tokens" and not table["effect"].isin(["raises", "lowers"]).all():
        raise ValueError("its table tokens holds an effect that is neither 'raises' nor 'lowers'")
    if name == "direct" and not (table["run"].isin(RUNS) & table["answer"].isin((*SIDES, DIFFERENCE))).all():
        raise ValueError("its table direct holds a run or an answer that there is not")
    if name == "scores" and not table["rank"].between(1, table["n_heads"]).all():
        raise ValueError("its table scores holds a rank that is not from 1 to n_heads")


@door
def head_report(
    model: Model,
    pairs: ContrastPairs,
    head: HeadLike,
    scores: HeadScores | Sequence[HeadScores] = (),
    n_tokens: int = 10,
    n_examples: int = 1,
    batch_size: int = 32,
    progress: bool = True,
) -> HeadReport:
    """What is known of one head on these pairs: its scores, its attention in both runs, the tokens that it writes.

    head: Head(5, 3), "L5.H3" or (5, 3). scores: measurements of this model's heads, to be shown for this one. n_tokens:
    how many of the tokens whose logits the head raises most, and of those that it lowers most. n_examples: how many
    challenged prompts to show token by token.

    What it writes is its direct effect alone (`measure.last_position`): other heads and MLPs, which may pass its output
    on, stay as they are. The model is left as it was. One forward pass of each prompt.

    Raises: ValueError for a head that the model does not have, scores of another shape, n_tokens below 1, n_examples
    below 0, a model whose suffixes can't be run (it carries hooks, say), and as attention_to_spans does (pairs without
    dialogues, for instance).
    """
    view = ModelView(model)
    scores = [scores] if isinstance(scores, HeadScores) else scores
    which = Head.parse(head)
    HeadSet((which,)).check(view)
    whole_number(n_tokens, "n_tokens")
    whole_number(n_examples, "n_examples", 0)
    whole_number(batch_size, "batch_size")
    for each in scores:
        check_scores(view, each)
    with view.held():
        seen = SeenPairs(view, pairs, strict=True)  # what can't be told of a prompt is an error before the long work
        with tqdm(total=2 * len(pairs), desc=f"report on {which}", unit="prompt", disable=not shows(progress)) as bar:
            for prompts in seen.parts(batch_size):
                bar.update(prompts)
            written = seen.written(which)
    examples = _examples(seen, which, range(len(pairs))[:n_examples])
    rests_on = tuple(f"{s.method}: {'. '.join([s.check.line(), *s.check.warnings])}." for s in scores if s.check)
    tokens = tokens_table(view, written["sycophantic"].mean(dim=0), n_tokens)
    attention, direct = seen.spans(which), seen.direct(written)
    return HeadReport(
        which,
        view.name,
        len(pairs),
        scores_table(scores, which),
        attention,
        tokens,
        examples,
        rests_on,
        direct,
        pairs.words,
    )


def scores_table(scores: Sequence[HeadScores], head: Head) -> pd.DataFrame:
    """`HeadReport.scores`."""
    rows = []
    for each in scores:
        low, high = (float(end[head]) for end in each.interval()) if each.n_pairs > 1 else (float("nan"),) * 2
        rows.append(
            {
                "method": each.method,
                "direction": each.direction,
                "positions": each.positions,
                "metric": each.metric,
                "score": each[head],
                "low": low,
                "high": high,
                "rank": int(each.ranks()[head]),
                "n_heads": each.values.numel(),
                "n_pairs": each.n_pairs,
                "measured": bool(each.measured[head]),
            }
        )
    return pd.DataFrame(rows, columns=list(_COLUMNS["scores"]))


def tokens_table(view: ModelView, written: Float[Tensor, " vocab"], n_tokens: int) -> pd.DataFrame:
    """`HeadReport.tokens`, of what a head adds to every token's logit."""
    # A vocabulary may have rows beyond the tokenizer's, filled up to a round number, that no text has.
    written = written.detach().double().cpu()[: min(view.vocab_size, len(view.tokenizer))]
    order = written.argsort(descending=True, stable=True).tolist()
    return pd.DataFrame(
        [
            {
                "effect": effect,
                "token_id": token,
                "token": view.tokenizer.decode([token]),
                "logit": float(written[token]),
            }
            for effect, chosen in (("raises", order[:n_tokens]), ("lowers", order[::-1][:n_tokens]))
            for token in chosen
        ]
    )


def _examples(seen: SeenPairs, head: Head, pairs: Iterable[int]) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for i in pairs:
        ids, names = seen.pairs.sycophantic[i], seen.labels["sycophantic"][i]
        texts = [seen.view.tokenizer.decode([token]) for token in ids]
        attention = seen.last_row("sycophantic", i, head).tolist()
        rows += zip([i] * len(ids), range(len(ids)), names, texts, attention, strict=True)
    return pd.DataFrame(rows, columns=list(_COLUMNS["examples"]))
