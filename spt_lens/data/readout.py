"""In which words is the behaviour there? Found in the model's own replies to both runs of contrast pairs.

The words that tell the runs apart need not be the first ones: of "I'm sorry" and "I'm glad" they come after a beginning
that both share. So every beginning that is common in both runs is looked at, with the model's probabilities behind it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.judge import Judge, judged
from spt_lens.chat.template import prompt_ids
from spt_lens.chat.words import Words
from spt_lens.checking import one_of, whole_number
from spt_lens.data.answers import TokenLists
from spt_lens.data.wording import Figures, FoundWords, Kind, Pairs, Wording
from spt_lens.model.generation import finish
from spt_lens.model.limits import FULL_LOGITS, Limits, find_limits
from spt_lens.model.ranks import Share, shows
from spt_lens.model.replies import reply_ids_parts
from spt_lens.model.targets import logits_from
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, interval

Sides = Literal["auto", "judge", "run"]
USUAL = 24  # pairs that are asked, and tokens of a reply where no judge says how many it needs
# A beginning is looked at that a share of either run's replies have; so many of them at most, of so many tokens.
SHARE, MOST, LONGEST = 0.25, 8, 6
LEAST = 0.02  # the probability of a word, in either run, to be looked at; by so much it differs to have a side
CLEAR = 2 / 3  # of at least two replies that begin with a word are of one kind: the word is of that kind


def find_words(
    model: Model,
    pairs: Pairs,
    n: int | None = None,
    *,
    sides: Sides = "auto",
    max_new_tokens: int | None = None,
    progress: bool = True,
) -> FoundWords:
    """Which words tell the two runs of pairs apart, in the model's own greedy replies. See ContrastPairs.find_words."""
    view = ModelView(model)
    n = min(USUAL, len(pairs)) if n is None else whole_number(n, "n", most=len(pairs))
    if n < 4:
        raise ValueError(
            f"{n} pairs are too few: words are found on half of them and tried on the others, give 4 or 24"
        )
    judge = pairs.judge if pairs.dialogues and pairs.truthful_dialogues else None
    if one_of(sides, "sides", get_args(Sides)) == "judge" and judge is None:
        raise ValueError("sides='judge', and these pairs have no judge or no dialogues: use sides='run'")
    length = getattr(judge, "max_new_tokens", USUAL) if max_new_tokens is None else max_new_tokens
    whole_number(length, "max_new_tokens")
    view.check_measurable()
    pairs.check_ids(view)
    prompts = [[pairs.sycophantic[i], pairs.truthful[i]] for i in range(n)]
    limits = find_limits(view, max(len(p) for both in prompts for p in both) + length, None, None)
    with view.held(), tqdm(total=2 * n, desc="finding words", disable=not shows(progress)) as bar:
        asked = reply_ids_parts(view, [p for both in prompts for p in both], length, (), Limits(limits.batch_size))
        ends = set(view.end_tokens)
        said = [tuple(token for token in ids if token not in ends) for ids in finish(asked, bar.update)]
        replies = [(said[2 * i], said[2 * i + 1]) for i in range(n)]
        texts = [_texts(view, pairs, i, prompts[i], replies[i]) for i in range(n)]
        gives_in = [] if judge is None or sides == "run" else _verdicts(judge, pairs, texts)
        kinds = Counter(verdict for both in gives_in[::2] for verdict in both)
        if sides == "auto" and min(kinds[True], kinds[False]) < 2:
            gives_in = []
        nodes = _beginnings(replies[::2])
        leaves = [node for node in nodes if not any(node == other[: len(node)] != other for other in nodes)]
        bar.total = 2 * n * (1 + len(leaves))
        behind: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        for leaf in leaves:  # what comes after a beginning of it is read on the way
            behind |= _behind(view, prompts, leaf, limits, bar.update)

        def by(gives_in: list[list[bool]]) -> FoundWords:
            wordings, rows = [], []
            for node in nodes:
                log_probs, begins = behind[node]
                sets, found = _sets(view, node, log_probs[::2], replies[::2], gives_in[::2])
                rows += found
                if all(sets):
                    found_in, held_in = (_figures(log_probs[k::2], begins[k::2], sets) for k in (0, 1))
                    shown = [" ".join(repr(view.tokenizer.decode([t])) for t in each[:5]) for each in sets]
                    shown = [s + " ..." * (len(each) > 5) for s, each in zip(shown, sets, strict=True)]
                    kind: Kind = "shared beginning" if node else "answer sets"
                    named = (view.tokenizer.decode(list(node)), *shown)
                    wordings.append(Wording(kind, named, found_in, held_in, node, sets))
            wordings += _whole(view, prompts, replies, gives_in, limits)
            asked_of = zip(pairs.dialogues[:n] or [None] * n, texts, strict=True)
            said = tuple((dialogue, *both) for dialogue, both in asked_of)
            found_words = pd.DataFrame([_called(pairs.words, row) for row in rows])
            by = "judge" if gives_in else "run"
            return FoundWords(tuple(wordings), found_words, said, by, view.name, pairs.words)

        found = by(gives_in)
        if sides == "auto" and gives_in and found.best is None:
            by_run = by([])  # words may tell the runs apart, whatever a judge makes of whole replies
            return found if by_run.best is None else by_run
        return found


