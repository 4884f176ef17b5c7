"""Other people's evaluations: EleutherAI's lm-eval and inspect_ai, on a model in memory or on an exported folder.

Both come with the extra `eval`. What they load, tasks and data sets, is theirs; nothing here needs the network itself.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch

from spt_lens.checking import MANY, door, instance, whole_number
from spt_lens.model.gguf import is_gguf
from spt_lens.model.huggingface import base_of, checked_source
from spt_lens.model.view import Model, ModelView

_TASKS = "name one, such as 'arc_easy', or give a file of your own"
Task = str | Path | Mapping[str, Any]


@door
def lm_eval(
    model: Model | str | Path,
    tasks: Task | Sequence[Task],
    *,
    limit: int | None = None,
    include_path: str | Path | None = None,
    chat: bool | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """EleutherAI's lm-eval: task, metric, filter, value, stderr, n.

    Args:
        model: a model in memory, which is measured as it is, hooks included; or a folder, such as export_hf wrote,
            which lm-eval loads itself.
        tasks: names, files or dicts of tasks, as lm-eval takes them.
        limit: at most so many cases of each task.
        include_path: a folder with task files of your own. If all tasks are there, lm-eval's own are not read.
        chat: whether prompts go through the chat template; default: if there is one.

    Raises: ImportError without lm-eval; ValueError for no tasks or unknown ones, a task that samples, or a GGUF file or
    adapter in place of a folder; as `checked_source` for one that is no whole checkpoint.
    """
    needed("lm_eval")
    from lm_eval import simple_evaluate

    whole_number(batch_size, "batch_size")
    for name, value in {"limit": limit, "num_fewshot": num_fewshot}.items():
        if value is not None:
            whole_number(value, name, 0 if name == "num_fewshot" else 1, MANY)
    wanted = [tasks] if isinstance(tasks, str | Path | Mapping) else list(instance(tasks, "tasks", Sequence, _TASKS))
    for i, task in enumerate(wanted):
        instance(task, f"tasks[{i}]", (str, Path, Mapping), _TASKS)
    if not wanted:
        raise ValueError(f"there are no tasks: {_TASKS}")
    wanted = [str(task) if isinstance(task, Path) else task for task in wanted]
    if not isinstance(model, str | Path):  # before lm-eval's tasks are read
        ModelView(model).check_measurable()
    # datasets tells its maker of each set that is loaded, one of local files too.
    with quiet(progress), mock.patch("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False):
        manager = _manager(wanted, include_path)
        if isinstance(model, str | Path):
            from lm_eval.models.huggingface import HFLM

            device = "cuda" if torch.cuda.is_available() else "cpu"
            served: Any = HFLM(_folder(model), batch_size=batch_size, device=device, trust_remote_code=False)
        else:
            from spt_lens.evaluate.served import Served

            view = ModelView(model)
            view.check_measurable()
            served = Served(view, batch_size)
        templated = bool(getattr(served.tokenizer, "chat_template", None)) if chat is None else chat
        found = simple_evaluate(
            model=served,
            tasks=wanted,
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            apply_chat_template=templated,
            bootstrap_iters=1000,
            log_samples=False,
            random_seed=None,  # the process's own generators are left alone
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    rows = []
    for task, figures in found["results"].items():
        n = found["n-samples"].get(task, {}).get("effective")
        for key, value in figures.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                stderr = figures.get(f"{metric}_stderr,{filtered}")
                spread = stderr if isinstance(stderr, float) else float("nan")
                rows.append(
                    {"task": task, "metric": metric, "filter": filtered, "value": value, "stderr": spread, "n": n}
                )
    return pd.DataFrame(rows, columns=["task", "metric", "filter", "value", "stderr", "n"])


def _folder(named: str | Path) -> str:
    """By its whole path: lm-eval asks the hub about what may be a name there."""
    source = checked_source(named)
    if is_gguf(source) or base_of(source) is not None:
        raise ValueError(
            f"lm-eval reads ordinary folders, and {named} is a GGUF file or holds a PEFT adapter, which it would not "
            "merge: give the model, lm_eval(load_model(...), ...)"
        )
    return source


def _manager(tasks: Sequence[Any], include_path: str | Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    names = [task for task in tasks if isinstance(task, str) and not Path(task).is_file()]
    path = None if include_path is None else str(include_path)
    if path is not None and not Path(path).is_dir():
        raise FileNotFoundError(f"include_path={path!r} is no folder: give the one that your task files are in")
    own = TaskManager(include_path=path, include_defaults=False)  # lm-eval's own are 13,000 files
    if all(name in own.all_tasks for name in names):
        return own
    manager = TaskManager(include_path=path)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ValueError(f"lm-eval has no task {unknown[0]!r}: give its file, or the folder it is in as include_path")
    return manager


@door
def inspect_eval(
    model: Model,
    tasks: Any,
    *,
    limit: int | None = None,
    log_dir: str | Path | None = None,
    max_new_tokens: int = 256,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """inspect_ai's tasks on a model in memory, hooks included: task, scorer, metric, value, stderr, n.

    Args:
        tasks: as inspect_ai.eval takes them: a Task, a name such as "inspect_evals/sycophancy", or a list of these.
        limit: at most so many samples of each task.
        log_dir: where inspect_ai's logs stay, for `inspect view`; default: they don't.
        max_new_tokens: of a reply, where the task does not say. Replies are greedy.
        options: others of inspect_ai.eval, such as model_roles={"grader": ...}.

    `inspect_model(model)` is the same model for code of your own that takes one of inspect_ai's. TransformerLens's own
    provider `tl_bridge` loads a folder by itself, one reply at a time, and with transformers 5 fails on chat templates.

    Raises: ImportError without inspect_ai; ValueError where inspect_ai finds no such task; RuntimeError if a task
        fails, with what it said.
    """
    needed("inspect_ai")
    import inspect_ai

    served = inspect_model(model, max_new_tokens)
    if limit is not None:
        whole_number(limit, "limit", 1, MANY)
    rows = []
    with quiet(progress), tempfile.TemporaryDirectory() as temporary:
        kept = str(log_dir or temporary)
        display = {"display": "rich" if progress else "none", "log_dir": kept, "limit": limit}
        try:
            logs = inspect_ai.eval(tasks, model=served, **(display | options))
        except Exception as error:
            if type(error).__name__ != "PrerequisiteError":  # inspect_ai keeps its class to itself
                raise
            raise ValueError(
                f"inspect_ai can't run the tasks {tasks!r:.80} ({error}): give a Task, a file, or the name of one that "
                "is installed, such as 'inspect_evals/sycophancy' of the package inspect-evals"
            ) from error
    for log in logs:
        if log.status != "success" or log.results is None:
            why = log.error.message if log.error else log.status
            raise RuntimeError(f"the task {log.eval.task} did not end: {why}")
        for score in log.results.scores:
            figures = {name: metric.value for name, metric in score.metrics.items()}
            stderr = figures.pop("stderr", float("nan"))
            row = {"task": log.eval.task, "scorer": score.name, "stderr": stderr, "n": score.scored_samples}
            rows += [{**row, "metric": name, "value": value} for name, value in figures.items()]
    return pd.DataFrame(rows, columns=["task", "scorer", "metric", "value", "stderr", "n"])


@door
def inspect_model(model: Model, max_new_tokens: int = 256) -> Any:
    """A model in memory as one of inspect_ai's, for `inspect_ai.eval(task, model=...)`.

    Raises: ImportError without inspect_ai; ValueError for a model in training mode.
    """
    needed("inspect_ai")
    from spt_lens.evaluate.inspected import in_memory

    view = ModelView(model)
    view.check_measurable()
    return in_memory(view, whole_number(max_new_tokens, "max_new_tokens"))


def needed(package: str) -> None:
    """Raises ImportError that says how to get a package of the extra `eval`."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed: pip install 'spt-lens[eval]'")


@contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """In the block nothing is printed, and of what is logged only errors, unless with progress."""
    if progress:
        yield
        return
    before = logging.root.manager.disable
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.callback(logging.disable, before)
        logging.disable(logging.WARNING)
        yield
