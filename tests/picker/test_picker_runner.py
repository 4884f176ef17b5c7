"""Steps on an event loop: one piece of work at a time, and never a word of an older one after a newer one's."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from spt_lens.picker.runner import BUSY, Runner, running_loop


class Work:
    """Makes generators of n steps, and keeps what became of them."""

    def __init__(self, name: str = "", n: int = 3, fails_at: int | None = None, error: BaseException | None = None):
        self.name, self.n, self.fails_at = name, n, fails_at
        self.error = error or RuntimeError("on the way")
        self.steps: list[int] = []
        self.threads: set[int] = set()
        self.made = self.closed = 0

    def __call__(self):
        self.made += 1
        return self.run()

    def run(self):
        try:
            for i in range(self.n):
                self.threads.add(threading.get_ident())
                self.steps.append(i)
                if i == self.fails_at:
                    raise self.error
                yield i
            return f"result {self.name}".strip()
        except GeneratorExit:
            self.closed += 1
            raise


class Told(list):
    """What was reported, and on which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def __call__(self, what: str, value: Any) -> None:
        self.threads.add(threading.get_ident())
        self.append((what, value))

    @property
    def last(self) -> str:
        return self[-1][0] if self else ""

    def whats(self) -> list[str]:
        return [what for what, _ in self]


WHOLE = [("queued", None), ("began", None), ("working", 0), ("working", 1), ("working", 2), ("done", "result")]


Test = Callable[[Runner, Told], Awaitable[None]]


def on_loop(test: Test, told: Told | None = None, pause: float = 0.001) -> Told:
    """Runs a test beside a runner on one loop; an error in a callback of the loop is an error of the test."""
    told = Told() if told is None else told

    async def main() -> None:
        errors: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        await asyncio.wait_for(test(Runner(running_loop(), told, pause), told), 20)
        assert not errors

    asyncio.run(main())
    return told


async def until(wanted: Callable[[], Any]) -> None:
    while not wanted():
        await asyncio.sleep(0.001)


# Without a loop.


def test_without_a_loop_it_runs_at_once():
    told, work = Told(), Work()
    assert running_loop() is None
    runner = Runner(None, told)
    runner.start(work, delay=100.0)
    assert told == WHOLE and work.closed == 0
    assert not runner.cancel() and told == WHOLE
    runner.start(work, what="again")
    assert told[6] == ("queued", "again") and told[7:] == WHOLE[1:]


def test_a_loop_that_is_closed_is_none():
    async def loop():
        return running_loop()

    told = Told()
    Runner(asyncio.run(loop()), told).start(Work())
    assert told == WHOLE


