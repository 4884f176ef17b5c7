"""Pinpoint tuning beside full fine-tuning, LoRA and random heads: every method over learning rates and seeds.

One learning rate makes any method look good or bad, so methods are compared by frontiers: what each reaches at which
drift.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import Behaviour, Split
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.chat.template import chat_options
from spt_lens.checking import a_path, door, instance, whole_number
from spt_lens.evaluate.bench import Made, Task
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.methods import named
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import ASKED_WAY_OUT, Contender, Spec, Trial, asked, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.held import unbroken
from spt_lens.model.ranks import shows, warn_caller
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Tuner

SPLITS: tuple[Split, ...] = ("validation", "test")


@door
def default_methods(
    model: Model, heads: HeadSet | Mapping[str, HeadSet], n_random: int = 5, seed: int = 0
) -> list[Contender]:
    """The chosen heads (one method for each selection), full fine-tuning, LoRA of rank 16, and random heads.

    The random heads are `n_random` draws matched to the first selection layer by layer, each tuned with one seed. LoRA
    on the chosen heads alone is Contender("LoRA on the chosen heads", HeadLoRA(heads)) beside them.
    """
    way_out = "give a HeadSet, such as scores.top(4), or a dict of them by name"
    whole_number(n_random, "n_random", 0, 1000)
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


@door
@unbroken()
def compare(
    model: Model,
    heads: HeadSet | Mapping[str, HeadSet] | None = None,
    behaviour: Behaviour | None = None,
    *,
    dialogues: Sequence[Dialogue] | None = None,
    config: TuneConfig | None = None,
    methods: Sequence[Contender | str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    confirm: Sequence[int] = (),
    keep: Sequence[Dialogue] = (),
    suites: Mapping[str, Suite] | None = None,
    test_each: bool = True,
    out: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Comparison:
    """Tunes by every method, learning rate and seed, and evaluates each on the validation and the test split.

    The model is tuned and put back, bit for bit, after each trial. Same dialogues, same number of steps for every one.
    Other suites, and without `test_each` the test split, are for the learning rates that validation chose alone: their
    trials are trained once more, which gives the same, and are evaluated on these.

    Args:
        heads: the chosen ones, or several selections by name, for `default_methods(model, heads)`.
        behaviour: where dialogues (`training()`) and suites ("validation" and "test") come from, unless they are given.
        suites: by name: "validation", and what else there is, "test" and of other behaviours.
        config: all settings but the learning rate and the seed; default TuneConfig().
        methods: in place of the default ones, by name or as Contenders. `evaluate.methods.NAMED` has the names, such as
            "chosen heads", "steering", "ITI" or "LoFiT", of which some need `heads`, one selection; a rival of yours is
            Contender("mine", MyTuner()), of `evaluate.trials`.
        confirm: more seeds, of which the chosen learning rates alone are trained: a search over rates by few seeds. A
            method with seeds of its own has none of these. They have no part in the choice.
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
    whole_number(workers, "workers", 1, 1000)
    if methods is None:
        methods = default_methods(view, {} if heads is None else heads)
    else:
        methods = _by_name(view, methods, heads)
    todo = asked(methods, seeds)
    confirmed = asked([method for method in methods if method.seeds is None], confirm) if confirm else {}
    tuners = {repr(tuner): tuner for tuner in todo.values() if tuner is not None}.values()
    for tuner in tuners:
        tuner.check(view)
    if behaviour is not None:
        dialogues = behaviour.training() if dialogues is None else dialogues
        suites = {split: behaviour.suite(split) for split in SPLITS} if suites is None else suites
    if dialogues is None or suites is None:
        raise ValueError("there is nothing to tune on or to judge by: give a behaviour, or both dialogues and suites")
    way_out = 'give {"validation": Suite(...), "test": Suite(...)}, and more by names of your own'
    if SPLITS[0] not in suites:
        raise ValueError(f'suites must have a "validation", got {", ".join(map(str, suites)) or "none"}: {way_out}')
    for split, suite in suites.items():
        instance(suite, f"suites[{split!r}]", Suite, way_out)
    config = TuneConfig() if config is None else config
    if config.patience is not None:
        raise ValueError("a comparison tunes every method for all its steps: leave TuneConfig.patience out")
    dialogues, keep = as_dialogues(dialogues, least=1), as_dialogues(keep, "keep")
    for tuner in tuners:
        tuner.check_data(dialogues)
    each = SPLITS if test_each else SPLITS[:1]
    task = Task(tuple(dialogues), config, {name: suites[name] for name in suites if name in each}, tuple(keep))
    once = {name: suite for name, suite in suites.items() if name not in each}
    if workers > 1:
        try:
            pickle.dumps((task, once, todo))
        except Exception as error:  # of a judge or tuner's own
            raise TypeError(
                f"what is compared can't be sent to processes of their own ({error}): define judges and tuners at the "
                "top of a module, no lambdas, or leave workers out"
            ) from error
    path = None if out is None else a_path(out, "out")
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder: make it, or give another path than out={str(path)!r}")
        options = chat_options(view.tokenizer)
        if options.dated(getattr(view.tokenizer, "chat_template", None)) and "strftime_now" not in options.kwargs:
            warn_caller(
                "the chat template writes today's date: trials of another day in the same file have another one. For "
                'all the same, give it: load_model(..., chat_template_kwargs={"strftime_now": date(2026, 1, 31)})'
            )
    made = task.made(view)
    done = _done(view, task, made, todo, path, workers, "comparing" if progress else None)
    settings = {"model": view.name, "parameters": view.n_params}
    settings |= {"steps": task.config.steps, "batch_size": task.config.batch_size, "dialogues": len(task.dialogues)}
    settings |= {"keep": len(task.keep), "kl_weight": task.config.kl_weight, "fingerprint": made.fingerprint}
    comparison = Comparison(done, settings)
    if confirmed:
        rates = comparison.choice
        more_seeds = {spec: tuner for spec, tuner in confirmed.items() if rates.get(spec.method) == spec.lr}
        todo = {**todo, **more_seeds}
        name = "confirming" if progress else None
        done = (*done, *_done(view, task, made, more_seeds, path, workers, name))
        settings |= {"confirm": {method.name: list(confirm) for method in methods if method.seeds is None}}
        comparison = Comparison(done, settings)
    if not once:
        return comparison
    again = replace(task, suites={SPLITS[0]: _quick(suites[SPLITS[0]]), **once})
    chosen = {trial.spec: todo[trial.spec] for trials in comparison.chosen.values() for trial in trials}
    name = "at the chosen rates" if progress else None
    more = _done(view, again, again.made(view), chosen, path, workers, name)
    by_spec = {trial.spec: trial for trial in more}
    return Comparison(tuple(_both(trial, by_spec.get(trial.spec)) for trial in done), settings)


