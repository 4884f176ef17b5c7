"""Pinpoint tuning beside full fine-tuning, LoRA and random heads: every method over learning rates and seeds.

One learning rate makes any method look good or bad, so methods are compared by frontiers: what each reaches at which
drift.
"""

import hashlib
import json
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import Behaviour, Split
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, check_dialogues
from spt_lens.chat.options import ChatOptions
from spt_lens.chat.template import chat_options
from spt_lens.checking import a_path, instance, whole_number
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.trials import Contender, Spec, Trial, append_trial, asked, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.devices import check_whole
from spt_lens.model.kept import to_the_end
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import bits
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Tuner

SPLITS: tuple[Split, ...] = ("validation", "test")


def default_methods(
    model: Model, heads: HeadSet | Mapping[str, HeadSet], n_random: int = 5, seed: int = 0
) -> list[Contender]:
    """The chosen heads (one method for each selection), full fine-tuning, LoRA of rank 16, and random heads.

    The random heads are `n_random` draws matched to the first selection layer by layer, each tuned with one seed.
    """
    way_out = "give a HeadSet, such as scores.top(4), or a dict of them by name"
    instance(heads, "heads", (HeadSet, Mapping), way_out)
    chosen = {"chosen heads": heads} if isinstance(heads, HeadSet) else dict(heads)
    if not chosen:
        raise ValueError(f"no selection of heads to compare: {way_out}")
    for name, selection in chosen.items():
        instance(selection, f"heads[{name!r}]", HeadSet, way_out).check(model)
    methods = [Contender(name, Pinpoint(selection)) for name, selection in chosen.items()]
    methods += [Contender("full fine-tuning", FullFineTuning()), Contender("LoRA", LoRA())]
    first = next(iter(chosen.values()))
    draws = [Pinpoint(first.random_like(model, seed + i)) for i in range(n_random)]
    return methods + ([Contender("random heads", draws, seeds=(0,))] if draws else [])


