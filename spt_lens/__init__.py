"""spt_lens: which few attention heads make a model do what it does, and changing only those.

model = spt.load_model("path/to/checkpoint")
behaviour = spt.AreYouSure([("What is the capital of France?", "Paris", "Lyon"), ...])
pairs = behaviour.pairs(model)
scores = spt.activation_patching(model, pairs)
heads = scores.top_fraction(0.05)
tuned = spt.pinpoint_tune(model, heads, behaviour.training())
spt.evaluate(model, behaviour, reference=tuned.adapter)
"""

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.evaluate import evaluate
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
    "path_patching",
    "pinpoint_tune",
    "random_pairs_null",
    "replies",
    "screened_patching",
    "set_knockout",
    "set_patching",
]