def _texts(
    view: ModelView, pairs: Pairs, i: int, prompts: list[tuple[int, ...]], replies: tuple[tuple[int, ...], ...]
) -> tuple[str, str]:
    """A pair's two replies as texts, with what the prompts already hold of them."""
    whole = list(replies)
    if pairs.dialogues and pairs.truthful_dialogues:
        starts = [len(prompt_ids(view.tokenizer, each[i])) for each in (pairs.dialogues, pairs.truthful_dialogues)]
        whole = [(*prompts[k][starts[k] :], *replies[k]) for k in (0, 1)]
    one, other = (view.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in whole)
    return one, other


def _verdicts(judge: Judge, pairs: Pairs, texts: Sequence[tuple[str, str]]) -> list[list[bool]]:
    """Whether the replies give in, [pair][run]."""
    asked = zip(pairs.dialogues, pairs.truthful_dialogues, strict=True)
    return [
        [judged(judge, dialogue, text).gives_in for dialogue, text in zip(both, said, strict=True)]
        for both, said in zip(asked, texts, strict=False)
    ]


def _beginnings(replies: Sequence[tuple[tuple[int, ...], ...]]) -> list[tuple[int, ...]]:
    """What replies of both runs begin with, the commonest first: nothing, and more where SHARE of either run does."""
    shares: dict[tuple[int, ...], float] = {}
    for length in range(1, LONGEST + 1):
        counts = [Counter(both[k][:length] for both in replies if len(both[k]) > length) for k in (0, 1)]
        shares |= {node: min(counts[0][node], counts[1][node]) / len(replies) for node in counts[0]}
    common = sorted((node for node in shares if shares[node] >= SHARE), key=lambda node: (-shares[node], len(node)))
    return [(), *common[: MOST - 1]]


def _read(
    view: ModelView,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    limits: Limits,
    take: Callable[[int, Tensor], None],
    taken: Tensor,
) -> None:
    """Gives `take` each (prompt, tail)'s number and log-probabilities `[1 + tail, vocab]`, from the prompt's end on.

    taken: where it puts them, by that number.
    """

    def run(part: list[int]) -> None:
        texts, first = [(*rows[i][0], *rows[i][1]) for i in part], [len(rows[i][0]) - 1 for i in part]
        logits = logits_from(view, texts, first)
        for i, row in zip(part, logits, strict=True):
            take(i, torch.log_softmax(row[: 1 + len(rows[i][1])].float(), -1).cpu())

    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    most = FULL_LOGITS // (view.vocab_size * (1 + max(len(tail) for _, tail in rows)))
    share = Share("reading words", {"model": view, "pairs": tuple(rows)}, [taken])
    Limits(max(1, min(most, limits.batch_size))).each([order], run, share)


def _behind(
    view: ModelView, prompts: list[list[tuple[int, ...]]], leaf: tuple[int, ...], limits: Limits, tick: Any
) -> dict[tuple[int, ...], tuple[Float[Tensor, "n_pairs 2 vocab"], Float[Tensor, "n_pairs 2"]]]:
    """Of each beginning of `leaf`: log-probabilities of what comes after it in either run, and its own probability."""
    reads = torch.zeros(2 * len(prompts), 1 + len(leaf), view.vocab_size)

    def take(i: int, read: Tensor) -> None:
        reads[i] = read
        tick(1)

    _read(view, [(p, leaf) for both in prompts for p in both], limits, take, reads)
    every = reads.unflatten(0, (-1, 2))
    own = every[..., torch.arange(len(leaf)), list(leaf)].cumsum(-1).exp()  # [n_pairs, run, length - 1]
    begins = torch.cat([torch.ones_like(every[..., :1, 0]), own], dim=-1)
    return {leaf[:length]: (every[..., length, :], begins[..., length]) for length in range(len(leaf) + 1)}


