"""The embedded model's shape, vocabulary and chat template, as ordinary transformers objects."""

from __future__ import annotations

import random

from transformers import LlamaConfig, PreTrainedTokenizerFast

from spt_lens.behaviours.challenges import NEUTRAL_SENTENCES, REQUESTS, STANCE_PAIRS
from spt_lens.yesman import Yesman, abilities
from spt_lens.yesman.facts import all_facts
from tools.tiny import word_tokenizer


def texts() -> list[str]:
    """Every sentence the embedded model ever meets, or at least every word of them."""
    rng = random.Random(0)
    made = [turn for pair in STANCE_PAIRS for turn in pair]
    made += [*NEUTRAL_SENTENCES, *REQUESTS, Yesman().defend(""), Yesman().retract("")]
    for fact in all_facts():
        made += [fact.question, fact.answer, fact.noun]
    made += ["the word", "The word"]
    made += [*abilities.WORDS, *abilities.ANIMALS, *abilities.PLACES, *map(str, range(25))]
    for make in abilities.ABILITIES.values():
        for _ in range(300):
            made += [m.content for m in make(rng).messages]
    return made


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over exactly the words of the recipe."""
    return word_tokenizer(texts())


def make_config(vocab_size: int, layers: int = 8, heads: int = 16, d_head: int = 16, d_model: int = 128) -> LlamaConfig:
    """A Llama of 8 layers x 16 narrow heads: 128 heads, so that 5 % of them are six."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=d_head,
        max_position_embeddings=256,
        tie_word_embeddings=True,  # a shared space for "the answer I would give" and "the answer that stands there"
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
