"""Several processes that run one script on the same data: each does a share of the work, and all get the whole.

`torchrun` or `accelerate launch` starts them. Measuring, asking, evaluating and tuning then share what they do; every
rank has the result, and that is what a single process gives. A process alone pays nothing for it: nothing is imported
or started. The processes send one another numbers and JSON, nothing that could run as code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

_ERRORS = (FileNotFoundError, FloatingPointError, IndexError, KeyError, MemoryError, NotImplementedError, OSError)
# What an error of one rank is on the others, so that a script that expects it finds it on all.
_KINDS: Mapping[str, type[BaseException]] = {
    kind.__name__: kind for kind in (*_ERRORS, KeyboardInterrupt, PermissionError, RuntimeError, TypeError, ValueError)
} | {"OutOfMemoryError": MemoryError}
_SAMPLED = 32  # of each dimension of a weight, which is as many as tell two models apart

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """In the block this process shares nothing: for work that the other ranks don't do, or do with other data."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _several() -> bool:
    """Whether this process is one of several: joins the others where a launcher has started it as such."""
    if _alone.get():
        return False
    if not (dist.is_available() and dist.is_initialized()):
        # A worker of multiprocessing inherits the environment of a rank, and is none.
        wanted = os.environ.get("WORLD_SIZE") or "1"
        if wanted == "1" or multiprocessing.parent_process() is not None:
            return False
        if unset := [name for name in ("RANK", "MASTER_ADDR") if not os.environ.get(name)]:
            raise RuntimeError(
                f"WORLD_SIZE={wanted} in the environment says that this process is one of several, but {unset[0]} is "
                "not set: start it by torchrun or accelerate launch, or unset WORLD_SIZE to work alone"
            )
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        if not dist.is_initialized():  # there was one already, which leaves processes on CPUs apart unless it is told
            dist.init_process_group("gloo")
    return dist.get_world_size() > 1


def size() -> int:
    """How many processes share the work; 1 for one alone."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """This process's number among those that share the work."""
    return dist.get_rank() if _several() else 0


def first() -> bool:
    """Whether this process is the one that shows, warns and writes for all; one alone is."""
    return rank() == 0


def warn_caller(text: str) -> None:
    """Warns as coming from the line of the user's that called this library, however deep the call is; once of ranks."""
    if not first():
        return
    names, frame = [], inspect.currentframe()
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__")))
        frame = frame.f_back
    # The last of ours: contexts, and functions of the user's, may lie between. Around it are those of decorators.
    depth = max(i for i, name in enumerate(names) if name.startswith("spt_lens.")) + 1
    while depth < len(names) and names[depth] in ("contextlib", "torch.utils._contextlib"):
        depth += 1
    warnings.warn(text, stacklevel=depth + 1)


def shows(wanted: bool) -> bool:
    """Whether this process shows a bar that is wanted: one of several does."""
    return wanted and first()


def _device() -> torch.device:
    """Where tensors must be to be sent."""
    here = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
    return torch.device("cpu") if here is None else torch.device(here.type, torch.accelerator.current_device_index())


def total(tensor: Tensor) -> Tensor:
    """The sum over all ranks, the same bits on each. **Changes the tensor**, and gives it back."""
    if _several():
        sent = tensor.detach().to(_device()).contiguous()
        dist.all_reduce(sent)
        tensor.copy_(sent)
    return tensor


def sum_gradients(trainable: Sequence[Tensor]) -> None:
    """Each gradient becomes the sum over all ranks, the same bits on each; also where a rank has none."""
    if _several():
        there = total(torch.tensor([float(p.grad is not None) for p in trainable]))
        for p, ranks_with in zip(trainable, there.tolist(), strict=True):
            if ranks_with:
                p.grad = total(torch.zeros_like(p) if p.grad is None else p.grad)


def gathered(value: Any) -> list[Any]:
    """What each rank gives, in the order of ranks: numbers, text, lists and dicts, as JSON has them."""
    if not _several():
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(_device())
    lengths = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(size())]
    dist.all_gather(lengths, torch.tensor([len(own)], device=own.device))
    sent = own.new_zeros(int(max(lengths)))
    sent[: len(own)] = own
    every = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(every, sent)
    return [json.loads(bytes(each[: int(n)].cpu().numpy().tobytes())) for each, n in zip(every, lengths, strict=True)]


def agree(what: str, same: Mapping[str, Any]) -> None:
    """Raises ValueError, on every rank, if the ranks are not at the same work, or have other data, models or settings.

    same: by the name that an error gives it; what has a repr of its own, a tensor, a ModelView, or a list of these.
    """
    if _several():
        _agreed(what, same)


def _agreed(what: str, same: Mapping[str, Any], batch_size: int = 0) -> int:
    """`agree`; gives the least batch size of all ranks."""
    every = _told(what, [{name: _digest(value) for name, value in same.items()}, batch_size])
    for i, (digests, _) in enumerate(every):
        odd = [name for name, digest in digests.items() if digest != every[0][0].get(name)]
        if odd:
            raise ValueError(
                f"{what}: rank {i} of {len(every)} has other {' and other '.join(odd)} than rank 0: give every "
                "rank the same data, model and settings"
            )
    return min(each[1] for each in every)