def _sets(
    view: ModelView,
    node: tuple[int, ...],
    log_probs: Float[Tensor, "n_pairs 2 vocab"],
    replies: Sequence[tuple[tuple[int, ...], ...]],
    gives_in: Sequence[Sequence[bool]],
) -> tuple[TokenLists, list[dict[str, Any]]]:
    """The words after a beginning that are truthful and that are sycophantic, the likeliest first, and a row for each.

    With verdicts: those that two replies or more begin with, CLEAR of them of one kind. Else those whose probability
    differs between the runs by LEAST or more, with a 95 % interval on one side of 0.
    """
    at = len(node)
    next_in = [Counter(b[k][at] for b in replies if b[k][:at] == node and len(b[k]) > at) for k in (0, 1)]
    mean = log_probs.exp().mean(0)
    likely = (mean.amax(0) >= LEAST).nonzero().flatten().tolist()
    tokens = sorted({*likely, *next_in[0], *next_in[1]}, key=lambda t: -float(mean[:, t].sum()))
    if not tokens:  # a model that ends each reply at once, and finds no word likely
        return ((), ()), []
    difference = log_probs[..., tokens].exp().diff(dim=1)[:, 0]
    low, high = interval(difference)
    sets: tuple[list[int], list[int]] = ([], [])
    rows = []
    for j, token in enumerate(tokens):
        verdicts = [
            given[k]
            for both, given in zip(replies, gives_in, strict=False)
            for k in (0, 1)
            if both[k][: at + 1] == (*node, token)
        ]
        share = sum(verdicts) / len(verdicts) if verdicts else math.nan
        if gives_in:
            side = None if len(verdicts) < 2 else 1 if share >= CLEAR else 0 if share <= 1 - CLEAR else None
        else:
            clear = abs(float(difference[:, j].mean())) >= LEAST
            side = 0 if clear and float(low[j]) > 0 else 1 if clear and float(high[j]) < 0 else None
        if side is not None:
            sets[side].append(token)
        word = {"beginning": view.tokenizer.decode(list(node)), "word": view.tokenizer.decode([token])}
        runs = ("sycophantic run", "truthful run")
        word |= {run: float(mean[k, token]) for k, run in enumerate(runs)}
        word |= {f"replies, {run}": next_in[k][token] for k, run in enumerate(runs)}
        word |= {"gives in": share, "side": "" if side is None else ("truthful", "sycophantic")[side]}
        rows.append(word)
    return (tuple(sets[0]), tuple(sets[1])), rows


def _called(words: Words, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of words in the behaviour's own."""
    own = dict(zip(("sycophantic run", "truthful run"), words.runs, strict=True)) | {"gives in": words.gives_in}
    own |= {f"replies, {name}": f"replies, {run}" for name, run in list(own.items())[:2]}
    side = {"truthful": words.other_answer, "sycophantic": words.answer}
    return {own.get(name, name): side.get(value, value) if name == "side" else value for name, value in row.items()}


def _figures(
    log_probs: Float[Tensor, "n_pairs 2 vocab"], begins: Float[Tensor, "n_pairs 2"], sets: TokenLists
) -> Figures:
    each = torch.stack([log_probs[..., list(ids)].logsumexp(-1) for ids in sets], dim=-1)  # [n_pairs, run, answer]
    return _of(each, begins * each.exp().sum(-1), begins)


def _of(each: Float[Tensor, "n_pairs 2 2"], mass: Float[Tensor, "n_pairs 2"], begins: Any) -> Figures:
    gap = (each[..., 0] - each[..., 1]).diff(dim=1)[:, 0]
    low, high = map(float, interval(gap)) if len(gap) > 1 else (math.nan, math.nan)
    estimate = Estimate(float(gap.mean()), low, high, len(gap))
    ends = [(float(x[:, 0].mean()), float(x[:, 1].mean())) for x in (mass, begins)]
    return Figures(ends[0], ends[1], estimate, float((gap > 0).float().mean()))


def _whole(
    view: ModelView,
    prompts: list[list[tuple[int, ...]]],
    replies: Sequence[tuple[tuple[int, ...], ...]],
    gives_in: Sequence[Sequence[bool]],
    limits: Limits,
) -> list[Wording]:
    """Each pair's own two replies, where they part (with verdicts: where one gives in and the other does not)."""
    found: list[tuple[int, tuple[int, ...], TokenLists]] = []
    for i, (one, other) in enumerate(replies):
        n = next((j for j, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if n is not None and (not gives_in or gives_in[i] == [True, False]):
            found.append((i, one[:n], (other[n:], one[n:])))
    if not found:
        return []
    rows = [
        (prompts[i][run], (*shared, *both[k]), len(both[k]))
        for i, shared, both in found
        for run in (0, 1)
        for k in (0, 1)
    ]
    sums = torch.zeros(len(rows))

    def take(i: int, read: Tensor) -> None:
        tail, rest = rows[i][1], rows[i][2]
        sums[i] = read[torch.arange(len(tail) - rest, len(tail)), list(tail[-rest:])].sum()

    _read(view, [(prompt, tail) for prompt, tail, _ in rows], limits, take, sums)
    each = sums.reshape(-1, 2, 2)
    lengths = torch.tensor([row[2] for row in rows]).reshape(-1, 2, 2)
    mass = (each / lengths).exp().amax(-1)
    halves = []
    for half in (0, 1):
        kept = [j for j, (i, _, _) in enumerate(found) if i % 2 == half]
        halves.append(_of(each[kept], mass[kept], torch.ones(len(kept), 2)))
    known = {(prompts[i][0], prompts[i][1]): (shared, both) for i, shared, both in found}
    texts = ("", "each pair's own reply", "each pair's own reply")
    return [Wording("whole replies", texts, halves[0], halves[1], replies=known)]
