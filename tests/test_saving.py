import errno
import json
import os
import stat
import tempfile
import time
from functools import partial

import pytest
import safetensors.torch
import torch
from kills import begun, die, ended, full_at, killed, moments
from saved import KINDS

from spt_lens import files, saving
from spt_lens.behaviours.reading import read_questions
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores


def scores_of(n_pairs, value=1.0):
    per_pair = torch.full((n_pairs, 8, 8), value)
    return HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "tiny")


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestKills:
    @pytest.mark.parametrize("name", KINDS)
    def test_a_kill_at_any_moment_leaves_the_old_one_or_the_new(self, tmp_path, name):
        kind, path, seen = KINDS[name], tmp_path / "it", []
        kind.save(path, 2.0)
        new = kind.load(path)
        kind.save(path, 1.0)
        old = kind.load(path)
        tried = moments(lambda: kind.save(tmp_path / "other", 2.0))
        for moment in tried:
            assert killed(lambda: kind.save(path, 2.0), moment)
            seen.append(kind.load(path))
            kind.save(path, 1.0)
            assert not list(tmp_path.rglob(".*"))  # nothing is left of what was killed
        assert len(tried) >= 20 and old in seen and new in seen and all(each in (old, new) for each in seen)

    def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(self, tmp_path):
        for moment in range(1, 100):
            killed(lambda: saving.write_text(tmp_path / "file", "half"), moment)
            if names(tmp_path):
                break
        (left,) = names(tmp_path)
        living = left.replace(left.split("-")[-2], str(os.getppid()))
        (tmp_path / living).write_text("")
        (tmp_path / ".file.other.tmp").write_text("")
        saving.write_text(tmp_path / "file", "whole")
        assert names(tmp_path) == sorted([living, ".file.other.tmp", "file"])

    def test_hidden_names_are_a_targets_own_and_a_machines_own(self, tmp_path, monkeypatch):
        long = "meta-llama-Llama-3.2-1B-Instruct-pinpoint-lr"
        names_ = [files.own_name(tmp_path / f"{long}{lr}").name.split("-")[-3] for lr in ("1e-4", "3e-4")]
        monkeypatch.setattr("platform.node", lambda: "a-study-in-the-cluster-worker-0")
        one = files.own_name(tmp_path / "file").name
        monkeypatch.setattr("platform.node", lambda: "a-study-in-the-cluster-worker-1")
        other = files.own_name(tmp_path / "file").name
        assert names_[0] != names_[1] and one.split("-")[0] != other.split("-")[0]

    @pytest.mark.parametrize("links", [True, False])
    def test_a_file_that_is_to_be_new_takes_no_others_place(self, tmp_path, monkeypatch, links):
        if not links:
            monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
        saving.save_json(tmp_path / "file", "thing", {"n": 1}, new=True)
        with pytest.raises(FileExistsError, match="cannot write .*file"):
            saving.save_json(tmp_path / "file", "thing", {"n": 2}, new=True)
        assert saving.load_json(tmp_path / "file", "thing", dict) == {"kind": "thing", "n": 1}
        assert names(tmp_path) == ["file"]

    def test_large_temporary_folders_of_killed_processes_go(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))

        def stay():
            with files.scratch() as folder:
                (folder / "weights").write_bytes(bytes(1000))
                die()

        assert killed(stay, 0)
        assert len(names(tmp_path)) == 1
        with files.scratch() as mine, files.scratch() as other:
            assert names(tmp_path) == sorted([mine.name, other.name])
        assert names(tmp_path) == []


class TestFullDisks:
    @pytest.mark.parametrize("name", KINDS)
    def test_at_every_call_that_needs_room_the_old_one_stays(self, tmp_path, name):
        kind, path = KINDS[name], tmp_path / "it"
        kind.save(path, 1.0)
        old, there = kind.load(path), sorted(tmp_path.rglob("*"))
        failed = 0
        for number in range(1, 100):
            try:
                if not full_at(lambda: kind.save(path, 2.0), number):
                    break
            except OSError as error:
                assert error.errno == errno.ENOSPC and str(path) in str(error)
                failed += 1
            if kind.load(path) != old:  # it was written before what failed
                kind.save(path, 1.0)
            assert sorted(tmp_path.rglob("*")) == there
        assert failed >= 4 and kind.load(path) != old


