"""How much runs at once: a batch size from the memory at hand, and half of it when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from spt_lens.measure.places import Rows
from spt_lens.models import ModelView

MOST = 16  # prompts at once where memory is no limit: larger batches are no faster, and noticeably slower on a CPU


@dataclass
class Limits:
    """At most `batch_size` prompts, or the memory that they take, go through the model at once."""

    batch_size: int

    def halve(self) -> bool:
        """Whether there was anything to halve."""
        self.batch_size //= 2
        return self.batch_size > 0

    def each(self, groups: Sequence[Sequence[int]], run: Callable[[list[int]], None]) -> None:
        """Runs every group in parts of at most batch_size rows; a part that does not fit in memory again, in halves.

        Raises: MemoryError if not even a single row fits.
        """
        for group in groups:
            rest = list(group)
            while rest:
                part = rest[: self.batch_size]
                try:
                    run(part)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    if not self.halve():
                        raise MemoryError(
                            f"not even one prompt at a time fits in memory ({error}): use shorter prompts, a smaller "
                            "dtype, or a device with more memory"
                        ) from error
                    fits = False
                else:
                    fits = True
                if fits:
                    rest = rest[len(part) :]
                else:  # outside of the handler, which still holds the tensors that did not fit
                    gc.collect()
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own error on accelerators, and a plain RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(said in str(error) for said in ("not enough memory", "can't allocate memory"))
    )


def find_limits(view: ModelView, rows: Rows, batch_size: int | None, max_memory: float | None) -> Limits:
    """As many prompts at once as the user says, or as fit: into max_memory, else into half of what is free now.

    max_memory: GiB, of activations (beside the weights).

    Raises: ValueError for a batch size below one, or memory that is not above zero.
    """
    if max_memory is not None:
        if isinstance(max_memory, bool) or not isinstance(max_memory, int | float) or not max_memory > 0:
            raise ValueError(f"max_memory={max_memory!r}: give a number of GiB above zero")
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"a batch of {batch_size} prompts is not possible: use one or more")
        return Limits(batch_size)
    room = free_bytes(view.device) / 2 if max_memory is None else max_memory * 2**30
    longest = max(max(len(row.into), len(row.source)) for row in rows.rows)
    return Limits(max(1, int(min(MOST, room / prompt_bytes(view, longest)))))


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def prompt_bytes(view: ModelView, tokens: int) -> int:
    """Roughly what one prompt takes: kept residuals, keys and values of all layers, and one layer's own work."""
    size = torch.empty((), dtype=view.dtype).element_size()
    kept = view.n_layers * tokens * (2 * view.n_kv_heads * view.d_head + view.n_heads * view.d_head + view.d_model)
    attention = 3 * view.n_heads * tokens * tokens * max(size, 4)  # scores, their softmax, one of them once more
    layer = tokens * 16 * view.d_model  # the MLP's inner values and what surrounds them
    return size * (kept + layer) + attention
