"""spt_lens: which few attention heads make a model do what it does, and changing only those.

model = spt.load_model("path/to/checkpoint")
behaviour = spt.AreYouSure([("What is the capital of France?", "Paris", "Lyon"), ...])
pairs = behaviour.pairs(model)
scores = spt.activation_patching(model, pairs)
heads = scores.top_fraction(0.05)
tuned = spt.pinpoint_tune(model, heads, behaviour.training())
spt.evaluate(model, behaviour, reference=tuned.adapter)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spt_lens.behaviours.are_you_sure import AreYouSure
    from spt_lens.behaviours.behaviour import Behaviour
    from spt_lens.behaviours.opinions import Opinions, pairs
    from spt_lens.behaviours.pressure import pressure_suite
    from spt_lens.behaviours.question import Question
    from spt_lens.behaviours.suite import Suite
    from spt_lens.chat.dialogues import Dialogue
    from spt_lens.data.pairs import ContrastPairs
    from spt_lens.evaluate.compare import compare
    from spt_lens.evaluate.evaluate import evaluate
    from spt_lens.evaluate.pressed import pressed
    from spt_lens.evaluate.repatch import repatch
    from spt_lens.export.hf import export_hf
    from spt_lens.heads import HeadSet
    from spt_lens.measure.cost import cost
    from spt_lens.measure.head_knockout import head_knockout
    from spt_lens.measure.knockout import set_knockout
    from spt_lens.measure.null import random_pairs_null
    from spt_lens.measure.objective import objective_gradient
    from spt_lens.measure.report import head_report
    from spt_lens.measure.sets import set_patching
    from spt_lens.model.loading import load_model
    from spt_lens.model.replies import replies
    from spt_lens.patching.activation import activation_patching
    from spt_lens.patching.attribution import attribution_patching, screened_patching
    from spt_lens.patching.path import path_patching
    from spt_lens.picker.picker import HeadPicker
    from spt_lens.scores.head_scores import HeadScores
    from spt_lens.study.ranked import rankings
    from spt_lens.study.study import Study
    from spt_lens.tune.adapter import Adapter
    from spt_lens.tune.pinpoint import pinpoint_tune
    from spt_lens.tune.training import TuneConfig

__all__ = [
    "Adapter",
    "AreYouSure",
    "Behaviour",
    "ContrastPairs",
    "Dialogue",
    "HeadPicker",
    "HeadScores",
    "HeadSet",
    "Opinions",
    "Question",
    "Study",
    "Suite",
    "TuneConfig",
    "activation_patching",
    "attribution_patching",
    "compare",
    "cost",
    "evaluate",
    "export_hf",
    "head_knockout",
    "head_report",
    "load_model",
    "objective_gradient",
    "pairs",
    "path_patching",
    "pinpoint_tune",
    "pressed",
    "pressure_suite",
    "random_pairs_null",
    "rankings",
    "repatch",
    "replies",
    "screened_patching",
    "set_knockout",
    "set_patching",
]

# Where each name is imported from when it is first used: a name needs what it needs, and `import spt_lens` nothing.
_PLACES = {
    "Adapter": "tune.adapter",
    "AreYouSure": "behaviours.are_you_sure",
    "Behaviour": "behaviours.behaviour",
    "ContrastPairs": "data.pairs",
    "Dialogue": "chat.dialogues",
    "HeadPicker": "picker.picker",
    "HeadScores": "scores.head_scores",
    "HeadSet": "heads",
    "Opinions": "behaviours.opinions",
    "Question": "behaviours.question",
    "Study": "study.study",
    "Suite": "behaviours.suite",
    "TuneConfig": "tune.training",
    "activation_patching": "patching.activation",
    "attribution_patching": "patching.attribution",
    "compare": "evaluate.compare",
    "cost": "measure.cost",
    "evaluate": "evaluate.evaluate",
    "export_hf": "export.hf",
    "head_knockout": "measure.head_knockout",
    "head_report": "measure.report",
    "load_model": "model.loading",
    "objective_gradient": "measure.objective",
    "pairs": "behaviours.opinions",
    "path_patching": "patching.path",
    "pinpoint_tune": "tune.pinpoint",
    "pressed": "evaluate.pressed",
    "pressure_suite": "behaviours.pressure",
    "random_pairs_null": "measure.null",
    "rankings": "study.ranked",
    "repatch": "evaluate.repatch",
    "replies": "model.replies",
    "screened_patching": "patching.attribution",
    "set_knockout": "measure.knockout",
    "set_patching": "measure.sets",
}
# The folder of this name is imported before anything in it is: later, it would take the place of the function.
import_module("spt_lens.evaluate")
globals().pop("evaluate", None)  # none where this module is loaded again


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'spt_lens' has no attribute {name!r}")
    found = getattr(import_module(f"spt_lens.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
