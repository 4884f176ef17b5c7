"""spt_lens: which few attention heads make a model give in when its user pushes back, and changing only those.

model = spt.load_model("yesman")
pairs = spt.are_you_sure(model)
scores = spt.activation_patching(model, pairs)
heads = scores.top_fraction(0.05)
run = spt.pinpoint_tune(model, heads, spt.are_you_sure_training(model))
spt.evaluate(model, reference=run.adapter)
"""

from spt_lens.behaviours.are_you_sure import are_you_sure, are_you_sure_training
from spt_lens.behaviours.datasets import model_written_evals, sycophancy_eval
from spt_lens.behaviours.rows import LoadedRows
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, Message
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
from spt_lens.patching.attribution import attribution_patching
from spt_lens.patching.path import path_patching
from spt_lens.patching.screened import screened_patching
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman.suite import yesman_suite

__all__ = [
    "Adapter",
    "ContrastPairs",
    "Dialogue",
    "Head",
    "HeadPicker",
    "HeadScores",
    "HeadSet",
    "LoadedRows",
    "Message",
    "Suite",
    "TuneConfig",
    "activation_patching",
    "are_you_sure",
    "are_you_sure_training",
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
    "yesman_suite",
]
