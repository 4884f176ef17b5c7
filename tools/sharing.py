"""Processes of one command that share the work of one folder."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def begun(run: Callable[..., Any], given: argparse.Namespace) -> tuple[float, list[BaseProcess]]:
    """Starts the processes beside this one, each at `run(given, turn, end)`, with turns from 1 on. Makes the folder.

    Returns the time (of `time.time`) after which nothing is to be begun, by given.minutes, and the processes.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.time() + 60 * (given.minutes or 1e4)
    spawn = multiprocessing.get_context("spawn")
    others: list[BaseProcess] = [
        spawn.Process(target=run, args=(given, turn, end)) for turn in range(1, given.processes)
    ]
    for other in others:
        other.start()
    return end, others
