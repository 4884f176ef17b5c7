"""Chat templates in the manner of well-known models, and tokenizers of the usual kinds, trained on a few sentences."""

from __future__ import annotations

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tools.yesman.build import make_tokenizer, texts

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for message in rest %}" + _ALTERNATE + "{% set text = message['content'] | trim %}"
    "{% if loop.first and system %}{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + text %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + text + ' [/INST]' }}"
    "{% else %}{{ ' ' + text + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    + _ALTERNATE
    + "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
# A reply after the last user turn gets an empty thinking block; so does the generation prompt, without thinking.
QWEN3 = (
    "{% set last = namespace(user=0) %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set last.user = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' and loop.index0 > last.user %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
# Of a model that always thinks: its generation prompt opens a block that the template closes in another way.
THINKER = QWEN3.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    "{{ '<think>Let me see' }}",
)
# As R1's distillations: opens a thinking part for every reply, and keeps of a reply only what follows its end.
R1 = (
    "{{ bos_token }}{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'system' %}{{ text }}{% elif message['role'] == 'user' %}{{ '<|User|>' + text }}"
    "{% else %}{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + text + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
# As Qwen3's thinking models: opens it for every reply, writes an empty one before the last, strips earlier ones.
QWEN3_THINKING = QWEN3.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    "{{ '<think>\\n' }}",
)
# As Phi-3's: after the last end mark, the end of all text.
PHI3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# name -> (template, what ends a reply, whether it takes a system message)
TEMPLATES = {
    "llama2": (LLAMA2, "<end>", True),
    "llama3": (LLAMA3, "<|eot_id|>", True),
    "chatml": (CHATML, "<|im_end|>", True),
    "gemma": (GEMMA, "<end_of_turn>", False),
    "mistral": (MISTRAL, "<end>", False),
    "qwen3": (QWEN3, "<|im_end|>", True),
}
_MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]
_MARKS += ["<start_of_turn>", "<end_of_turn>"]
_GPT4 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TOKENIZERS = ("words", "gpt2", "gpt4", "sentencepiece")


def make(kind: str, template: str | None = None, eos: bool = True, bos: bool = True) -> PreTrainedTokenizerFast:
    """A fresh tokenizer of one of the TOKENIZERS, with the templates' marks as special tokens."""
    if kind == "words":
        tokenizer = make_tokenizer()
    else:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained(kind)))
        tokenizer.bos_token = "<s>" if bos else None
        tokenizer.eos_token = "<end>" if eos else None
    tokenizer.add_tokens(_MARKS, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


@cache
def _trained(kind: str) -> str:
    """A small byte-level BPE with the splits of GPT-2 or GPT-4, or a BPE that marks spaces as SentencePiece does."""
    special = ["<s>", "<end>"]
    sentences = [*texts(), "User: Is it so?\nAssistant: (A) or (B), 42."]
    if kind == "sentencepiece":
        special += ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        raw.train_from_iterator(
            sentences, trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
        )
        raw.pre_tokenizer = None
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return raw.to_str()
    raw = Tokenizer(models.BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    splits = [] if kind == "gpt2" else [pre_tokenizers.Split(Regex(_GPT4), behavior="isolated")]
    raw.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_only])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(sentences, trainer)
    return raw.to_str()
