"""A comparison's trials among processes and machines: each is done by one of them, through the results file's folder.

A process locks a trial's file while it does the trial, and adds what came of it to the results file. The operating
system takes a lock from a process that dies, and then another one does the trial. Nothing else is sent between them.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from spt_lens import files
from spt_lens.chat.options import ChatOptions
from spt_lens.chat.template import chat_options
from spt_lens.evaluate.bench import Bench, Task
from spt_lens.evaluate.trials import Spec, Trial, append_trial, check_room, read_trials
from spt_lens.model.devices import check_whole
from spt_lens.model.huggingface import made_by_own_code
from spt_lens.model.loading import load_model
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import ModelView
from spt_lens.tune.tuner import Tuner

PAUSE = 0.5  # seconds between two looks at what others have done
_ADDING = "adding"  # the lock around a line that is added

Todo = Mapping[str, tuple[Spec, Tuner | None]]


class Results:
    """The results file, and the trials that this process has taken on; without a path, nothing is shared.

    A file that is removed or edited meanwhile costs no trial: what this process has seen in it is added again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._folder = None if path is None else path.with_name(path.name + ".locks")
        self._locks: dict[str, FileLock] = {}
        self._seen: tuple[int, int] | None = None
        self._known: dict[str, Trial] = {}
        self._told = False
        if path:
            path.open("a").close()  # an unwritable folder shows now, not after the first trial

    def news(self) -> dict[str, Trial]:
        """All trials in the file, by key, if it has changed since the last look; else none."""
        if self.path is None:
            return {}
        with suppress(FileNotFoundError):
            about = self.path.stat()
            seen, self._seen = self._seen, (about.st_size, about.st_mtime_ns)
            if seen == self._seen:
                return {}
        return self._read(self.path)

    def _read(self, path: Path) -> dict[str, Trial]:
        """All trials in the file, after those that are gone from it are added again."""
        try:
            found = read_trials(path)
        except ValueError as error:  # said again, and not passed over, when the next comparison begins with it
            if not self._told:
                warn_caller(f"{error}. This comparison goes on without what others add to it")
            self._told = True
            return dict(self._known)
        lost = {key: trial for key, trial in self._known.items() if key not in found}
        if lost:
            warn_caller(f"{path} was removed or edited during the comparison: its {len(lost)} trials are added again")
            for each in lost.items():
                self._append(path, *each)
        self._known |= found
        return dict(self._known)

    def take(self, key: str) -> bool:
        """Whether this process now does the trial: no other one is at it, and it is not in the file.

        Raises OSError, before it is begun, where what comes of it could not be kept.
        """
        if self.path is not None:
            check_room(self.path)
        try:
            lock = self._lock(key)
            if lock is None:
                return True
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):  # another has it, or has just removed the folder
            return False
        except OSError as error:  # no such rights, or no locks there
            raise OSError(
                f"no file in {self._folder} can be locked, by which processes share a comparison ({error}): let all of "
                "them write there, on a file system that has locks, or name another results file"
            ) from error
        self._locks[key] = lock
        assert self.path is not None  # else there was no lock
        if key not in self._read(self.path):  # it may have come since the last look
            return True
        self.let_go(key)
        return False

    def add(self, key: str, trial: Trial) -> None:
        """Adds a trial that was taken to the file, and lets go of it."""
        if self.path is not None:
            self._append(self.path, key, trial)
            self._known[key] = trial
            self._read(self.path)
        self.let_go(key)

    def _append(self, path: Path, key: str, trial: Trial) -> None:
        lock = self._lock(_ADDING)
        assert lock is not None
        with lock:
            append_trial(path, key, trial)

    def let_go(self, key: str) -> None:
        lock = self._locks.pop(key, None)
        if lock is not None:
            with suppress(OSError):  # Windows removes it by itself
                os.unlink(lock.lock_file)  # while it is held: whoever waits for this file sees that it is gone
            lock.release()

    def close(self) -> None:
        """Lets go of all, and removes the folder of locks unless others use it."""
        for key in list(self._locks):
            self.let_go(key)
        if self._folder is not None and self._folder.is_dir():
            for file in self._folder.glob("*.lock"):  # those of adding, and of processes that died
                lock = FileLock(file)
                with suppress(OSError, Timeout):
                    lock.acquire(blocking=False)
                    self._locks[file.stem] = lock
                    self.let_go(file.stem)
            with suppress(OSError):
                self._folder.rmdir()

    def _lock(self, key: str) -> FileLock | None:
        if self._folder is None:
            return None
        self._folder.mkdir(exist_ok=True)
        return FileLock(self._folder / f"{key}.lock")


def trials(
    view: ModelView,
    task: Task,
    todo: Todo,
    results: Results,
    workers: int,
    made: Mapping[str, str],
    until: float | None = None,
) -> Generator[tuple[str, Trial]]:
    """The trials, as they end here or in other processes. made: with what, which their lines in the file say.

    until: no trial is begun after this time of `time.monotonic`; those that are running are waited for.
    """
    if not todo:
        return
    left, running = dict(todo), dict[Future[Trial], str]()
    with closing(results), _executor(view, task, min(workers, len(todo))) as (pool, work):
        while left or running:
            for key, trial in results.news().items():
                if key in left:
                    del left[key]
                    yield key, trial
            if until is not None and time.monotonic() >= until:
                left.clear()
            for key in list(left):
                if len(running) == workers:
                    break
                if results.take(key):
                    running[pool.submit(work, *left.pop(key))] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, trial = running.pop(future), future.result()
                results.add(key, replace(trial, made=made))
                yield key, trial
            if left and not running:
                time.sleep(PAUSE)


class _Here(Executor):
    """Does at once, in this process, what is submitted; what that raises comes from `submit`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def _executor(view: ModelView, task: Task, workers: int) -> Generator[tuple[Executor, Callable[..., Trial]]]:
    """Where trials are done, and what does one."""
    if workers <= 1:
        bench = cache(lambda: Bench(view, task))  # others may do all trials
        yield _Here(), lambda *each: bench().trial(*each)
        return
    check_whole(view.backend.root, f"comparing in {workers} processes")
    with files.scratch() as folder:
        view.hf_copy().save_pretrained(folder)
        view.tokenizer.save_pretrained(folder)
        spawn = multiprocessing.get_context("spawn")  # a forked torch hangs
        own_code = made_by_own_code(view.backend.root)
        how = (own_code, chat_options(view.tokenizer), task, torch.get_float32_matmul_precision())
        its_model = (str(folder), str(view.device), view.dtype, *how)
        pool = ProcessPoolExecutor(workers, spawn, _start_worker, its_model)
        try:
            yield pool, _work
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_bench: Bench | None = None  # of a worker process


def _start_worker(
    folder: str, device: str, dtype: torch.dtype, own_code: bool, chat: ChatOptions, task: Task, precision: str
) -> None:
    global _bench
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)
    how: Any = {"chat_template_kwargs": chat.kwargs, "system": chat.system, "trust_remote_code": own_code}
    _bench = Bench(load_model(folder, device=device, dtype=dtype, **how), task)


def _work(spec: Spec, tuner: Tuner | None) -> Trial:
    assert _bench is not None  # _start_worker has run
    return _bench.trial(spec, tuner)