def _by_name(
    view: ModelView, methods: Sequence[Contender | str], heads: HeadSet | Mapping[str, HeadSet] | None
) -> Sequence[Contender]:
    """The methods as Contenders; heads are those that named ones are about."""
    names = [each for each in instance(methods, "methods", (list, tuple), ASKED_WAY_OUT) if isinstance(each, str)]
    if heads is not None and not names:
        raise ValueError("heads are for methods by name, and none of these is one: leave heads out")
    if heads is not None and not isinstance(heads, HeadSet):
        raise ValueError("methods by name are about one selection of heads: give one, not several by name")
    if heads is not None:
        heads.check(view)
    return [named(each, view, heads) if isinstance(each, str) else each for each in methods]


def _done(
    view: ModelView,
    task: Task,
    made: Made,
    todo: Mapping[Spec, Tuner | None],
    path: Path | None,
    workers: int,
    name: str | None,
) -> tuple[Trial, ...]:
    """All trials of a task, those from the results file too. name: of the bar; None: no bar."""
    keys = {spec: spec.key(made.fingerprint) for spec in todo}
    # Two methods may ask for one and the same trial: it is done once, and stands in both.
    wanted = {keys[spec]: (spec, tuner) for spec, tuner in todo.items()}
    known = read_trials(path, say=True) if path else {}
    found = {key: trial for key, trial in known.items() if key in wanted}
    if path is not None:
        found |= _others(path, known, made, {key: spec for key, (spec, _) in wanted.items() if key not in found})
    results = Results(path)
    left = {key: each for key, each in wanted.items() if key not in found}
    off = not shows(name is not None)
    with tqdm(total=len(wanted), initial=len(found), desc=name, unit="trial", disable=off) as bar:
        with view.held(), closing(trials(view, task, left, results, workers, made.parts)) as coming:
            for key, trial in coming:
                found[key] = trial
                bar.update()
    # The labels are those asked for now, also on trials from the file.
    return tuple(replace(found[key], spec=spec, made={}) for spec, key in keys.items())


def _others(path: Path, known: Mapping[str, Trial], made: Made, left: Mapping[str, Spec]) -> dict[str, Trial]:
    """Of the trials known from a results file, those of an earlier version that are asked for now; says so, and what
    differs in those that were made with something else, which stay where they are."""
    old = {key: known[was] for key, spec in left.items() if (was := spec.key(made.before)) in known}
    if old:
        warn_caller(
            f"{len(old)} trials in {path} are of an earlier version, which kept no note of chat template, tokenizer, "
            "config and precision: they are taken as they are, so give another file if one of these was another"
        )
    asked_for = {(spec.tuner, spec.lr, spec.seed) for key, spec in left.items() if key not in old}
    there = [t.made for t in known.values() if t.made and (t.spec.tuner, t.spec.lr, t.spec.seed) in asked_for]
    other = [differs for parts in there if (differs := made.other(parts)) - {"suites"}]  # further suites are usual
    if other:
        named = " and ".join(name for name in made.parts if any(name in each for each in other))
        warn_caller(
            f"{path} holds {len(other)} of these trials, but their {named} differ from what is asked for now: they "
            "stay there, and are done anew"
        )
    return old


def _quick(suite: Suite) -> Suite:
    """Of the validation suite, what shows whether training again has come to the same weights: the drift."""
    prompts = () if suite.texts else suite.prompts
    return Suite(suite.name, texts=suite.texts, prompts=prompts) if suite.texts or prompts else suite


def _both(trial: Trial, again: Trial | None) -> Trial:
    """A trial with the evaluations of the one that did it once more; warns where its drift is another."""
    if again is None:
        return trial
    its = f"{trial.spec.method} at learning rate {trial.spec.lr:g}, seed {trial.spec.seed}, was trained once more for"
    if again.error:  # the choice stands: it is validation's, where this rate held
        warn_caller(f"{its} other suites and diverged ({again.error}): it has no figures there, give lower rates")
        return trial
    more = dict(again.evaluations)
    before, now = trial.evaluations[SPLITS[0]].estimates, more.pop(SPLITS[0]).estimates
    for name, (value, *_) in now.items():
        same = math.isclose(value, before[name].value, rel_tol=0.01, abs_tol=1e-5)
        if not same and not (math.isnan(value) and math.isnan(before[name].value)):
            warn_caller(
                f"{its} {', '.join(more)}, and {name} on validation is now {value:.4g}, before "
                f"{before[name].value:.4g}: training is not repeatable here (another machine, or a GPU), so the "
                "figures on these are of another run than those on validation; test_each=True keeps both in one"
            )
    return replace(trial, evaluations={**trial.evaluations, **more})
