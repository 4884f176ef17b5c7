"""A tuning run between two steps: all that decides how it goes on, as it is kept in memory or in a file."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spt_lens.tune.config import TuneConfig

Row = dict[str, float]


def best_validation(rows: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """The step of the lowest validation_loss, of equal ones the first, and how many validations came after it.

    Raises ValueError if there was no validation.
    """
    measured = [row for row in rows if not math.isnan(row.get("validation_loss", math.nan))]
    best = min(range(len(measured)), key=lambda i: measured[i]["validation_loss"])
    return int(measured[best]["step"]), len(measured) - 1 - best


class Run:
    """What is trained, the optimiser, the schedule and the history, and with `patience` the best weights so far.

    `rows` is the history, and the number of the last step is in its last row. after_step: is called when weights moved.
    penalty: the weight of an L1 term in the loss, the sum of all that is trained; a row's loss is without it.
    """

    def __init__(
        self,
        trainable: Sequence[Tensor],
        config: TuneConfig,
        rows: list[Row],
        after_step: Callable[[], None] | None = None,
        penalty: float = 0.0,
    ):
        self.trainable, self.config, self.rows, self.penalty = list(trainable), config, rows, penalty
        self._after_step = after_step or (lambda: None)
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(
                self.trainable, config.lr, config.momentum, weight_decay=config.weight_decay
            )
        else:
            self.optimizer = torch.optim.AdamW(self.trainable, config.lr, weight_decay=config.weight_decay)
        warmup = int(config.warmup_share * config.steps)
        from transformers import get_scheduler  # with it come the trainer and all that this knows, peft too

        self.scheduler = get_scheduler(config.schedule, self.optimizer, warmup, config.steps)
        self.best: tuple[int, list[Tensor]] | None = None  # a step, and its weights, on the CPU
        self.patience_lost = False
        self.whole = True  # False while weights, optimiser and history are of different steps

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def over(self) -> bool:
        return self.patience_lost or self.step >= self.config.steps

    def take(self, figures: Row) -> None:
        """A step along the gradients, and its row. Raises FloatingPointError, nothing moved, if they aren't finite."""
        step, rate = self.step + 1, self.optimizer.param_groups[0]["lr"]
        for p in self.trainable if self.penalty else ():
            if p.grad is not None:
                p.grad.add_(p.detach().sign(), alpha=self.penalty)
        largest = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable, largest))
        loss = figures["loss"]
        if not math.isfinite(loss) or not math.isfinite(norm):
            lower = self.config.lower()
            raise FloatingPointError(f"step {step}: loss {loss}, gradient norm {norm}: {lower}")
        self.whole = False
        self.optimizer.step()
        self.scheduler.step()
        self._after_step()
        self.rows.append({"step": step, "loss": loss, "lr": rate, **figures, "grad_norm": norm})
        self.whole = True

    def judge(self) -> None:
        """After a validation: keeps the weights if they are the best so far, and says whether patience is lost."""
        if self.config.patience is None or "validation_loss" not in self.rows[-1]:
            return
        if self.best is None and math.isnan(self.rows[-1]["validation_loss"]):
            raise FloatingPointError(f"step {self.step}: the validation loss is nan: load the model in a wider dtype")
        best, since = best_validation(self.rows)
        if best == self.step and (self.best is None or self.best[0] != best):
            self.best = best, [p.detach().to("cpu", copy=True) for p in self.trainable]
        self.patience_lost = since >= self.config.patience

    @torch.no_grad()
    def put(self, weights: Sequence[Tensor]) -> None:
        """Writes weights into what is trained."""
        for p, value in zip(self.trainable, weights, strict=True):
            p.copy_(value)
        self._after_step()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it, as tensors and as what JSON holds."""
        tensors = {f"trained.{i}": p for i, p in enumerate(self.trainable)}
        for i, values in self.optimizer.state_dict()["state"].items():
            # What an optimiser has not made yet is None, and so is left out.
            tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items() if value is not None}
        about: dict[str, Any] = {"rows": self.rows, "scheduler": self.scheduler.state_dict(), "best": None}
        if self.best is not None:
            about["best"], values = self.best
            tensors |= {f"best.{i}": value for i, value in enumerate(values)}
        return tensors, about

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Takes a `state` back. Raises KeyError or ValueError, nothing moved, for one of other tensors."""
        count = range(len(self.trainable))
        trained = [tensors[f"trained.{i}"] for i in count]
        odd = [i for i in count if trained[i].shape != self.trainable[i].shape]
        if odd:
            raise ValueError(f"what it trains has other shapes (the first in place {odd[0]})")
        kept: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, i, *name = key.split(".", 2)
            if kind == "optimizer":
                kept.setdefault(int(i), {})[name[0]] = value
        best = None if about["best"] is None else (int(about["best"]), [tensors[f"best.{i}"] for i in count])
        self.scheduler.load_state_dict(dict(about["scheduler"]))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        for group, rate in zip(self.optimizer.param_groups, about["scheduler"]["_last_lr"], strict=True):
            group["lr"] = rate
        self.best, self.rows[:] = best, about["rows"]
        self.put(trained)
        if self.rows:
            self.judge()
