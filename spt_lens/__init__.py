"""spt_lens: which few attention heads make a model give in when its user pushes back, and changing only those.

model = spt.load_model("yesman")
pairs = spt.are_you_sure(model)
scores = spt.head_recovery(model, pairs)
heads = scores.top_fraction(0.05)
run = spt.pinpoint_tune(model, heads, spt.are_you_sure_training(model))
spt.evaluate(model, reference=run.adapter)
"""

from spt_lens.data.dialogues import Dialogue, Message
from spt_lens.data.encode import use_chat_template
from spt_lens.data.loaders import model_written_evals, sycophancy_eval
from spt_lens.data.pairs import ContrastPairs, are_you_sure, are_you_sure_training
from spt_lens.data.rows import LoadedRows
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.suite import Suite, yesman_suite
from spt_lens.export.hf import export_hf
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.measure.cost import cost
from spt_lens.measure.curve import recovery_curve
from spt_lens.measure.generate import replies
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.measure.joint import joint_knockout, joint_recovery
from spt_lens.measure.knockout import knockout_curve
from spt_lens.measure.recovery import head_recovery, random_pairs_null
from spt_lens.measure.report import head_report
from spt_lens.measure.set_effect import set_effect
from spt_lens.models import load_model
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores import HeadScores, mean_scores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.trainer import pinpoint_tune
from spt_lens.view.attention import attention_before_after, attention_view

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
    "are_you_sure",
    "are_you_sure_training",
    "attention_before_after",
    "attention_to_spans",
    "attention_view",
    "cost",
    "evaluate",
    "export_hf",
    "head_knockout",
    "head_recovery",
    "head_report",
    "joint_knockout",
    "joint_recovery",
    "knockout_curve",
    "load_model",
    "mean_scores",
    "model_written_evals",
    "pinpoint_tune",
    "random_pairs_null",
    "recovery_curve",
    "replies",
    "set_effect",
    "sycophancy_eval",
    "use_chat_template",
    "yesman_suite",
]
