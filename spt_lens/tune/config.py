"""The settings of a tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class TuneConfig:
    """Settings of one run; the same ones serve pinpoint tuning, full fine-tuning and LoRA.

    lr: the peak learning rate. steps: optimiser steps. batch_size: dialogues per step (all of them, if there are
    fewer).
    warmup_share: share of the steps in which the rate climbs to `lr`. max_grad_norm: None for no clipping.
    momentum: of "sgd" only. validate_every: steps between validations, if there are validation dialogues.
    kl_weight: weight of KL(untuned || tuned), in nats per token, on `keep` dialogues, `kl_batch_size` of them a step.
    projections: "auto" ("qkvo", or "qo" in a grouped-query model), or letters of "qkvo"; pinpoint tuning only.

    Raises:
        ValueError: for a value that can't be meant.
    """

    lr: float = 1e-3
    steps: int = 200
    batch_size: int = 16
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    warmup_share: float = 0.05
    schedule: str = "linear"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    seed: int = 0
    projections: str = "auto"
    validate_every: int = 50
    kl_weight: float = 0.0
    kl_batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "kl_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"TuneConfig.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("weight_decay", "momentum", "kl_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TuneConfig.{name} is {getattr(self, name)}; it must not be negative.")
        if not self.lr > 0:
            raise ValueError(f"TuneConfig.lr is {self.lr}; it must be positive.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"TuneConfig.max_grad_norm is {self.max_grad_norm}; give a positive number, or None.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"TuneConfig.warmup_share is {self.warmup_share}; it must be in [0, 1).")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"TuneConfig.schedule is {self.schedule!r}; choose from {', '.join(SCHEDULES)}.")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"TuneConfig.optimizer is {self.optimizer!r}; choose adamw or sgd.")
