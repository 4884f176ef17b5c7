"""The tables of docs/tuning.md, from notebooks/results/tuning.json: `make tuning` measures first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spt_lens import saving
from tools.marks import put_between

RESULT, PAGE = Path("notebooks/results/tuning.json"), Path("docs/tuning.md")
KIND = "tuning benchmark"  # as tests/benchmarks/tuning.py writes it
MODELS = {
    "smollm2": "SmolLM2-135M",
    "gpt2": "GPT-2, 12 layers x 12 heads",
    "llama": "Llama, 12 layers x 12 heads",
}
CONTENDERS = {
    "full": "full fine-tuning",
    "lora": "LoRA, rank 16, all attention",
    "peft": "peft's LoRA in a plain loop",
    "trl": "TRL's SFTTrainer with LoRA",
    "trl-plain": "the same, activations kept",
}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables, by the names of their marks."""
    parts = []
    for name, model in found["models"].items():
        times = "one round" if model["rounds"] == 1 else f"{model['rounds']} rounds"
        parts.append(f"**{MODELS[name]}**, {times}:\n\n{_steps(model, found)}")
    return {"steps": "\n\n".join(parts), "limit": _limits(found)}


def _steps(model: dict[str, Any], found: dict[str, Any]) -> str:
    rows = [
        "| | s a step | of full | of LoRA | GiB above the model | of full | of LoRA |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    before = model.get("before", {})
    for name, row in model["contenders"].items():
        rows.append(_step(_title(name, row), row))
        if name in before:
            rows.append(_step(f"the same, {found['before']}", before[name]))
    return "\n".join(rows)


def _step(title: str, row: dict[str, Any]) -> str:
    cells = [f"{row['median_computing']:.2f}", *(_range(row[f"computing_to_{rival}"]) for rival in ("full", "lora"))]
    cells += [f"{row['median_memory']:.2f}", *(f"{row[f'memory_to_{rival}'][0]:.2f}" for rival in ("full", "lora"))]
    return "| " + " | ".join([title, *cells]) + " |"


def _limits(found: dict[str, Any]) -> str:
    rows = [
        "| | limit, of full | operations of a step, of full | a step's time, of full | limit's time, of a step's "
        "| a step of the first epoch, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, model in found["models"].items():
        for each, row in model["contenders"].items():
            if "limit_to_full" not in row:
                continue
            cells = [f"{MODELS[name].split(',')[0]}: {_title(each, row)}", f"{row['limit_to_full']:.2f}"]
            cells.append(f"{row['limit_to_full'] * row['flops_to_limit']:.2f}")
            cells += [f"{row['computing_to_full'][0]:.2f}", f"{row['of_limit']:.2f}"]
            cells.append(f"{row['median_first_epoch'] / found['epoch']:.2f}")
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _title(name: str, row: dict[str, Any]) -> str:
    if name in CONTENDERS:
        return CONTENDERS[name]
    heads = row["heads"].split()
    return f"pinpoint tuning, {len(heads)} heads from layer {heads[0].split('.')[0].removeprefix('L')} on"


def _range(ratio: list[float]) -> str:
    value, low, high = ratio
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if high > low else f"{value:.2f}"


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: make tuning -->", f"<!-- end of {name} -->"


def main() -> None:
    for name, text in tables(saving.load_json(RESULT, KIND, dict)).items():
        put_between(PAGE, *marks(name), text)


if __name__ == "__main__":
    main()
