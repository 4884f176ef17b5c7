"""`spt-lens tune`: the chosen heads' slices, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spt_lens.checking import MANY
from spt_lens.cli import options
from spt_lens.cli.output import places, result_of, tell
from spt_lens.tune.config import TuneConfig

Out = Annotated[Path, typer.Option(help="The folder of the adapter.")]


def tune(
    model: options.Model,
    heads: Annotated[str, typer.Option(help='A file of a picker, its page or pick; or text, such as "L5.H3 6.1".')],
    questions: options.Questions,
    out: Out = Path("spt-lens-adapter"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the adapter in --out.")] = False,
    n: Annotated[int | None, typer.Option("--n", help="Dialogues; default: all there are.", min=2, max=MANY)] = None,
    validation: Annotated[bool, typer.Option("--validation", help="Measure the loss on that split too.")] = False,
    resume: Annotated[Path | None, typer.Option(help="A file from which a stopped run goes on.")] = None,
    lr: Annotated[float, typer.Option(help="The peak learning rate.")] = TuneConfig.lr,
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = TuneConfig.steps,
    batch_size: Annotated[int, typer.Option(help="Dialogues per step.")] = TuneConfig.batch_size,
    weight_decay: Annotated[float, typer.Option()] = TuneConfig.weight_decay,
    max_grad_norm: Annotated[float, typer.Option(help="0: no clipping.", min=0)] = TuneConfig.max_grad_norm or 0,
    warmup_share: Annotated[float, typer.Option(help="Of the steps, in which the rate climbs.")] = (
        TuneConfig.warmup_share
    ),
    schedule: Annotated[str, typer.Option(help="linear, cosine, constant or constant_with_warmup.")] = (
        TuneConfig.schedule
    ),
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option()] = TuneConfig.optimizer,
    momentum: Annotated[float, typer.Option(help="Of sgd only.")] = TuneConfig.momentum,
    seed: Annotated[int, typer.Option(help="Of the dialogues and their order.")] = TuneConfig.seed,
    projections: Annotated[str, typer.Option(help='"auto", or letters of "qkvo".')] = TuneConfig.projections,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = TuneConfig.validate_every,
    kl_weight: Annotated[float, typer.Option(help="Of KL(untuned || tuned) on ordinary texts.")] = TuneConfig.kl_weight,
    kl_batch_size: Annotated[int, typer.Option(help="Of these texts a step.")] = TuneConfig.kl_batch_size,
    micro_batch_size: Annotated[int | None, typer.Option(help="Dialogues that go through the model at once.")] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Less memory, for a forward pass more.")
    ] = False,
    save_every: Annotated[int, typer.Option(help="Steps between saves, with --resume.")] = TuneConfig.save_every,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a lower loss that end the run; the best weights stay.")
    ] = None,
    ask: options.Ask = None,
    answers: options.Answers = None,
    max_new_tokens: options.Tokens = 32,
    device: options.Device = None,
    dtype: options.Weights = "float32",
    chat_template: options.Template = None,
    system: options.System = None,
    as_json: options.Json = False,
) -> None:
    """Tune the chosen heads on the training questions, and write an adapter.

    Right first answers are to be defended, wrong ones taken back. All weights but the heads' slices stay as they are.
    """
    config = TuneConfig(
        lr=lr,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm or None,
        warmup_share=warmup_share,
        schedule=schedule,
        optimizer=optimizer,
        momentum=momentum,
        seed=seed,
        projections=projections,
        validate_every=validate_every,
        kl_weight=kl_weight,
        kl_batch_size=kl_batch_size,
        micro_batch_size=micro_batch_size,
        checkpoint_activations=checkpoint_activations,
        save_every=save_every,
        patience=patience,
    )
    validation = validation or patience is not None
    with result_of(as_json) as result:
        from spt_lens.model.ranks import warn_caller
        from spt_lens.tune.adapter import FILE

        chosen = options.heads_of(heads)
        ask = options.asks(ask, questions, answers)
        behaviour = options.behaviour_of(questions)
        splits: list[options.Split] = ["train", "validation"] if validation else ["train"]
        for split in splits:
            behaviour.of_split(split)
        folder = options.new_folder(out, "an adapter", FILE, overwrite)
        loaded = options.loaded(model, device, dtype, chat_template, system)

        from spt_lens.model.view import ModelView
        from spt_lens.tune.pinpoint import Pinpoint, pinpoint_tune

        name = ModelView(loaded).name
        Pinpoint(chosen).check(loaded)
        if (other := chosen.about.get("model", name)) != name:
            warn_caller(f"the heads were chosen on {other}, and the model is {name}: is it the one they are of?")
        if ask:
            behaviour = options.asked(behaviour, loaded, splits, answers, max_new_tokens)
        more: Any = {"resume": resume}
        if validation:
            more["validation"] = behaviour.training(split="validation", seed=seed)
        if kl_weight:
            more["keep"] = behaviour.suite("train").texts
        run = pinpoint_tune(loaded, chosen, behaviour.training(n, seed=seed), config, **more)
        run.save(folder)
        tell(run.summary())
        places(adapter=folder)
        losses = run.history["loss"].dropna().tolist() if len(run.history) else []
        result(
            {"adapter": folder, "model": name, "heads": str(run.heads), "shared": str(run.shared)}
            | {"weights": run.weights, "steps": int(run.history["step"].max()) if len(run.history) else 0}
            | {"seconds": run.seconds, "loss": [losses[0], losses[-1]] if losses else [], "way": run.way}
            | {"best_step": run.best_step, "stopped": run.stopped, "interrupted": run.interrupted}
        )
        if run.interrupted:
            raise typer.Exit(130)