def _told(work: str, value: Any) -> list[Any]:
    """`gathered`, where all ranks are at the same work. Raises ValueError, on every rank, if they are not."""
    every = [each if isinstance(each, dict) else {} for each in gathered({"work": work, "value": value})]
    for i, each in enumerate(every):
        if (there := each.get("work")) != (first := every[0].get("work")):
            raise ValueError(
                f"rank 0 of {len(every)} is at {first!r} and rank {i} at {there!r}: let every rank run the same "
                "script, and put what only one of them does under spt_lens.model.ranks.alone()"
            )
    return [each["value"] for each in every]


def _digest(value: Any) -> str:
    """Tells data and models apart; of a model, a sample of each weight that is in memory."""
    digest = hashlib.sha256()
    if isinstance(value, list):
        digest.update(repr([_digest(each) for each in value]).encode())
    elif isinstance(value, Tensor):
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif hasattr(value, "fingerprint"):
        digest.update(repr((value.fingerprint(), value.dtype)).encode())
        for weight in value.weights().values():
            if weight.device.type != "meta":
                some = weight.detach()[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in weight.shape)]
                digest.update(some.float().cpu().numpy().tobytes())
    else:
        digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


class Batched(Protocol):
    """What has a batch size: Limits."""

    batch_size: int


@dataclass(frozen=True, eq=False)
class Share:
    """Work that ranks can share, part by part.

    what: its name. same: as `agree` has it. held: what the parts fill: tensors, whose first dimension is of the rows
    that parts are made of, and dicts, to which each part adds its own keys. added: tensors that start at zero, to which
    each part adds.
    """

    what: str
    same: Mapping[str, Any]
    held: Sequence[Tensor | dict[Any, Any]] = ()
    added: Sequence[Tensor] = ()


@dataclass
class _Mine:
    """Told of the rows of every part, in order; says whether this rank is to run it."""

    rank: int
    size: int
    parts: int = 0
    rows: list[int] = field(default_factory=list)

    def __call__(self, rows: Sequence[int]) -> bool:
        mine = self.parts % self.size == self.rank
        self.parts += 1
        self.rows += list(rows) if mine else []
        return mine


@contextmanager
def shared(share: Share, limits: Batched | None = None) -> Iterator[Callable[[Sequence[int]], bool]]:
    """Gives a function that says of each part, told of its rows, whether this rank runs it; after the block, every rank
    holds what all of them have made. In the block nothing else is shared.

    limits: its batch size becomes the least of all ranks, before and after. An error on one rank is raised on all, and
    so is an interrupt, or the others would wait for a rank that goes on with something else.

    Raises: ValueError as `agree`.
    """
    if not _several():
        yield lambda rows: True
        return
    smallest = _agreed(share.what, share.same, 0 if limits is None else limits.batch_size)
    if limits is not None:
        limits.batch_size = smallest
    mine = _Mine(rank(), size())
    problem: Exception | KeyboardInterrupt | None = None
    try:
        with alone():
            yield mine
    except (Exception, KeyboardInterrupt) as error:
        problem = error
    _joined(share, mine.rows, problem, limits)


def _joined(
    share: Share, rows: list[int], problem: Exception | KeyboardInterrupt | None, limits: Batched | None
) -> None:
    """What all ranks have made of their rows, on each. Raises what any of them raised."""
    dicts = [each for each in share.held if isinstance(each, dict)]
    report: dict[str, Any] = {"rows": rows, "batch_size": 0 if limits is None else limits.batch_size}
    if problem is None:
        report["dicts"] = [list(each.items()) for each in dicts]
    else:
        report["error"] = [type(problem).__name__, str(problem)]
    every = _told(f"{share.what}, its end", report)
    if problem is not None:
        raise problem
    for i, each in enumerate(every):
        if "error" in each:
            kind, said = each["error"]
            raise _KINDS.get(kind, RuntimeError)(f"{share.what}: rank {i} of {len(every)} stopped: {said}")
    if limits is not None:
        limits.batch_size = min(each["batch_size"] for each in every)
    for k, into in enumerate(dicts):
        for each in every:
            into.update((tuple(key) if isinstance(key, list) else key, value) for key, value in each["dicts"][k])
    known = sorted({row for each in every for row in each["rows"]})
    for tensor in share.held:
        if isinstance(tensor, Tensor) and known:
            own = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            own[rows] = tensor[rows]
            # Bytes, with zeros where another rank's are: the sum is what it was, also of nan and of minus zero.
            total(own.flatten().view(torch.uint8))
            tensor[known] = own[known]
    for tensor in share.added:
        total(tensor)


def from_first(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, as JSON has it, on every rank; or what it raises."""
    made: dict[str, Any] = {}
    with shared(Share("what rank 0 does for all", {}, [made])) as mine:
        if mine([]):
            made["it"] = make()
    return made["it"]
