"""A comparison's trials among processes, through the results file's folder alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import broken_off
import pandas as pd
import pytest
from filelock import FileLock

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.evaluate import sharing
from spt_lens.evaluate.bench import Bench, Task
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Contender, Spec, Trial, append_trial, asked, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

METHODS = [
    Contender("chosen heads", Pinpoint(HeadSet.parse("L0.H1 L2.H3")), (1e-3, 1e-2)),
    Contender("full fine-tuning", FullFineTuning(), (1e-4, 1e-3)),
]
TRIALS = 1 + 2 * 2 * 2  # the untuned model; methods, learning rates, seeds


def compared(folder: Path, out: Path | None) -> Comparison:
    suites = {}
    for split in ("validation", "test"):
        whole = Yesman().suite(split, n=1, n_ability=1, n_texts=3)
        suites[split] = replace(whole, judge=AnswerJudge(max_new_tokens=2), first_tokens=2)
    given = {"dialogues": Yesman().training(n=4), "config": TuneConfig(steps=2, batch_size=2), "suites": suites}
    return compare(load_model(folder, device="cpu"), methods=METHODS, seeds=(0, 1), out=out, progress=False, **given)


def one_process(folder: Path, out: Path, me: int, hang: bool) -> None:
    """Compares, and notes which trials it began; `hang`: it never comes to the end of its second one."""
    trial, mine = Bench.trial, out.with_name(f"process-{me}")

    def noted(self, spec, tuner):
        with mine.open("a") as file:
            file.write(f"{spec.method} {spec.lr} {spec.seed}\n")
        if hang and len(mine.read_text().splitlines()) == 2:
            mine.with_name("hangs").touch()
            time.sleep(600)
        time.sleep(0.05)  # so that each has its share
        return trial(self, spec, tuner)

    Bench.trial = noted  # type: ignore[method-assign]
    compared(folder, out).save(out.with_name(f"result-{me}.json"))


def begun(folder: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(folder.glob("process-*"))]


@pytest.fixture(scope="module")
def processes():
    """Of a server that has imported all this once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spt_lens.evaluate.compare", "spt_lens.yesman"])
    return context.Process


@pytest.fixture(scope="module")
def alone(tiny_folder):
    return compared(tiny_folder, None)


def same(one: Comparison, other: Comparison) -> None:
    drop = ["seconds"]
    pd.testing.assert_frame_equal(one.frontier.drop(columns=drop), other.frontier.drop(columns=drop))
    pd.testing.assert_frame_equal(one.table, other.table)


