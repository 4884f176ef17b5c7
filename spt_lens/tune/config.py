"""The settings of a tuning run."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from spt_lens.checking import door, number, one_of, seed_number, whole_number

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
_HOW = ("checkpoint_activations", "save_every")  # these change how a run is done, and not one bit of what comes of it
_LATER = {"micro_batch_size": None, "patience": None}  # and their defaults: files from before know nothing of them


@door
@dataclass(frozen=True)
class TuneConfig:
    """Settings of one run; the same ones serve every method.

    lr: the peak learning rate. steps: of the optimiser. batch_size: dialogues per step (all, if there are fewer).
    warmup_share: share of the steps in which the rate climbs to `lr`. max_grad_norm: None for no clipping.
    momentum: of "sgd" only. validate_every: steps between validations, if there are validation dialogues.
    kl_weight: weight of KL(untuned || tuned), in nats per token, on `keep` dialogues, `kl_batch_size` of them a step.
    projections: "auto" ("qkvo", or "qo" in a grouped-query model), or letters of "qkvo"; pinpoint tuning only.

    For long runs, and where memory is short: micro_batch_size: dialogues that go through the model at once, for the
    same step to rounding; None for the whole batch. checkpoint_activations: each block's activations are made again in
    the backward pass, and not kept: the same step bit for bit, for a forward pass more. save_every: steps between
    saves, with `resume`. patience: so many validations in a row without a lower validation_loss end the run, and the
    weights of the best one stay; the schedule is that of all `steps` all the same.

    Raises ValueError or TypeError for a value that can't be meant.
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
    micro_batch_size: int | None = None
    checkpoint_activations: bool = False
    save_every: int = 50
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "kl_batch_size", "save_every"):
            whole_number(getattr(self, name), f"TuneConfig.{name}")
        for name in ("micro_batch_size", "patience"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), f"TuneConfig.{name}")
        for name in ("weight_decay", "momentum", "kl_weight"):
            number(getattr(self, name), f"TuneConfig.{name}", least=0)
        for name in ("lr", "max_grad_norm") if self.max_grad_norm is not None else ("lr",):
            number(getattr(self, name), f"TuneConfig.{name}", above=0)
        seed_number(self.seed, "TuneConfig.seed")
        number(self.warmup_share, "TuneConfig.warmup_share", least=0, below=1)
        one_of(self.schedule, "TuneConfig.schedule", SCHEDULES)

    def lower(self) -> str:
        """What to lower where a run diverges."""
        decays = self.lr * self.weight_decay > 1  # by more than the whole weight in a step
        return f"lower lr ({self.lr})" + f" or weight_decay ({self.weight_decay})" * decays

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what comes of a run, for files and fingerprints.

        Those that came later are left out where they are at their defaults: what was saved before they came still fits.
        """
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _HOW and not (name in _LATER and value == _LATER[name])
        }
