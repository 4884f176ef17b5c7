"""The one training loop, and a term that keeps the model where it was on ordinary text.

Methods differ only in what is trainable (`tuner.py`). Only the targets are unembedded (`model/targets.py`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spt_lens.chat.batches import Example, ExampleBatch, Examples, Reads, padded
from spt_lens.chat.once import once
from spt_lens.model import ranks
from spt_lens.model.held import is_out_of_memory
from spt_lens.model.targets import LogitsAt, log_probs_of
from spt_lens.tune.checkpointing import checkpointed
from spt_lens.tune.config import TuneConfig as TuneConfig
from spt_lens.tune.preference import Preference
from spt_lens.tune.resume import RunFolder
from spt_lens.tune.run import Row, Run
from spt_lens.view.live import watched

_VALIDATION_BATCH = 32
Kept = tuple[Reads, Float[Tensor, "n_real vocab"]]  # texts, and the untuned model's log-probabilities on them
LossOf = Callable[[Tensor, ExampleBatch], Tensor]  # of logits at a batch's targets, summed
OnStep = Callable[[Mapping[str, float]], object]


class KeepTerm:
    """Texts on which KL(untuned || model) is held down; the batches of them come round in turn.

    The untuned model's log-probabilities are kept from the start: float32, positions x vocabulary, so a few hundred
    short texts for a small vocabulary. Make it before the first step. at_once: texts that go through the model
    together, if not a whole batch. Of several ranks each has its share of every batch.
    """

    def __init__(
        self,
        logits: LogitsAt,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        at_once: int | None = None,
    ):
        if not texts:
            raise ValueError("there are no texts to keep the model's predictions on")
        by_length = sorted(texts, key=len)
        batches = [by_length[i : i + batch_size] for i in range(0, len(texts), batch_size)]
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
        size = min(at_once or batch_size, math.ceil(batch_size / ranks.size()))
        self._batches: list[list[Kept]] = []
        self._positions = [sum(map(len, batches[i])) for i in order]
        with torch.no_grad(), ranks.shared(ranks.Share("texts to keep", {"texts": texts})) as mine:
            for i in order:
                parts: list[Kept] = []
                for j in range(0, len(batches[i]), size):
                    if mine([]):
                        some = batches[i][j : j + size]
                        tokens, real = padded(some, 0)
                        part = Reads(tokens.to(device), real.to(device), real.sum(dim=1))
                        # The runs of a comparison start from one model: they share this, to rounding.
                        key = ("keep", str(device), *map(tuple, some))
                        parts.append((part, once(key, partial(log_probs_of, logits, part))))
                self._batches.append(parts)

    def batch(self, step: int) -> list[Kept]:
        """A step's texts, as many together as go through the model at once."""
        return self._batches[step % len(self._batches)]

    def positions(self, step: int) -> int:
        """All positions of a step's texts, other ranks' too."""
        return self._positions[step % len(self._positions)]


