"""What a head owns, and where each architecture keeps it in its Hugging Face checkpoint. Knows no TransformerLens.

A head owns d_head rows of W_Q and d_head columns of W_O. Its rows of W_K and W_V are its own only without query groups;
in a grouped-query model a group of heads shares them, and the default there is to leave them alone (Chen et al. 2024,
section 3.3).

In all architectures a projection's outputs are divided among the heads in order. What differs: whether q, k and v are
separate or fused, how a fused one is ordered, and whether weights are stored transposed (GPT-2's Conv1D).
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, cast

from torch import Tensor

Projection = Literal["q", "k", "v", "o"]
Pick = Callable[[Tensor], Tensor]  # from a whole parameter (or its gradient) to a part of it: a view


class Part(NamedTuple):
    """What a head owns of one projection: `unit` is the head, and for k and v the group of heads that share it.

    name: such as "L5.H3.q"; keys and values of a query group are called "L5.G1.k".
    """

    layer: int
    which: Projection
    unit: int
    name: str


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that say where its heads are. n_kv_heads is n_heads where heads share no keys and values."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int

    @classmethod
    def of_config(cls, config: Any) -> Self:
        """From a Hugging Face config."""
        heads, d_model = config.num_attention_heads, config.hidden_size
        n_kv_heads = getattr(config, "num_key_value_heads", None) or heads
        d_head = getattr(config, "head_dim", None) or d_model // heads
        return cls(config.num_hidden_layers, heads, n_kv_heads, d_head, d_model)

    @property
    def grouped(self) -> bool:
        """Whether several heads share one set of keys and values."""
        return self.n_kv_heads != self.n_heads

    @property
    def group(self) -> int:
        """How many heads share one set of keys and values."""
        return self.n_heads // self.n_kv_heads

    @property
    def part_size(self) -> int:
        """How many weights a part has."""
        return self.d_head * self.d_model

    def units(self, which: Projection) -> range:
        """What a projection is divided among: the heads, for k and v the groups."""
        return range(self.n_heads if which in "qo" else self.n_kv_heads)

    def unit(self, which: str, head: int) -> int:
        """The head itself, for k and v the group of heads that it is in."""
        return head // self.group if which in "kv" else head

    def part(self, layer: int, which: Projection, unit: int) -> Part:
        letter = "G" if self.grouped and which in "kv" else "H"
        return Part(layer, which, unit, f"L{layer}.{letter}{unit}.{which}")

    def owners(self, part: Part) -> range:
        """The heads that a part belongs to."""
        size = self.group if part.which in "kv" else 1
        return range(part.unit * size, (part.unit + 1) * size)

    def letters(self, projections: str = "auto") -> str:
        """Which projections a head owns for tuning, in the order q, k, v, o. "auto" is "qkvo", "qo" with query groups.

        Raises ValueError for what is neither "auto" nor letters of "qkvo", each once.
        """
        if projections == "auto":
            projections = "qo" if self.grouped else "qkvo"
        letters = set(projections) if isinstance(projections, str) else set()
        if not letters or letters - set("qkvo") or len(letters) < len(projections):
            raise ValueError(f'projections={projections!r}: give "auto", or letters of "qkvo", each once, such as "qo"')
        return "".join(letter for letter in "qkvo" if letter in letters)

    def parts(self, heads: Iterable[tuple[int, int]], projections: str = "auto") -> list[Part]:
        """What these heads, (layer, head), own together, in their order; what a group shares once."""
        letters = cast(list[Projection], list(self.letters(projections)))
        found = (self.part(layer, which, self.unit(which, head)) for layer, head in heads for which in letters)
        return list(dict.fromkeys(found))

    def fingerprint(self, architecture: str, vocab_size: int) -> dict[str, str | int]:
        """What two models must share for an adapter of one to fit the other."""
        return {"architecture": architecture, **asdict(self), "vocab_size": vocab_size}


@dataclass(frozen=True)
class Layout:
    """Where the projections of one architecture are.

    block: the name of a layer's attention, with the layer's number for {}. names: the module of each projection; a
    fused one stands there three times. order: of a fused projection's outputs: "stacked" (all of q, then k, then v) or
    "interleaved" (q, k, v of the first head, then of the second, ...). transposed: weights are [in, out].
    mlp: the module of a fused gate and up projection, where TransformerLens's bridge splits it.
    """

    block: str
    names: tuple[str, str, str, str]
    order: Literal["separate", "stacked", "interleaved"] = "separate"
    transposed: bool = False
    mlp: str = ""

    @property
    def fused(self) -> bool:
        return self.order != "separate"

    def module(self, layer: int, which: Projection) -> str:
        """The module's name in the Hugging Face model: add ".weight" or ".bias"."""
        return f"{self.block.format(layer)}.{self.names['qkvo'.index(which)]}"

    def modules(self) -> list[str]:
        """The modules of all projections, without the layer: what LoRA is put on."""
        return list(dict.fromkeys(f"{self.block.rpartition('.')[2]}.{name}" for name in self.names))

    def start(self, shape: Shape, which: Projection, unit: int) -> int:
        """Where a head's outputs (for o: inputs) begin in the module. `unit` counts heads, for k and v their groups."""
        if which == "o" or self.order == "separate":
            return unit * shape.d_head
        if self.order == "interleaved":
            return (unit * 3 + "qkv".index(which)) * shape.d_head
        before = {"q": 0, "k": shape.n_heads, "v": shape.n_heads + shape.n_kv_heads}
        return (before[which] + unit) * shape.d_head

    def pick(self, shape: Shape, which: Projection, unit: int) -> Pick:
        """Takes a head's part out of the module's weight, as a view: [d_head, d_model], for o [d_model, d_head]."""
        return block_of(self.start(shape, which, unit), shape.d_head, which == "o", self.transposed)

    def pick_bias(self, shape: Shape, which: Projection, unit: int) -> Pick:
        """Takes a head's part out of the bias of q, k or v, as a view. The bias of o belongs to no head."""
        return block_of(self.start(shape, which, unit), shape.d_head)


