"""spt_lens: which few attention heads make a model give in when its user pushes back, and changing only those.

model = spt.load_model("yesman")
behaviour = Yesman()  # of spt_lens.yesman; for your own model, spt.AreYouSure(your questions)
pairs = behaviour.pairs(model)
scores = spt.activation_patching(model, pairs)
heads = scores.top_fraction(0.05)
run = spt.pinpoint_tune(model, heads, behaviour.training())
spt.evaluate(model, behaviour, reference=run.adapter)
"""

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.behaviours.datasets import model_written_evals, sycophancy_eval
from spt_lens.behaviours.opinions import Opinions
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.judge import Judge
from spt_lens.chat.template import use_chat_template
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.attention import attention_before_after
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.export.hf import export_hf
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.measure.attention_view import attention_view
from spt_lens.measure.cost import cost
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.null import random_pairs_null
from spt_lens.measure.replies import replies
from spt_lens.measure.report import head_report
from spt_lens.measure.sets import set_patching
from spt_lens.model.loading import load_model
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.patching.path import path_patching
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig

__all__ = [
    "AreYouSure",
    "Behaviour",
    "Judge",
    "Opinions",
    "Question",
    "Adapter",
    "ContrastPairs",
    "Dialogue",
    "Head",
    "HeadPicker",
    "HeadScores",
    "HeadSet",
    "Message",
    "Suite",
    "TuneConfig",
    "activation_patching",
    "attention_before_after",
    "attention_to_spans",
    "attention_view",
    "attribution_patching",
    "cost",
    "evaluate",
    "export_hf",
    "head_knockout",
    "head_report",
    "load_model",
    "mean_scores",
    "model_written_evals",
    "path_patching",
    "pinpoint_tune",
    "random_pairs_null",
    "replies",
    "screened_patching",
    "set_knockout",
    "set_patching",
    "sycophancy_eval",
    "use_chat_template",
]