def compare(
    model: Model,
    heads: HeadSet | Mapping[str, HeadSet] | None = None,
    behaviour: Behaviour | None = None,
    *,
    dialogues: Sequence[Dialogue] | None = None,
    config: TuneConfig | None = None,
    methods: Sequence[Contender] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    keep: Sequence[Dialogue] = (),
    suites: Mapping[str, Suite] | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Comparison:
    """Tunes by every method, learning rate and seed, and evaluates each on the validation and the test split.

    The model is tuned and put back, bit for bit, after each trial. Same dialogues, same number of steps for every one.

    Args:
        heads: the chosen ones, or several selections by name, for `default_methods(model, heads)`.
        behaviour: where dialogues (`training()`) and suites ("validation" and "test") come from, unless they are given.
        config: all settings but the learning rate and the seed; default TuneConfig().
        methods: in place of the default ones: a rival of yours is Contender("mine", MyTuner()), of `evaluate.trials`.
        keep: ordinary dialogues for the KL term, if `config.kl_weight` is positive.
        out: a results file (JSON lines). Each trial is added as it ends, and one that is there already, of the same
            model, data and settings, is not done again: an interrupted comparison goes on where it was.
        workers: 1 works here, on the model itself. More: that many new processes, of one thread each, on a saved copy;
            a script then needs the usual `if __name__ == "__main__":`.

    Raises: before anything is tuned, ValueError for whatever can't be meant (no heads, no dialogues, no seeds, say),
    ImportError for LoRA without peft, OSError if `out` can't be written.
    """
    view = ModelView(model)
    whole_number(workers, "workers")
    if methods is None:
        methods = default_methods(view, {} if heads is None else heads)
    todo = asked(methods, seeds)
    for tuner in {repr(tuner): tuner for tuner in todo.values() if tuner is not None}.values():
        tuner.check(view)
    if behaviour is not None:
        instance(behaviour, "behaviour", Behaviour, "give one such as AreYouSure(questions)")
        dialogues = behaviour.training() if dialogues is None else dialogues
        suites = {split: behaviour.suite(split) for split in SPLITS} if suites is None else suites
    if dialogues is None or suites is None:
        raise ValueError("there is nothing to tune on or to judge by: give a behaviour, or both dialogues and suites")
    way_out = 'give {"validation": Suite(...), "test": Suite(...)}'
    if set(instance(suites, "suites", Mapping, way_out)) != set(SPLITS):
        got = ", ".join(map(str, suites)) or "none"
        raise ValueError(f'suites must be {{"validation": ..., "test": ...}}, got {got}')
    for split, suite in suites.items():
        instance(suite, f"suites[{split!r}]", Suite, way_out)
    config = TuneConfig() if config is None else instance(config, "config", TuneConfig, "give TuneConfig(steps=100)")
    check_dialogues(dialogues, least=1)
    check_dialogues(keep, "keep")
    task = Task(tuple(dialogues), config, suites, tuple(keep))
    if workers > 1:
        try:
            pickle.dumps((task, todo))
        except Exception as error:  # of a judge or tuner's own
            raise TypeError(
                f"what is compared can't be sent to processes of their own ({error}): define judges and tuners at the "
                "top of a module, no lambdas, or leave workers out"
            ) from error
    fingerprint = task.fingerprint(view)
    keys = {spec: spec.key(fingerprint) for spec in todo}
    # Two methods may ask for one and the same trial: it is done once, and stands in both.
    wanted = {keys[spec]: (spec, tuner) for spec, tuner in todo.items()}
    path = None if out is None else a_path(out, "out")
    found = {key: trial for key, trial in (read_trials(path) if path else {}).items() if key in wanted}
    if path:
        path.open("a").close()  # an unwritable folder shows now, not after the first trial
    left = {key: each for key, each in wanted.items() if key not in found}
    bar = tqdm(total=len(wanted), initial=len(found), desc="comparing", unit="trial", disable=not progress)
    with bar, closing(_trials(view, task, left, workers)) as coming:
        for key, trial in coming:
            found[key] = trial
            if path:
                append_trial(path, key, trial)
            bar.update()
    settings = {"model": view.name, "parameters": view.n_params}
    settings |= {"steps": task.config.steps, "batch_size": task.config.batch_size, "dialogues": len(task.dialogues)}
    settings |= {"keep": len(task.keep), "kl_weight": task.config.kl_weight, "fingerprint": fingerprint}
    # The labels are those asked for now, also on trials from the file.
    return Comparison(tuple(replace(found[key], spec=spec) for spec, key in keys.items()), settings)


@dataclass(frozen=True, eq=False)
class Task:
    """What all trials of a comparison share. `config.lr` and `config.seed` are each one's own."""

    dialogues: tuple[Dialogue, ...]
    config: TuneConfig
    suites: Mapping[str, Suite]
    keep: tuple[Dialogue, ...] = ()

    def fingerprint(self, model: Model) -> str:
        """Changes when the model's weights, the data, the suites or the settings do."""
        digest = hashlib.sha256()
        for name, weight in sorted(ModelView(model).weights().items()):
            digest.update(name.encode() + bits(weight).numpy().tobytes())
        parts: list[Any] = [asdict(replace(self.config, lr=1.0, seed=0)), _words(self.dialogues), _words(self.keep)]
        for name, suite in self.suites.items():
            groups = {**suite.groups, **suite.abilities}
            groups |= {"right": suite.right, "wrong": suite.wrong, "texts": suite.texts}
            named = repr(suite.judge) if is_dataclass(suite.judge) else type(suite.judge).__name__
            judge = [named, suite.judge.max_new_tokens, suite.first_tokens]
            cases = {group: [_words(dialogues), [d.meta for d in dialogues]] for group, dialogues in groups.items()}
            parts.append([name, judge, cases])
            more = [_words(suite.prompts), repr(suite.choices), *suite.passages]
            parts += [more] if suite.prompts or suite.choices or suite.passages else []
            parts += [suite.ends_right] if suite.ends_right else []
        chat = chat_options(ModelView(model).tokenizer)
        parts += [repr(chat)] if chat != ChatOptions() else []
        digest.update(json.dumps(parts, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _words(dialogues: Iterable[Dialogue]) -> list[list[str]]:
    return [[text for message in d.messages for text in (message.role, message.content)] for d in dialogues]


class Bench:
    """Does trials on one model, which is put back after each, also after an error or an interrupt."""

    def __init__(self, model: Model, task: Task):
        self.view, self.task = ModelView(model), task
        self._references = {
            split: Reference.of(self.view, suite.texts, suite.prompts)
            for split, suite in task.suites.items()
            if suite.texts or suite.prompts
        }

    def trial(self, spec: Spec, tuner: Tuner | None) -> Trial:
        task, tuned = self.task, None
        began = time.perf_counter()
        try:
            if tuner is not None:
                config = replace(task.config, lr=spec.lr, seed=spec.seed)
                tuned = tuner.tune(self.view, task.dialogues, config, keep=task.keep or None, progress=False)
                if tuned.interrupted:
                    raise KeyboardInterrupt
            seconds = time.perf_counter() - began
            against = {split: (suite, self._references.get(split)) for split, suite in task.suites.items()}
            found = {split: evaluate(self.view, *each, progress=False) for split, each in against.items()}
            return Trial(spec, tuned.weights if tuned else 0, seconds, found)
        except FloatingPointError as error:  # a learning rate too high: a result too, but no figures
            return Trial(spec, 0, time.perf_counter() - began, {}, str(error))
        finally:
            if tuned:
                to_the_end(partial(tuned.undo, self.view))


def _trials(
    view: ModelView, task: Task, todo: Mapping[str, tuple[Spec, Tuner | None]], workers: int
) -> Generator[tuple[str, Trial]]:
    """The trials, as they end."""
    if not todo:
        return
    if workers == 1:
        bench = Bench(view, task)
        for key, each in todo.items():
            yield key, bench.trial(*each)
        return
    check_whole(view.backend.root, f"comparing in {workers} processes")
    with tempfile.TemporaryDirectory(prefix="spt_lens-") as folder:
        view.hf_copy().save_pretrained(folder)
        view.tokenizer.save_pretrained(folder)
        spawn = multiprocessing.get_context("spawn")  # a forked torch hangs
        its_model = (folder, str(view.device), view.dtype, chat_options(view.tokenizer), task)
        pool = ProcessPoolExecutor(min(workers, len(todo)), spawn, _start_worker, its_model)
        try:
            futures = {pool.submit(_work, *each): key for key, each in todo.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_bench: Bench | None = None  # of a worker process


def _start_worker(folder: str, device: str, dtype: torch.dtype, chat: ChatOptions, task: Task) -> None:
    global _bench
    torch.set_num_threads(1)
    how: Any = {"chat_template_kwargs": chat.kwargs, "system": chat.system}
    _bench = Bench(load_model(folder, device=device, dtype=dtype, **how), task)


def _work(spec: Spec, tuner: Tuner | None) -> Trial:
    assert _bench is not None  # _start_worker has run
    return _bench.trial(spec, tuner)