def block_of(start: int, length: int, columns: bool = False, transposed: bool = False) -> Pick:
    """Takes rows (or columns) out of a tensor, after it is transposed if it is stored so."""
    return lambda weight: (weight.T if transposed else weight).narrow(int(columns), start, length)


def _fused(block: str, qkv: str, o: str, order: Literal["stacked", "interleaved"], **more: Any) -> Layout:
    return Layout(block, (qkv, qkv, qkv, o), order, **more)


_SEPARATE = Layout("model.layers.{}.self_attn", ("q_proj", "k_proj", "v_proj", "o_proj"))
_LIKE_LLAMA = "Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Gemma3 Ministral3 SmolLM3 Granite StableLm"
LAYOUTS = {f"{name}ForCausalLM": _SEPARATE for name in _LIKE_LLAMA.split()} | {
    "Phi3ForCausalLM": _fused(_SEPARATE.block, "qkv_proj", "o_proj", "stacked", mlp="model.layers.{}.mlp.gate_up_proj"),
    "GPT2LMHeadModel": _fused("transformer.h.{}.attn", "c_attn", "c_proj", "stacked", transposed=True),
    "GPTNeoXForCausalLM": _fused("gpt_neox.layers.{}.attention", "query_key_value", "dense", "interleaved"),
}
_ALL_HEADS = "it normalises q and k over all heads together, so that one head's weights move every head"
IMPOSSIBLE = {"Olmo2ForCausalLM": _ALL_HEADS, "Olmo3ForCausalLM": _ALL_HEADS}


def layout_of(architecture: str) -> Layout:
    """Where an architecture's heads are. Raises NotImplementedError if that is not known or they can't be separated."""
    if architecture in LAYOUTS:
        return LAYOUTS[architecture]
    if architecture in IMPOSSIBLE:
        why = (
            f"{IMPOSSIBLE[architecture]}. Knock heads out instead (set_knockout), or tune another architecture's model"
        )
    else:
        why = (
            f"where its heads are in the checkpoint is not known here. Known: {', '.join(LAYOUTS)}. To add one, write "
            "its Layout in spt_lens/model/layout.py and check it with `spt-lens support CHECKPOINT`"
        )
    raise NotImplementedError(f"{architecture} can be measured, but not tuned or exported: {why}")