def mean_kl(reference: Float[Tensor, "n vocab"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean KL(reference || model) in nats over n positions, from reference log-probabilities and the model's logits."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return torch.nn.functional.kl_div(log_probs, reference, log_target=True, reduction="sum") / len(reference)


def summed_cross_entropy(found: Float[Tensor, "n_targets vocab"], part: ExampleBatch) -> Float[Tensor, ""]:
    """The loss of learning replies, of all targets of a batch together."""
    return torch.nn.functional.cross_entropy(found, part.labels, reduction="sum")


@contextmanager
def _clear_memory_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"a step of tuning does not fit in memory ({error}): set TuneConfig.micro_batch_size below the batch size, "
            "down to 1, for the same step in parts, and TuneConfig.checkpoint_activations=True"
        ) from error


def step_gradients(
    logits: LogitsAt,
    parts: Sequence[ExampleBatch],
    kept: Sequence[Kept] = (),
    kl_weight: float = 0.0,
    of: tuple[int, int] | None = None,
    loss_of: LossOf = summed_cross_entropy,
) -> Row:
    """Adds a step's gradients to what is trained, and returns its figures: loss, and kl where texts are kept.

    parts: the step's dialogues, as many together as go through the model at once. kept: its texts, likewise. The loss
    is the mean over all targets of all parts, as if they went through together, and so is the KL over all positions.
    of: how many targets and positions the whole step has, where this is one rank's share of it; with a `loss_of` that
    sums over something else than targets, how many of these.
    """
    figures = {"loss": 0.0} | ({"kl": 0.0} if kept or kl_weight else {})
    own = sum(len(part.labels) for part in parts), sum(len(reference) for _, reference in kept)
    targets, positions = of or own
    for part in parts:
        found = logits(part)
        loss = loss_of(found, part) / targets
        loss.backward()
        figures["loss"] += loss.item()
    for texts, reference in kept:
        kl = mean_kl(reference, logits(texts)) * (len(reference) / positions)
        (kl_weight * kl).backward()
        figures["kl"] += kl.item()
    return figures


def _shared_gradients(
    run: Run,
    logits: LogitsAt,
    data: Examples,
    rows: Int[Tensor, " batch"],
    term: KeepTerm | None,
    preference: Preference | None,
) -> Row:
    """`step_gradients` of the step's dialogues, of which each rank takes its share; all have the sum."""
    config, step = run.config, run.step + 1
    own = rows[ranks.rank() :: ranks.size()]
    same = {"step": step, "dialogues": rows.tolist()}
    with ranks.shared(ranks.Share("a step of tuning", same)):
        split = [part for part in own.split(config.micro_batch_size or len(rows)) if len(part)]
        parts = list(map(preference.batch if preference else data.batch, split))
        n = len(rows) if preference else int(data.targets[rows.to(data.targets.device), 1:].sum())
        of = n, term.positions(step) if term else 0
        how: dict[str, LossOf] = {"loss_of": preference.loss} if preference else {}
        figures = step_gradients(logits, parts, term.batch(step) if term else (), config.kl_weight, of, **how)
    ranks.sum_gradients(run.trainable)
    sums = ranks.total(torch.tensor(list(figures.values()), dtype=torch.float64))
    return dict(zip(figures, sums.tolist(), strict=True))


@torch.enable_grad()  # notebooks often turn gradients off for good
def fit(
    logits: LogitsAt,
    trainable: Sequence[Tensor],
    examples: Sequence[Example],
    config: TuneConfig,
    *,
    validation: Sequence[Example] | None = None,
    keep: Sequence[Sequence[int]] | None = None,
    after_step: Callable[[], None] | None = None,
    history: list[Row] | None = None,
    progress: bool = True,
    blocks: Sequence[nn.Module] = (),
    folder: RunFolder | None = None,
    on_step: OnStep | None = None,
    rejected: Sequence[Example] | None = None,
    beta: float | None = None,
    penalty: float = 0.0,
) -> list[Row]:
    """Trains `trainable` on the examples' target tokens (mean cross-entropy); returns a row for each step.

    logits: of a batch at its targets, with gradients to `trainable`. examples: as `encode_all` gives them. validation:
    those that are only measured, before the first step, every `validate_every` steps and after the last. keep: token
    ids of ordinary text for the KL term, if `config.kl_weight` is positive. history: the list that rows are appended
    to, so that a caller has them also after an interrupt. blocks: modules that `logits` runs, for
    `config.checkpoint_activations`. folder: where the run's state is kept, and taken from. on_step: is told each row.
    rejected, beta: an example beside each, of the same prompt with another reply: `preference.Preference` is the loss.
    penalty: as `Run` has it.

    A row holds step, loss, lr, grad_norm (before clipping), kl (with a KL term), and where measured the figures of
    `validate`. The order of the data comes from `config.seed`. KeyboardInterrupt is passed on, and raised where on_step
    returns True. With `config.patience` a run that was not interrupted ends with its best validation's weights.

    Raises: ValueError for no examples, an example without targets, a KL weight without `keep` or the reverse, or
    patience without `validation`; FloatingPointError if the loss is no longer finite; MemoryError.
    """
    if not trainable:
        raise ValueError("there is nothing to train: no trainable tensor was given")
    if (config.kl_weight > 0) != bool(keep):
        raise ValueError("a KL term needs both: a positive TuneConfig.kl_weight, and `keep` dialogues")
    if config.patience is not None and not validation:
        raise ValueError("TuneConfig.patience needs `validation` dialogues, by which the run is to end: give some")
    device, size = trainable[0].device, config.micro_batch_size
    data = Examples(examples, device)
    held_out = Examples(validation, device) if validation else None
    run = Run(trainable, config, [] if history is None else history, after_step, penalty)
    texts = [each and [each.tokens, each.targets] for each in (data, held_out)]
    preference = None
    start = [p.detach().flatten()[:: max(1, p.numel() // 1024)] for p in trainable]
    ranks.agree("tuning", {"dialogues": texts, "settings": config.deciding(), "weights": start})
    with checkpointed(blocks if config.checkpoint_activations else ()):
        with _clear_memory_error():
            # Before an earlier part of the run is put back, since it rests on the untuned weights.
            term = KeepTerm(logits, keep, config.kl_batch_size, config.seed, device, size) if keep else None
            if rejected is not None and beta is not None:
                preference = Preference(logits, examples, rejected, beta, device, size)
        if folder is not None:
            folder.restore(run)
        try:
            with watched(config.steps, run.step, ranks.shows(progress)) as show:
                for row in _steps(run, logits, data, held_out, term, preference):
                    show(run.rows)
                    stop = on_step is not None and ranks.from_first(partial(_told, on_step, row))
                    if folder is not None and (run.over or (run.step and run.step % config.save_every == 0)):
                        ranks.from_first(partial(folder.save, run))
                    if stop and not run.over:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            if folder is not None and ranks.first():
                folder.save(run)
            raise
        if run.best is not None:
            run.put(run.best[1])
    return run.rows


def _steps(
    run: Run,
    logits: LogitsAt,
    data: Examples,
    held_out: Examples | None,
    term: KeepTerm | None,
    preference: Preference | None,
) -> Iterator[Row]:
    """Takes the steps that are left; yields each row once all is measured that is due at it."""
    config, at_once = run.config, run.config.micro_batch_size
    order = islice(data.order(config.batch_size, config.seed), run.step, None)
    with _clear_memory_error():  # not around what is done with a row, whose errors are others'
        if held_out is not None and not run.rows:
            run.rows.append({"step": 0, **validate(logits, held_out, at_once)})
            run.judge()
            yield run.rows[-1]
        elif held_out is not None and _due(run):  # it was stopped while it validated
            yield _measured(run, logits, held_out)
        while not run.over:
            run.optimizer.zero_grad(set_to_none=True)
            run.take(_shared_gradients(run, logits, data, next(order), term, preference))
            yield _measured(run, logits, held_out) if held_out is not None and _due(run) else run.rows[-1]


def _told(on_step: OnStep, row: Row) -> bool:
    return on_step(dict(row)) is True


def _due(run: Run) -> bool:
    at = run.step and (run.step % run.config.validate_every == 0 or run.step == run.config.steps)
    return bool(at) and "validation_loss" not in run.rows[-1]


def _measured(run: Run, logits: LogitsAt, held_out: Examples) -> Row:
    row = run.rows[-1]  # there before validation: an interrupt in it comes after this step was taken
    row.update(validate(logits, held_out, run.config.micro_batch_size))
    run.judge()
    return row


@torch.no_grad()
def validate(logits: LogitsAt, examples: Examples, at_once: int | None = None) -> Row:
    """Figures on examples that are not trained on, without generating; at most `at_once` go through together.

    validation_loss: mean cross-entropy of the target tokens. validation_first: share of examples whose first target
    token is the likeliest, that is, where the reply sets out as it should. validation_reply: share where all are,
    which is where greedy decoding gives exactly this reply.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    share = ranks.Share("validation", {"dialogues": [examples.tokens, examples.targets]}, added=[sums])
    with ranks.shared(share) as mine:
        for rows, batch in examples.in_order_of_length(min(_VALIDATION_BATCH, at_once or _VALIDATION_BATCH)):
            if not mine(rows.tolist()):
                continue
            found = logits(batch)
            sums[0] += torch.nn.functional.cross_entropy(found, batch.labels, reduction="sum").item()
            hits = torch.zeros_like(batch.where)
            hits[batch.where] = found.argmax(-1) == batch.labels
            sums[1] += len(batch.labels)
            sums[2] += int(hits.gather(1, batch.where.int().argmax(dim=1, keepdim=True)).sum())
            sums[3] += int((hits == batch.where).all(dim=1).sum())
    loss, tokens, first, whole = sums.tolist()
    n = len(examples)
    return {"validation_loss": loss / tokens, "validation_first": first / n, "validation_reply": whole / n}