class TestTwoAtOnce:
    @pytest.mark.parametrize("name", ["scores", "adapter", "comparison", "study"])
    def test_readers_beside_writers_see_the_old_one_or_the_new(self, tmp_path, name):
        kind, path, enough = KINDS[name], tmp_path / "it", tmp_path / "enough"
        known, seen = [], []
        for value in (2.0, 1.0):
            kind.save(path, value)
            known.append(kind.load(path))

        def write(value):
            while not enough.exists():
                kind.save(path, value)

        writers = [begun(partial(write, value)) for value in (1.0, 2.0)]
        latest = time.monotonic() + 60
        while time.monotonic() < latest and (len(seen) < 200 or not all(each in seen for each in known)):
            seen.append(kind.load(path))
        enough.touch()
        assert [ended(writer) for writer in writers] == [0, 0]
        assert all(each in seen for each in known) and all(each in known for each in seen)
        assert not list(tmp_path.rglob(".*"))

    def test_of_two_that_begin_a_file_one_does(self, tmp_path):
        def begin(n):
            while not (tmp_path / "go").exists():
                pass
            for i in range(50):
                try:
                    saving.save_json(tmp_path / f"file {i}", "thing", {"n": n}, new=True)
                    (tmp_path / f"{n} began {i}").touch()
                except FileExistsError:
                    pass

        both = [begun(partial(begin, n)) for n in range(2)]
        (tmp_path / "go").touch()
        assert [ended(each) for each in both] == [0, 0]
        for i in range(50):
            n = saving.load_json(tmp_path / f"file {i}", "thing", lambda data: data["n"])
            assert [path.name for path in tmp_path.glob(f"* began {i}")] == [f"{n} began {i}"]