def test_two_processes_do_each_trial_once_and_both_return_all(processes, tiny_folder, tmp_path, alone):
    out = tmp_path / "runs.jsonl"
    both = [processes(target=one_process, args=(tiny_folder, out, i, False)) for i in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    done = [trial for each in begun(tmp_path) for trial in each]
    assert len(done) == len(set(done)) == TRIALS and len(read_trials(out)) == TRIALS
    assert all(begun(tmp_path))  # none was idle
    for i in range(2):
        same(Comparison.load(tmp_path / f"result-{i}.json"), alone)
    assert not list(tmp_path.glob("*.locks"))


def test_a_process_that_is_killed_costs_its_own_unfinished_trial(processes, tiny_folder, tmp_path, alone):
    out = tmp_path / "runs.jsonl"
    four = [processes(target=one_process, args=(tiny_folder, out, i, i == 0)) for i in range(4)]
    four[0].start()
    while not (tmp_path / "hangs").exists():
        assert four[0].is_alive()
        time.sleep(0.05)
    for process in four[1:]:
        process.start()
    while len(read_trials(out)) < TRIALS - 1:  # all but the one that hangs
        assert all(process.is_alive() for process in four)
        time.sleep(0.05)
    four[0].kill()
    for process in four:
        process.join(300)
    assert [process.exitcode for process in four] == [-9, 0, 0, 0]
    first, *others = begun(tmp_path)
    assert sorted([*first[:1], *(trial for each in others for trial in each)]) == sorted(set(sum(others, first)))
    assert sum(first[1] in each for each in others) == 1  # it was done by another
    for i in (1, 2, 3):
        same(Comparison.load(tmp_path / f"result-{i}.json"), alone)
    assert not list(tmp_path.glob("*.locks"))


DONE = Trial(Spec("untuned"), 0, 1.0, {})


def test_what_one_has_taken_no_other_takes(tmp_path):
    path = tmp_path / "runs.jsonl"
    one, other = Results(path), Results(path)
    assert one.take("a") and not other.take("a") and other.take("b")
    one.add("a", DONE)
    assert not other.take("a") and list(other.news()) == ["a"] and other.news() == {}
    one.close()
    assert (tmp_path / "runs.jsonl.locks").is_dir()  # the other is still at b
    other.let_go("b")
    assert one.take("b")  # what was given up can be taken
    one.close()
    other.close()
    assert os.listdir(tmp_path) == ["runs.jsonl"]


def test_a_trial_is_not_lost_where_another_is_adding(tmp_path):
    path = tmp_path / "runs.jsonl"
    results = Results(path)
    assert results.take("a")
    with path.open("a") as file:
        file.write('{"key": "cut o')  # of one that was killed
    results.add("a", DONE)
    append_trial(path, "b", DONE)
    assert list(read_trials(path)) == ["a", "b"]
    stale = FileLock(tmp_path / "runs.jsonl.locks" / "dead.lock")
    with stale:  # of one that is at work: it stays
        results.close()
        assert os.listdir(tmp_path / "runs.jsonl.locks") == ["dead.lock"]
    results.close()  # of one that died: it goes
    assert os.listdir(tmp_path) == ["runs.jsonl"]


def test_a_comparison_that_is_killed_as_it_writes_ends_as_one_that_never_was(tiny_folder, tmp_path):
    command = [sys.executable, broken_off.__file__, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    whole, *others = told["complete"]
    assert told["kills"] >= 20 and others and all(each == whole for each in others) and not told["left"]


class TestAFileThatIsChangedMeanwhile:
    @pytest.fixture
    def results(self, tmp_path) -> Results:
        """Of a file with two trials, which were seen in it."""
        path = tmp_path / "runs.jsonl"
        for key in ("a", "b"):
            append_trial(path, key, DONE)
        results = Results(path)
        assert list(results.news()) == ["a", "b"] and results.news() == {}
        return results

    def test_what_was_seen_in_a_file_that_is_removed_is_added_again(self, results):
        results.path.unlink()
        with pytest.warns(UserWarning, match="removed or edited during the comparison: its 2 trials are added again"):
            assert list(results.news()) == ["a", "b"]
        assert list(read_trials(results.path)) == ["a", "b"]

    def test_also_as_the_last_trial_is_added(self, results):
        assert results.take("c")
        results.path.unlink()
        with pytest.warns(UserWarning, match="2 trials are added again"):
            results.add("c", DONE)
        assert set(read_trials(results.path)) == {"a", "b", "c"}

    def test_a_line_that_is_taken_out_comes_back(self, results):
        first, _ = results.path.read_text().splitlines()
        results.path.write_text(first + "\n")
        with pytest.warns(UserWarning, match="its 1 trials are added again"):
            assert set(results.news()) == {"a", "b"}
        assert list(read_trials(results.path)) == ["a", "b"]

    def test_an_end_of_line_that_an_editor_leaves_out_costs_no_trial(self, results):
        text = results.path.read_text()
        results.path.write_text(text.rstrip())
        assert list(read_trials(results.path)) == list(results.news()) == ["a", "b"]
        append_trial(results.path, "c", DONE)
        assert list(read_trials(results.path)) == ["a", "b", "c"] and results.path.read_text().startswith(text)

    @pytest.mark.parametrize("edit", [lambda text: text.replace("untuned", "changed"), lambda text: "{}\n" + text])
    def test_a_line_that_is_changed_ends_no_comparison_and_is_said(self, results, edit):
        assert results.take("c")
        results.path.write_text(edit(results.path.read_text()))
        with pytest.warns(UserWarning, match="line 1 is not the result of a trial.*remove that line") as told:
            assert set(results.news()) == {"a", "b"}
            results.add("c", DONE)
        assert len(told) == 1
        with pytest.raises(ValueError, match="line 1 is not the result of a trial"):
            read_trials(results.path)
        lines = results.path.read_text().splitlines()
        results.path.write_text("\n".join(each for each in lines if "changed" not in each and each != "{}") + "\n")
        assert "c" in read_trials(results.path)

    def test_a_comparison_whose_file_is_removed_is_whole_and_so_is_its_file(
        self, tiny_folder, tmp_path, monkeypatch, alone
    ):
        out, trial, done = tmp_path / "runs.jsonl", Bench.trial, []

        def removing(self, spec, tuner):
            done.append(spec)
            if len(done) == 4:
                out.unlink()
            return trial(self, spec, tuner)

        monkeypatch.setattr(Bench, "trial", removing)
        with pytest.warns(UserWarning, match="3 trials are added again"):
            same(compared(tiny_folder, out), alone)
        assert len(done) == len(read_trials(out)) == TRIALS and os.listdir(tmp_path) == ["runs.jsonl"]


def test_a_folder_in_which_nothing_can_be_locked_is_said(tmp_path):
    (tmp_path / "runs.jsonl.locks").touch()
    results = Results(tmp_path / "runs.jsonl")
    with pytest.raises(OSError, match="no file in .*runs.jsonl.locks can be locked.*name another results file"):
        results.take("a")
    results.close()


def test_an_error_lets_go_of_the_trial(tiny_folder, tmp_path, monkeypatch):
    def broken(self, spec, tuner):
        raise RuntimeError("broken")

    monkeypatch.setattr(Bench, "trial", broken)
    with pytest.raises(RuntimeError, match="broken"):
        compared(tiny_folder, tmp_path / "runs.jsonl")
    assert os.listdir(tmp_path) == ["runs.jsonl"]


def test_none_is_begun_after_a_time_and_what_is_done_is_kept(tiny_folder, tmp_path, monkeypatch):
    view, methods = ModelView(load_model(tiny_folder)), asked(METHODS, (0,))
    cases = tuple(Yesman().training(n=2))
    few = Suite("few", groups={"cases": cases[:1]}, judge=AnswerJudge(max_new_tokens=1))
    task = Task(cases, TuneConfig(steps=1, batch_size=2), {"suite": few})
    made, path = task.made(view), tmp_path / "runs.jsonl"
    todo = {spec.key(made.fingerprint): (spec, tuner) for spec, tuner in methods.items()}
    clock = SimpleNamespace(monotonic=lambda: len(read_trials(path)), sleep=time.sleep)  # a second a trial
    monkeypatch.setattr(sharing, "time", clock)
    for until, done in ((0, 0), (2, 2), (None, 3)):
        left = {key: each for key, each in todo.items() if key not in read_trials(path)}
        assert len(list(trials(view, task, left, Results(path), 1, made.parts, until))) == done
    assert read_trials(path).keys() == todo.keys()
