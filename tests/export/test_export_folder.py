"""A folder that appears whole or not at all: whatever is killed, whoever else writes there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import half_done
import pytest

from spt_lens.export import folder as exports
from spt_lens.export.folder import MARKER, replacing, write_marker


def export(folder, text, overwrite=False, meanwhile=lambda: None):
    with replacing(folder, 0, overwrite) as temporary:
        (temporary / "weights").write_text(text)
        write_marker(temporary, {})
        meanwhile()


@pytest.fixture(scope="module")
def told(tiny_folder, tmp_path_factory):
    command = [sys.executable, half_done.__file__, str(tiny_folder), str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_kill_at_any_moment_leaves_the_old_export_or_the_new(told, kind):
    found = told[kind]
    assert found["kills"] >= 20 and set(found["found"]) == {"old", "new"}
    assert found["same"] and found["left"] == ["counted", "out"]  # what was killed left full copies: they are gone


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_disk_that_gets_full_at_any_write_leaves_the_old_export(told, kind):
    found = told[f"{kind} full"]
    assert found["failed"] >= 4 and found["said"]


def test_an_export_that_was_moved_away_comes_back(told):
    assert told["between"] == {"killed": True, "gone": True, "back": True, "left": ["out"]}


@pytest.mark.parametrize("exchange", [True, False])
def test_two_names_are_exchanged_where_the_system_can(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(exports, "_exchanged", lambda one, other: False)
    export(tmp_path / "out", "one")
    export(tmp_path / "out", "two", overwrite=True)
    assert (tmp_path / "out" / "weights").read_text() == "two" and os.listdir(tmp_path) == ["out"]


def test_of_two_that_write_one_folder_the_second_replaces_nothing(tmp_path):
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        export(tmp_path / "out", "one", meanwhile=lambda: export(tmp_path / "out", "two"))
    assert (tmp_path / "out" / "weights").read_text() == "two" and os.listdir(tmp_path) == ["out"]


def test_what_came_into_an_export_meanwhile_is_not_thrown_away(tmp_path):
    export(tmp_path / "out", "one")
    with pytest.raises(FileExistsError, match="also holds notes"):
        export(tmp_path / "out", "two", True, lambda: (tmp_path / "out" / "notes").write_text("mine"))
    assert sorted(os.listdir(tmp_path / "out")) == ["notes", MARKER, "weights"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with replacing(tmp_path / "out", 0, overwrite=False):
        there = os.listdir(tmp_path)
        with replacing(tmp_path / "out", 0, overwrite=False):
            assert len(os.listdir(tmp_path)) == 2 and set(there) < set(os.listdir(tmp_path))