def test_without_a_loop_an_error_is_reported_and_it_works_again():
    told = Told()
    runner = Runner(None, told)
    runner.start(Work(fails_at=1))
    assert told.whats() == ["queued", "began", "working", "failed"] and str(told[-1][1]) == "on the way"
    told.clear()
    runner.start(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert told.whats() == ["queued", "failed"] and isinstance(told[-1][1], ZeroDivisionError)
    assert not runner.cancel()
    told.clear()
    runner.start(Work())
    assert told == WHOLE


def test_without_a_loop_an_interrupt_is_raised():
    """In a script, Ctrl-C ends the script."""
    told = Told()
    runner = Runner(None, told)
    with pytest.raises(KeyboardInterrupt):
        runner.start(Work(fails_at=1, error=KeyboardInterrupt()))
    assert told.last == "failed"
    told.clear()
    runner.start(Work())
    assert told == WHOLE


def test_without_a_loop_work_is_replaced_from_another_thread_too():
    told, first, second = Told(), Work("first", n=10**9), Work("second")
    runner = Runner(None, told)
    thread = threading.Thread(target=runner.start, args=(first,))
    thread.start()
    while len(first.steps) < 3:
        time.sleep(0.001)
    runner.start(second)
    thread.join(10)
    assert not thread.is_alive() and first.closed == 1 and told.last == "done"
    thread = threading.Thread(target=runner.start, args=(first,))
    thread.start()
    while first.made < 2 or told.last != "working":
        time.sleep(0.001)
    assert runner.cancel()
    thread.join(10)
    assert not thread.is_alive() and first.closed == 2 and told.last == "stopped"


# On a loop.


def test_steps_run_on_the_loops_thread_only():
    work = Work()

    async def test(runner, told):
        thread = threading.Thread(target=runner.start, args=(work,))
        thread.start()
        thread.join()
        assert told == WHOLE[:1] and not work.made
        await until(lambda: told.last == "done")
        assert work.threads == {threading.get_ident()}

    assert on_loop(test) == WHOLE


def test_the_loop_goes_on_between_steps():
    work = Work(n=20)

    async def test(runner, told):
        runner.start(work)
        assert not work.steps  # the cell that starts it comes first
        turns = 0
        while told.last != "done":
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20

    on_loop(test)


def test_a_newer_start_takes_the_place_of_an_older_one():
    first, second = Work("first", n=10**9), Work("second")

    async def test(runner, told):
        runner.start(first)
        await until(lambda: len(first.steps) > 2)
        told.clear()
        runner.start(second, what="second")
        await until(lambda: told.last == "done")
        await until(lambda: first.closed)
        n = len(first.steps)
        await asyncio.sleep(0.02)
        assert len(first.steps) == n and first.closed == 1 and second.closed == 0

    told = on_loop(test)
    assert told == [("queued", "second"), *WHOLE[1:-1], ("done", "result second")]


def test_a_delay_waits_for_the_last_of_quick_starts():
    works = [Work(str(i)) for i in range(5)]

    async def test(runner, told):
        began = time.monotonic()
        for work in works:
            runner.start(work, delay=0.1)
            await asyncio.sleep(0.02)
        await until(lambda: told.last == "done")
        assert time.monotonic() - began > 0.02 * 4 + 0.1 - 0.005

    told = on_loop(test)
    assert [work.made for work in works] == [0, 0, 0, 0, 1]
    assert told.whats() == [*["queued"] * 5, "began", *["working"] * 3, "done"] and told[-1][1] == "result 4"


def test_a_delayed_start_stops_what_runs_at_once():
    first, second = Work(n=10**9), Work()

    async def test(runner, told):
        runner.start(first)
        await until(lambda: first.steps)
        runner.start(second, delay=30)
        n = len(first.steps)
        await until(lambda: first.closed)
        assert len(first.steps) == n and told.last == "queued"
        assert runner.cancel()
        await asyncio.sleep(0.01)
        assert not second.made and told.last == "stopped"

    on_loop(test)


@pytest.mark.parametrize("beside", [False, True])
def test_cancel(beside):
    work = Work(n=10**9)

    async def test(runner, told):
        async def cancel() -> bool:
            return await asyncio.to_thread(runner.cancel) if beside else runner.cancel()

        assert not await cancel() and not told
        runner.start(work, delay=0.05)
        assert await cancel()
        await asyncio.sleep(0.1)
        assert not work.made and told.whats() == ["queued", "stopped"]
        runner.start(work)
        await until(lambda: len(work.steps) > 2)
        assert await cancel() and not await cancel()
        n = len(told)
        await until(lambda: work.closed)
        await asyncio.sleep(0.01)
        assert len(told) == n and told.last == "stopped"
        runner.start(Work())
        await until(lambda: told.last == "done")
        assert told[-6:] == WHOLE

    on_loop(test)


@pytest.mark.parametrize("error", [RuntimeError("on the way"), KeyboardInterrupt(), MemoryError()])
def test_an_error_on_the_loop_is_reported_and_it_works_again(error):
    def make():
        raise error

    async def test(runner, told):
        for wrong, whats in ((Work(fails_at=1, error=error), ["began", "working"]), (make, [])):
            told.clear()
            runner.start(wrong)
            await until(lambda: told.last == "failed")
            assert told.whats() == ["queued", *whats, "failed"] and told[-1][1] is error
            assert not runner.cancel()
            told.clear()
            runner.start(Work())
            await until(lambda: told.last == "done")
            assert told == WHOLE

    on_loop(test)


def test_an_outdated_step_reports_neither_its_end_nor_its_error():
    """A step that runs while a newer start or a cancel comes."""

    async def test(runner, told):
        for last in ("return", "raise", "yield"):
            for newer in (lambda: runner.start(Work("second")), runner.cancel):
                inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

                def work(last=last, inside=inside, go_on=go_on, closed=closed):
                    try:
                        inside.set()
                        assert go_on.wait(10)
                        if last == "raise":
                            raise RuntimeError("of the first")
                        if last == "yield":
                            yield "of the first"
                        return "of the first"
                    finally:
                        closed.set()

                def beside(newer=newer, inside=inside, go_on=go_on):
                    assert inside.wait(10)
                    newer()
                    go_on.set()

                thread = threading.Thread(target=beside)
                told.clear()
                runner.start(work)
                thread.start()
                await until(lambda: told.last in ("done", "stopped"))
                await until(closed.is_set)
                thread.join()
                ending = [("stopped", None)] if newer == runner.cancel else [*WHOLE[:-1], ("done", "result second")]
                assert told == [("queued", None), ("began", None), *ending]

    on_loop(test)


def test_nothing_is_told_of_work_that_was_stopped_while_it_was_made():
    async def test(runner, told):
        inside, go_on, work = threading.Event(), threading.Event(), Work()

        def make():
            inside.set()
            assert go_on.wait(10)
            return work()

        def beside():
            assert inside.wait(10)
            runner.cancel()
            go_on.set()

        thread = threading.Thread(target=beside)
        thread.start()
        runner.start(make)
        await until(lambda: work.made)
        await asyncio.sleep(0.01)
        assert told.whats() == ["queued", "stopped"] and not work.steps

    on_loop(test)


def test_starts_and_cancels_from_many_threads():
    """Whatever comes in between: a report is of the last start, and the last start is what comes to its end."""
    works: list[Work] = []

    class Checked(Told):
        def __call__(self, what: str, value: Any) -> None:
            assert not self.inside, "two reports at once"
            self.inside = True
            time.sleep(0.0001)
            super().__call__(what, value)
            self.inside = False

        inside = False

    async def test(runner, told):
        def busy(thread: int) -> None:
            rng = random.Random(thread)
            for i in range(60):
                time.sleep(0.02 * rng.random() ** 3)
                if i % 3 == thread % 3:
                    runner.cancel()
                else:
                    work = Work(f"{thread}.{i}", n=5)
                    works.append(work)
                    runner.start(work, delay=0.002 * (i % 2), what=work.name)

        threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))
        last = Work("last", n=5)
        runner.start(last, what="last")
        await until(lambda: told.last == "done")
        await asyncio.sleep(0.05)
        assert told[-1] == ("done", "result last")

    told = on_loop(test, Checked())
    queued = None
    for what, value in told:
        if what == "queued":
            queued = value
        elif what == "stopped":
            queued = None
        else:
            assert queued is not None  # nothing of what was stopped
            if what == "done":
                assert value == f"result {queued}"
                queued = None
    # What was begun was closed, unless it had come to its end.
    assert all(work.closed == 1 or len(work.steps) in (0, 5) for work in works)
    assert any(work.steps for work in works) and told.whats().count("queued") == len(works) + 1


def test_no_step_is_taken_beside_a_cell_that_awaits():
    seen: list[str] = []

    async def main() -> None:
        runner = Runner(asyncio.get_running_loop(), lambda what, value: seen.append(what), pause=0.0)
        runner._cells = cells = SimpleNamespace(running=False)

        def work():
            yield
            cells.running = True  # a cell begins, and awaits something
            yield
            yield

        runner.start(work)
        await asyncio.sleep(3 * BUSY)
        assert seen == ["queued", "began", "working", "working"]
        cells.running = False
        await asyncio.sleep(3 * BUSY)
        assert seen[4:] == ["working", "done"]
        cells.running = True
        runner.start(work)
        await asyncio.sleep(3 * BUSY)
        assert seen[6:] == ["queued"]
        assert runner.cancel() and seen[6:] == ["queued", "stopped"]

    asyncio.run(main())
