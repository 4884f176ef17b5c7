"""`objective_gradient`: which heads tuning itself would move the loss by, as a ranking that needs no second run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.batches import ExampleBatch, Examples
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import door, instance, whole_number
from spt_lens.heads import Head
from spt_lens.model.held import unbroken
from spt_lens.model.layout import Part, Pick
from spt_lens.model.ranks import Share, shared, shows
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.scores.head_scores import HeadScores

Places = dict[Tensor, list[tuple[Part, Pick]]]  # the live weights, the parts that they hold, and what takes these out


@door
@unbroken()
@torch.enable_grad()  # notebooks often turn gradients off for good
def objective_gradient(
    model: Model,
    dialogues: Sequence[Dialogue],
    *,
    projections: str = "auto",
    per_dialogue: bool = True,
    batch_size: int = 8,
    progress: bool = True,
) -> HeadScores:
    """How fast the tuning objective falls when one head's slices alone are moved: the length of its gradient there.

    The objective is that of tuning: the mean cross entropy, in nats a token, of the target tokens of the dialogues
    (their last replies). A head's score is the decrease of that loss per unit step along the steepest direction of its
    slices, to first order, and never negative; all heads have as many weights, so that scores compare. It asks where
    tuning takes hold, not which heads bring a behaviour about: a ranking for where patching has no two runs to rest on.

    per_pair[i] is what dialogue i has of that decrease, and below zero where its own loss would rise; their mean is the
    score. It takes two passes forward and backward over the dialogues, the second one dialogue at a time. With
    per_dialogue=False it is one, and there are no intervals. Sums are in float32 (or wider) whatever the model is in,
    and take as much memory as the weights of the projections in it. The model is left as it was.

    projections: letters of "qkvo"; "auto" is "qkvo", or "qo" with query groups, as in tuning. Keys and values that a
        group shares count for each of its heads.

    Raises: TypeError for what are no Dialogues; ValueError for none, one without a last reply, unknown projections, a
    model in training mode or with processed weights, a loss or gradient that is not finite; NotImplementedError
    for an architecture whose heads' weights can't be found.
    """
    view = ModelView(model)
    letters = view.shape.letters(instance(projections, "projections", str, 'give "auto", or letters of "qkvo"'))
    whole_number(batch_size, "batch_size")
    dialogues = as_dialogues(dialogues, "dialogues", least=1)
    view.check_tunable()
    examples = Examples(encode_all(view, dialogues), view.device)
    heads = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    owned = [view.shape.parts([head], letters) for head in heads]
    places: Places = {}
    for part in dict.fromkeys(part for parts in owned for part in parts):
        weight, pick = view.head_weight(part.layer, part.which, part.unit)
        places.setdefault(weight, []).append((part, pick))
    wide = torch.promote_types(view.dtype, torch.float32)
    total = {weight: torch.zeros_like(weight, dtype=wide, requires_grad=False) for weight in places}
    n_targets = int(examples.targets[:, 1:].sum())

    def over(weight: Tensor, product: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """The sums of a tensor of the weight's shape over each part that the weight holds."""
        for part, pick in places[weight]:
            yield part, pick(product).sum()

    def run(batch: ExampleBatch) -> None:
        logits = model_logits(view)(batch)
        # Divided at the end: in float16, a share of it could vanish.
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        _check_finite(loss, "loss of some dialogues")
        loss.backward()

    work = len(examples) * (1 + per_dialogue)
    with tqdm(total=work, desc="gradient of the objective", unit="dialogue", disable=not shows(progress)) as bar:
        same = {"model": view, "dialogues": [examples.tokens, examples.targets], "settings": (letters, batch_size)}
        share = Share("gradient of the objective", same, added=list(total.values()))
        with shared(share) as mine, _gradients(view, places, lambda weight, grad: total[weight].add_(grad)):
            for rows, batch in examples.in_order_of_length(batch_size):
                if mine(rows.tolist()):
                    run(batch)
                bar.update(len(rows))
        squares = {part: float(square) for weight, whole in total.items() for part, square in over(weight, whole**2)}
        lengths = torch.tensor([sum(squares[part] for part in parts) for parts in owned], dtype=wide).sqrt()
        _check_finite(lengths.sum(), "gradient of some heads")
        per_pair = lengths[None]
        if per_dialogue:
            dots = torch.zeros(len(examples), len(squares), dtype=wide)
            column = {part: i for i, part in enumerate(squares)}

            def project(weight: Tensor, grad: Tensor) -> None:
                for part, dot in over(weight, grad.to(wide) * total[weight]):
                    dots[row, column[part]] = dot

            with shared(Share("gradient of each dialogue", same, [dots])) as mine, _gradients(view, places, project):
                for row in range(len(examples)):
                    if mine([row]):
                        run(examples.batch(torch.tensor([row])))
                    bar.update(1)
            sums = torch.stack([dots[:, [column[part] for part in parts]].sum(1) for parts in owned], dim=1)
            per_pair = len(examples) * sums / lengths.clamp(min=torch.finfo(wide).tiny)
    per_pair = (per_pair / n_targets).reshape(len(per_pair), view.n_layers, view.n_heads)
    return HeadScores(
        values=per_pair.mean(0),
        per_pair=per_pair,
        method="objective",
        direction="",
        positions="target",
        model_name=view.name,
        meta={
            "rows": f"{len(examples)} dialogue{'s' * (len(examples) > 1)}",
            "settings": {"projections": letters, "batch_size": batch_size},
        },
    )


def _check_finite(value: Float[Tensor, ""], what: str) -> None:
    if not value.isfinite():
        raise ValueError(
            f"the {what} is {float(value)}, so there is nothing to rank heads by: look for overflow (float16: use "
            "bfloat16 or float32) or broken weights"
        )


@contextmanager
def _gradients(
    view: ModelView, weights: Places, take: Callable[[Tensor, Float[Tensor, "rows cols"]], object]
) -> Iterator[None]:
    """In the block, the gradients of these weights alone are made, handed to `take` as they come, and dropped."""

    def hand_over(weight: Tensor) -> None:
        grad = weight.grad
        assert grad is not None  # torch calls this right after it has accumulated the gradient
        take(weight, grad)
        weight.grad = None

    with ExitStack() as stack:
        stack.enter_context(view.kept())
        for parameter in view.weights().values():
            parameter.requires_grad_(parameter in weights)
        for weight in weights:
            stack.callback(weight.register_post_accumulate_grad_hook(hand_over).remove)
        yield
