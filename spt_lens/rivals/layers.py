"""LoRA and full fine-tuning of some layers alone: what a choice of heads is worth beside a choice of their layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spt_lens.checking import door, whole_number
from spt_lens.model.layout import layout_of
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.plain import plain_model
from spt_lens.tune.slices import whole_weights
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Trainable


@door
@dataclass(frozen=True)
class LayerFullFineTuning(FullFineTuning):
    """Trains all weights of these layers' blocks, attention and MLP, and none besides: as `FullFineTuning`."""

    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _layers(self.layers))

    @property
    def method(self) -> str:  # type: ignore[override]
        return f"full fine-tuning of layers {_listed(self.layers)}"

    def check(self, model: Model) -> None:
        super().check(model)
        check_layers(ModelView(model), self.layers)

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        plain = plain_model(view)
        name = layout_of(view.architecture).block.rpartition(".")[0]
        blocks = tuple(f"{name.format(layer)}." for layer in self.layers)
        for each, weight in plain.named_parameters():
            weight.requires_grad_(each.startswith(blocks))
        yield Trainable.of_plain(plain, view, lambda: view.load_plain(plain), whole_weights(view))


@door
@dataclass(frozen=True)
class LayerLoRA(LoRA):
    """LoRA on the attention projections of these layers alone: as `LoRA`."""

    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", _layers(self.layers))

    @property
    def method(self) -> str:
        return f"LoRA, rank {self.rank}, on layers {_listed(self.layers)}"

    def check(self, model: Model) -> None:
        super().check(model)
        check_layers(ModelView(model), self.layers)

    def where(self, view: ModelView) -> dict[str, Any]:
        return {**super().where(view), "layers_to_transform": list(self.layers)}


def _layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    found = tuple(sorted({whole_number(layer, "one of layers", 0) for layer in layers}))
    if not found:
        raise ValueError("layers is empty: give one or more, such as those of the chosen heads")
    return found


def check_layers(view: ModelView, layers: tuple[int, ...]) -> None:
    """Raises ValueError for a layer that the model lacks."""
    if layers[-1] >= view.n_layers:
        raise ValueError(f"layer {layers[-1]} does not exist: {view.name} has layers 0 to {view.n_layers - 1}")


def _listed(layers: tuple[int, ...]) -> str:
    return " ".join(map(str, layers))
