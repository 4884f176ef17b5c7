"""Pinpoint tuning beside full fine-tuning, LoRA and random heads: every method over learning rates and seeds.

One learning rate makes any method look good or bad, so methods are compared by frontiers: what each reaches at which
drift.
"""

import pickle
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import Behaviour, Split
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, check_dialogues
from spt_lens.checking import a_path, instance, whole_number
from spt_lens.evaluate.bench import Task
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Contender, asked, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.ranks import shows
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig

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
            model, data and settings, is not done again: an interrupted comparison goes on where it was. Several
            processes or machines that make the same comparison into one file share its trials: each is done once, and
            all return the whole. One that dies costs its own unfinished trial.
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
    if config.patience is not None:
        raise ValueError("a comparison tunes every method for all its steps: leave TuneConfig.patience out")
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
    results = Results(path)
    left = {key: each for key, each in wanted.items() if key not in found}
    bar = tqdm(total=len(wanted), initial=len(found), desc="comparing", unit="trial", disable=not shows(progress))
    with bar, closing(trials(view, task, left, results, workers)) as coming:
        for key, trial in coming:
            found[key] = trial
            bar.update()
    settings = {"model": view.name, "parameters": view.n_params}
    settings |= {"steps": task.config.steps, "batch_size": task.config.batch_size, "dialogues": len(task.dialogues)}
    settings |= {"keep": len(task.keep), "kl_weight": task.config.kl_weight, "fingerprint": fingerprint}
    # The labels are those asked for now, also on trials from the file.
    return Comparison(tuple(replace(found[key], spec=spec) for spec, key in keys.items()), settings)