class TestWriting:
    def test_a_file_is_replaced_and_nothing_else_is_left(self, tmp_path):
        path = tmp_path / "a.txt"
        assert saving.write_text(path, "one") == path
        saving.write_text(str(path), "zwei ä")
        assert path.read_bytes() == "zwei ä".encode() and names(tmp_path) == ["a.txt"]

    def test_permissions_are_those_of_any_new_file_or_of_the_one_that_was_there(self, tmp_path):
        (tmp_path / "usual").write_text("")
        saving.write_text(tmp_path / "new", "x")
        assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
        (tmp_path / "new").chmod(0o600)
        saving.write_text(tmp_path / "new", "y")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600

    def test_a_link_is_written_through_to_its_target(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
        for text in ("one", "two"):
            saving.write_text(tmp_path / "link", text)
            assert (tmp_path / "there" / "file").read_text() == text and (tmp_path / "link").is_symlink()
        assert names(tmp_path / "there") == ["file"]

    def test_a_folder_a_missing_folder_and_no_path_are_told_apart(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
            saving.write_text(tmp_path, "x")
        with pytest.raises(FileNotFoundError, match="cannot write .*nowhere"):
            saving.write_text(tmp_path / "nowhere" / "file", "x")
        with pytest.raises(TypeError, match="must be a str or Path, and is None"):
            saving.write_text(None, "x")
        with pytest.raises(ValueError, match="names nothing"):
            saving.write_text("a\0b", "x")

    def test_a_device_is_written_to_and_not_replaced(self, tmp_path):
        saving.write_text("/dev/null", "x")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

    def test_long_names_are_written(self, tmp_path):
        saving.write_text(tmp_path / ("ä" * 127), "x")
        assert names(tmp_path) == ["ä" * 127]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_an_error_leaves_the_old_file_alone(self, tmp_path, monkeypatch, error):
        saving.write_text(tmp_path / "file", "old")

        def fail(handle):
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(type(error)):
            saving.write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


class TestReading:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"\xff\xfe{}",
            b"null",
            b"[]",
            b'"text"',
            b'{"kind": "other"}',
            b'{"kind": 3}',
            b'{"kind": "thing"}',
            b'{"kind": "thing", "n": 1.5}',
            b'{"kind": "thing", "n": ' + b"9" * 5000 + b"}",
            b"[" * 100_000,
            b'{"kind": "thing", "n": ' + b'{"n":' * 100_000,
        ],
        ids=lambda data: str(data[:30]),
    )
    def test_every_damage_is_one_error_that_names_the_file(self, tmp_path, data):
        (tmp_path / "bad.json").write_bytes(data)
        with pytest.raises(ValueError, match="bad.json holds no saved thing, or is damaged: .*"):
            saving.load_json(tmp_path / "bad.json", "thing", lambda data: saving.entry(data, "n", int))

    def test_what_is_too_long_or_too_deep_is_refused(self, tmp_path, monkeypatch):
        path = tmp_path / "bad.json"
        for depth in (saving.DEEPEST, saving.DEEPEST + 1, 5000):
            for text in ("[" * depth + "1" + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
                path.write_text(text)
                if depth == saving.DEEPEST:
                    assert saving.read_json(path, "thing")
                    continue
                with pytest.raises(ValueError, match="bad.json holds no saved thing.*nested in more than 64 levels"):
                    saving.read_json(path, "thing")
        deep = {"n": json.loads("[" * 70 + "]" * 70)}
        saving.save_tensors(path, "thing", {"a": torch.ones(1)}, deep)
        with pytest.raises(ValueError, match="nested in more than 64 levels"):
            saving.load_tensors(path, "thing")
        monkeypatch.setattr(saving, "LONGEST", 1000)
        path.write_text('{"kind": "thing", "n": 1}' + " " * 1000)
        with pytest.raises(ValueError, match="it has 1,025 bytes, and up to 1,000 are read"):
            saving.load_json(path, "thing", dict)
        (tmp_path / "rows.jsonl").write_text('{"question": "' + "x" * 2000)
        with pytest.raises(ValueError, match="rows.jsonl has a line of 1,000 characters or more"):
            read_questions(tmp_path / "rows.jsonl")
        (tmp_path / "rows.csv").write_text("question,answer\n" + "x" * 2000)
        with pytest.raises(ValueError, match="rows.csv has a line of 1,000 characters or more"):
            read_questions(tmp_path / "rows.csv")

    def test_a_pipe_or_a_device_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", "/dev/zero"):
            for load in (HeadSet.load, HeadScores.load):
                with pytest.raises(OSError, match="is no ordinary file: name the file that was saved"):
                    load(path)
            with pytest.raises(FileNotFoundError, match="is no ordinary file"):
                read_questions(path)

    def test_what_was_changed_by_hand_says_how_it_is_read(self, tmp_path):
        path = HeadSet.of((0, 1)).save(tmp_path / "heads.json")
        path.write_text(path.read_text().replace("L0.H1", "L0.H2"))
        with pytest.raises(ValueError, match='it was changed after it was saved; if by you, take its "sha256" out'):
            HeadSet.load(path)
        path.write_text(json.dumps(saving.unsealed({"heads": ["L0.H2"]})))
        assert HeadSet.load(path) == HeadSet.of((0, 2))

    def test_files_of_before_have_no_checksum_and_are_read(self, tmp_path):
        (tmp_path / "old.json").write_text('{"kind": "thing", "n": 3}')
        assert saving.load_json(tmp_path / "old.json", "thing", lambda data: data["n"]) == 3
        old = safetensors.torch.save({"a": torch.ones(2)}, {"spt_lens.thing": "{}"})
        (tmp_path / "old").write_bytes(old)
        assert torch.equal(saving.load_tensors(tmp_path / "old", "thing")[0]["a"], torch.ones(2))

    def test_a_missing_file_and_a_folder_are_told_apart(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none does not exist"):
            saving.load_json(tmp_path / "none", "thing", dict)
        with pytest.raises(IsADirectoryError, match="is a folder"):
            saving.load_json(tmp_path, "thing", dict)
        with pytest.raises(TypeError, match="must be a str or Path"):
            saving.load_tensors(3, "thing")

    def test_a_number_too_large_for_a_float_is_damage(self, tmp_path):
        (tmp_path / "bad.json").write_text('{"kind": "thing", "n": ' + "9" * 400 + "}")
        with pytest.raises(ValueError, match="bad.json"):
            saving.load_json(tmp_path / "bad.json", "thing", lambda data: saving.entry(data, "n", float))

    def test_what_was_saved_comes_back(self, tmp_path):
        saving.save_json(tmp_path / "a.json", "thing", {"n": 3, "x": 1})
        read = saving.load_json(
            tmp_path / "a.json", "thing", lambda data: (saving.entry(data, "n", int), saving.entry(data, "x", float))
        )
        assert read == (3, 1.0)


class TestTensors:
    def test_what_was_saved_comes_back_bit_for_bit(self, tmp_path):
        whole = torch.tensor([[1.0, float("nan")], [-0.0, 3.0]], dtype=torch.bfloat16)
        tensors = {"whole": whole, "column": whole[:, 1], "flags": torch.tensor([True, False])}
        path = saving.save_tensors(tmp_path / "t", "thing", tensors, {"n": [1, "ä"]})
        found, about = saving.load_tensors(path, "thing")
        assert about == {"n": [1, "ä"]} and found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name].view(torch.uint8), value.contiguous().view(torch.uint8))

    def test_another_kind_says_what_it_is(self, tmp_path):
        saving.save_tensors(tmp_path / "t", "thing", {"a": torch.ones(2)}, {})
        with pytest.raises(ValueError, match="tells of spt_lens.thing, not of spt_lens.scores"):
            saving.load_tensors(tmp_path / "t", "scores")

    def test_a_truncated_file_is_damage(self, tmp_path):
        data = saving.save_tensors(tmp_path / "t", "thing", {"a": torch.ones(2)}, {}).read_bytes()
        for length in (0, 4, 8, 20, len(data) - 1):
            (tmp_path / "t").write_bytes(data[:length])
            with pytest.raises(ValueError, match="t holds no saved thing, or is damaged"):
                saving.load_tensors(tmp_path / "t", "thing")

    def test_a_description_that_json_cannot_hold_costs_nothing(self, tmp_path):
        saving.save_tensors(tmp_path / "t", "thing", {"a": torch.ones(2)}, {})
        before = (tmp_path / "t").read_bytes()
        with pytest.raises(TypeError):
            saving.save_tensors(tmp_path / "t", "thing", {"a": torch.ones(2)}, {"no": torch.ones(1)})
        assert (tmp_path / "t").read_bytes() == before and names(tmp_path) == ["t"]

    def test_loaded_scores_do_not_change_with_their_file(self, tmp_path):
        path = tmp_path / "scores"
        scores_of(200).save(path)
        loaded = HeadScores.load(path)
        scores_of(2, value=5.0).save(path)
        assert loaded.per_pair.sum() == 200 * 64
        scores_of(200, value=7.0).save(path)
        path.write_bytes(b"")  # also by one who does not write as this library does
        assert loaded.per_pair.sum() == 200 * 64 and loaded.values.sum() == 64


def test_an_error_does_not_quote_a_damaged_file_at_length(tmp_path):
    saving.write_text(tmp_path / "heads.json", f'{{"heads": ["{"x" * 5000}"]}}')
    with pytest.raises(ValueError, match="holds no saved head selection") as error:
        HeadSet.load(tmp_path / "heads.json")
    assert len(str(error.value)) < 600
