"""Pinpoint tuning beside full fine-tuning, LoRA and random heads: every method over learning rates and seeds.

One learning rate makes any method look good or bad, so methods are compared by frontiers: what each reaches at which
drift.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import torch
from tqdm.auto import tqdm

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.runs import Bench, Method, Plan, Run, Spec, key, read_runs, specs, write_run
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.baselines import import_peft
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

# From hardly any change to a change that costs abilities, in steps of about three; finer where discernment rises.
HEAD_LRS = (1e-4, 3e-4, 5e-4, 1e-3, 3e-3)
FULL_LRS = (1e-5, 2e-5, 3e-5, 1e-4, 3e-4)
LORA_LRS = (1e-4, 2e-4, 3e-4, 1e-3, 3e-3)


def default_methods(
    model: Model, heads: HeadSet | Mapping[str, HeadSet], n_random: int = 5, seed: int = 0
) -> list[Method]:
    """The chosen heads (one method for each selection), full fine-tuning, LoRA of rank 16, and random heads.

    The random heads are `n_random` draws matched to the first selection layer by layer, each tuned with one seed.
    """
    chosen = {"chosen heads": heads} if isinstance(heads, HeadSet) else dict(heads)
    if not chosen:
        raise ValueError("no selection of heads to compare: give a HeadSet, or a dict of them by name")
    for selection in chosen.values():
        selection.check(model)
    methods = [Method(name, "heads", HEAD_LRS, (selection,)) for name, selection in chosen.items()]
    methods += [Method("full fine-tuning", "full", FULL_LRS), Method("LoRA", "lora", LORA_LRS)]
    if n_random:
        first = next(iter(chosen.values()))
        draws = tuple(first.random_like(model, seed + i) for i in range(n_random))
        methods.append(Method("random heads", "heads", HEAD_LRS, draws, seeds=(0,)))
    return methods


def frontier(
    model: Model,
    heads: HeadSet | Mapping[str, HeadSet],
    dialogues: Sequence[Dialogue] | None = None,
    config: TuneConfig | None = None,
    methods: Sequence[Method] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    keep: Sequence[Dialogue] = (),
    suites: Mapping[str, Suite] | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Comparison:
    """Tunes by every method, learning rate and seed, and evaluates each on the validation and the test split.

    The model is tuned and put back, bit for bit, after each run. Same dialogues, same number of steps for every method.

    Args:
        dialogues: to tune on; default `Yesman().training()`, on the training split.
        config: all settings but the learning rate and the seed; default TuneConfig().
        methods: default `default_methods(model, heads)`; if given, `heads` only serves to name them.
        keep: ordinary dialogues for the KL term, if `config.kl_weight` is positive.
        suites: "validation" and "test"; default `Yesman().suite` of either split.
        out: a results file (JSON lines). Each run is added as it ends, and a run that is there already, of the same
            model, data and settings, is not done again: an interrupted comparison goes on where it was.
        workers: 1 runs here, on the model itself. More: that many new processes, of one thread each, on a saved copy; a
            script then needs the usual `if __name__ == "__main__":`.

    Raises:
        ValueError: heads that don't exist, no dialogues, no seeds, suites without "validation" and "test", a results
            file that is something else, workers below one, a model that can't be tuned.
        ImportError: LoRA is among the methods and peft is not installed.
        OSError: `out` can't be written.
    """
    view = ModelView(model)
    view.check_tunable()
    if workers < 1:
        raise ValueError(f"workers={workers}: use 1 to run in this process, or more")
    methods = default_methods(view, heads) if methods is None else list(methods)
    for selection in (selection for method in methods for selection in method.heads):
        selection.check(view)
    if any(method.kind == "lora" for method in methods):
        import_peft()
    given = {s: Yesman().suite(s) for s in ("validation", "test")} if suites is None else dict(suites)
    if set(given) != {"validation", "test"}:
        raise ValueError(f'suites must be {{"validation": ..., "test": ...}}, got {", ".join(given) or "none"}')
    data = tuple(Yesman().training() if dialogues is None else dialogues)
    if not data:
        raise ValueError("there are no dialogues to tune on")
    config = config or TuneConfig()
    plan = Plan(data, config, given, tuple(keep))
    fingerprint = plan.fingerprint(view)
    asked = [(key(spec, fingerprint), spec) for spec in specs(methods, seeds)]
    wanted = dict(asked)  # two methods may ask for one and the same run: it is done once, and stands in both

    path = None if out is None else Path(out)
    found: dict[str, Run] = {}
    if path is not None:
        found = {name: run for name, run in read_runs(path).items() if name in wanted}
        path.open("a").close()  # an unwritable folder shows now, not after the first run
    todo = {name: spec for name, spec in wanted.items() if name not in found}
    with tqdm(total=len(wanted), initial=len(found), desc="comparing", unit="run", disable=not progress) as bar:
        with closing(_runs(view, plan, todo, workers)) as coming:
            for name, run in coming:
                found[name] = run
                if path is not None:
                    write_run(path, name, run)
                bar.update()
    # The labels are those asked for now, also on runs from the file.
    runs = tuple(_relabelled(found[name], spec) for name, spec in asked)
    settings = {
        "model": view.name,
        "parameters": view.n_params,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "dialogues": len(data),
        "keep": len(plan.keep),
        "kl_weight": config.kl_weight,
        "fingerprint": fingerprint,
    }
    return Comparison(runs, settings)


def _relabelled(run: Run, spec: Spec) -> Run:
    return Run(spec, run.parameters, run.seconds, run.evaluations, run.error)


def _runs(view: ModelView, plan: Plan, todo: Mapping[str, Spec], workers: int) -> Generator[tuple[str, Run]]:
    """The runs, as they end."""
    if not todo:
        return
    if workers == 1:
        bench = Bench(view, plan)
        for name, spec in todo.items():
            yield name, bench.run(spec)
        return
    with tempfile.TemporaryDirectory(prefix="spt_lens-") as folder:
        view.hf_copy().save_pretrained(folder)
        view.tokenizer.save_pretrained(folder)
        pool = ProcessPoolExecutor(
            max_workers=min(workers, len(todo)),
            mp_context=multiprocessing.get_context("spawn"),  # a forked torch hangs
            initializer=_start_worker,
            initargs=(folder, str(view.device), view.dtype, plan),
        )
        try:
            futures = {pool.submit(_work, spec): name for name, spec in todo.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_bench: Bench | None = None  # of a worker process


def _start_worker(folder: str, device: str, dtype: torch.dtype, plan: Plan) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = Bench(load_model(folder, device=device, dtype=dtype), plan)


def _work(spec: Spec) -> Run:
    assert _bench is not None  # _start_worker has run
    return _bench.run(spec)
