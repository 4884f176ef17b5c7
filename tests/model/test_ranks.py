"""Several processes on this machine give what one gives; where they are not alike, all of them end with an error."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spt_lens.model import ranks
from spt_lens.model.limits import Limits, Pace
from spt_lens.model.loading import load_model
from tests.model.ranked import ROUNDED, everything

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")


def launch(n: int, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", n, "--master-port", port]
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    whole = [*map(str, command), "-m", "tests.model.ranked", *map(str, arguments)]
    return subprocess.run(whole, cwd=ROOT, env=os.environ | more, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def one(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a single process gives, with the one thread that a launcher gives each rank."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return everything(load_model(tiny_folder, device="cpu"), tmp_path_factory.mktemp("one"))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], int, str]:
    """What each of two ranks wrote, how the launcher ended, and what it said."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(2, tiny_folder, folder)
    return [read(folder, i, done) for i in range(2)], done.returncode, done.stderr


def read(folder: Path, rank: int, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    path = folder / f"{rank}.json"
    assert path.exists(), done.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


def flat(value: Any) -> list[float]:
    return [x for each in value for x in flat(each)] if isinstance(value, list) else [value]


def compare(found: dict[str, Any], one: dict[str, Any]) -> None:
    """The same to the last bit, but for what is a sum over ranks."""
    assert found.keys() == one.keys()
    expected = json.loads(json.dumps(one))
    for name, value in found.items():
        if name in ROUNDED:
            assert torch.tensor(flat(value)) == pytest.approx(torch.tensor(flat(expected[name])), rel=1e-4, abs=1e-5), (
                name
            )
        else:
            assert value == expected[name], name


def test_two_ranks_give_what_one_process_gives(one, two):
    for each in two[0]:
        assert each["size"] == 2
        compare(each["found"], one)
    assert two[0][0]["found"] == two[0][1]["found"]  # also what is a sum: the same bits on each


def test_four_ranks_give_what_one_process_gives(one, tiny_folder, tmp_path):
    done = launch(4, tiny_folder, tmp_path, "quick")
    assert done.returncode == 0, done.stderr[-3000:]
    for i in range(4):
        each = read(tmp_path, i, done)
        assert each["size"] == 4
        compare(each["found"], one)


def test_ranks_that_are_not_alike_say_so_on_each(two):
    for i, each in enumerate(two[0]):
        broken = each["broken"]
        way_out = "than rank 0: give every rank the same data, model and settings"
        assert broken["pairs"] == f"ValueError: patching, sweep: rank 1 of 2 has other pairs {way_out}"
        assert broken["model"] == f"ValueError: replies: rank 1 of 2 has other model {way_out}"
        assert broken["order"].startswith("ValueError: rank 0 of 2 is at 'replies' and rank 1 at 'reading answers'")
        own = "ValueError: no more", "IsADirectoryError"
        other = "ValueError: replies: rank 1 of 2 stopped: no more", "RuntimeError: what rank 0 does for all: rank 0 of"
        assert broken["one stops"] == (other[0], own[0])[i]
        assert broken["first"].startswith((own[1], other[1])[i])
        assert broken["interrupted"] == [1, True, "nothing"]  # all at the same step, and they go on together
        assert broken["left"].startswith("ValueError: rank 0 of 2 is at 'replies, its end' and rank 1 at 'replies'")


def test_ranks_go_on_after_an_error_and_alone_share_nothing(one, two):
    first, second = (each["broken"] for each in two[0])
    assert first["after"] == second["after"] and first["after"].startswith("['")
    # Each asked for another reply, under alone(): those of its own pair.
    assert [first["alone"], second["alone"]] == [str([1, reply]) for reply in eval(first["after"])[:2]]


def test_a_rank_that_ends_ends_the_others(two):
    _, code, said = two
    assert code != 0 and "exitcode  : 3" in said


def test_a_process_alone_starts_and_changes_nothing(monkeypatch):
    assert not torch.distributed.is_initialized()
    assert (ranks.size(), ranks.rank(), ranks.first(), ranks.gathered([1, "a"])) == (1, 0, True, [[1, "a"]])
    assert torch.equal(ranks.total(torch.tensor([2.0, 3.0])), torch.tensor([2.0, 3.0]))
    ranks.agree("anything", {"data": object()})
    assert ranks.from_first(lambda: {1: (2, 3)}) == {1: (2, 3)}
    monkeypatch.setenv("WORLD_SIZE", "4")  # nothing to join, and none is looked for
    with ranks.alone():
        assert ranks.size() == 1
    assert not torch.distributed.is_initialized()


def test_an_environment_that_names_other_processes_without_a_launcher_is_an_error(monkeypatch):
    """Not a process that waits for others for minutes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="WORLD_SIZE=2 .* RANK is not set: start it by torchrun .* or unset"):
        ranks.size()
    assert not torch.distributed.is_initialized()


def test_parts_are_those_of_one_process(monkeypatch):
    """Each rank runs every third part of what one process runs, in halves where that does not fit; none runs another's.
    What is measured by the clock is not shared."""
    groups = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
    alone: list[list[int]] = []
    Limits(2).each(groups, alone.append)
    for rank in range(3):
        monkeypatch.setattr(ranks, "_several", lambda: True)
        monkeypatch.setattr(ranks, "size", lambda: 3)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(ranks, "gathered", lambda value: [value])
        own: list[list[int]] = []
        Limits(2).each(groups, own.append, ranks.Share("it", {}))
        assert own == alone[rank::3]
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    halved: list[list[int]] = []

    def fits_one(part: list[int]) -> None:
        if len(part) > 1:
            raise MemoryError
        halved.append(part)

    limits = Limits(2)
    limits.each(groups, fits_one, ranks.Share("it", {}))
    assert halved == [[i] for part in alone[::3] for i in part] and limits.batch_size == 1
    paced: list[list[int]] = []
    Pace(2, seconds=9.0, most=2).each(groups, paced.append, ranks.Share("it", {}))
    assert paced == alone
