"""Which tokens of a prompt are the question, the first answer, the challenge, and which the chat template's own.

Chen et al. 2024, step 1, compare how much of their attention heads put on the challenge sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.template import prompt_ids, rendered

TEMPLATE, TURN = "template", "challenge"


def spans(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> dict[str, list[int]]:
    """Token positions of each turn's content in `prompt_ids(tokenizer, dialogue)`, in the order of the turns.

    Keys: "system"; "question", the first user turn; "first answer", the first assistant turn; "challenge", the last
    user turn if it isn't the first; any other turn by role and number ("user 2", "assistant 2"); and, last,
    "template" for all other tokens: special tokens, role marks, what opens the reply. Every position is in exactly one
    of them. A token that covers part of a content and part of what surrounds it belongs to the content, unless it is
    only white space that they share; white space around a content is the template's.

    Contents are told from the template's own words by rendering the dialogue a second time with other contents, so that
    a turn that reads "user" is not taken for a role mark.

    Raises: ValueError as prompt_ids does; if the chat template leaves a turn out, writes it twice or rewrites it; or
    for a tokenizer that does not know which characters its tokens cover (a slow one).
    """
    length = len(prompt_ids(tokenizer, dialogue))
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or ''} is a slow one and can't tell which characters a token "
            "covers: load a fast tokenizer (transformers' AutoTokenizer gives one where there is one)"
        )
    text = rendered(tokenizer, dialogue, generation_prompt=True)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    extents = _extents(tokenizer, dialogue, text)
    found: dict[str, list[int]] = {name: [] for name in (*span_names(dialogue), TEMPLATE)}
    for position, (start, end) in zip(range(length), offsets, strict=True):
        inside = (name for name, (first, last) in extents.items() if start < last and end > first)
        found[next(inside, TEMPLATE)].append(position)
    return found


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of all, which these texts make up together.

    A token alone is decoded otherwise: without the space before it (SentencePiece), or as no letter at all, being some
    of its bytes. Of the tokens that write one letter, the last has it, and the others have "".
    """
    found: list[str] = []
    start = done = 0  # decoded anew from the last text's tokens on, which is enough to tell a space
    for i in range(len(ids)):
        before, text = (tokenizer.decode(list(ids[start:end]), **_AS_IT_IS) for end in (done, i + 1))
        if text.endswith(_UNFINISHED) and i + 1 < len(ids):
            found.append("")
            continue
        found.append(text[len(before) :])
        start, done = done, i + 1
    return found


_UNFINISHED = "\ufffd"  # how a tokenizer writes the first bytes of a letter
_AS_IT_IS: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}


def span_names(dialogue: Dialogue) -> list[str]:
    """The name of each turn's span, in order."""
    users = [i for i, message in enumerate(dialogue.messages) if message.role == "user"]
    named = {("system", 1): "system", ("user", 1): "question", ("assistant", 1): "first answer"}
    counts: dict[str, int] = {}
    names = []
    for i, message in enumerate(dialogue.messages):
        count = counts[message.role] = counts.get(message.role, 0) + 1
        last = len(users) > 1 and i == users[-1]
        names.append(TURN if last else named.get((message.role, count), f"{message.role} {count}"))
    return names


def _extents(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, text: str) -> dict[str, tuple[int, int]]:
    """Where each content stands in the rendered text, first to past-the-last character, without space around it."""
    names = span_names(dialogue)
    marks = [f"contentofturn{i}z" for i in range(len(names))]  # letters and digits, which no template escapes
    marked = tuple(Message(m.role, mark) for m, mark in zip(dialogue.messages, marks, strict=True))
    shape = rendered(tokenizer, Dialogue(marked), generation_prompt=True)
    for i, mark in enumerate(marks):
        times = shape.count(mark)
        if times != 1:
            what = "leaves out or rewrites" if times == 0 else f"writes {times} times"
            raise ValueError(f"the chat template {what} {_turn(dialogue, i)}, so its tokens can't be told: {_ADVICE}")
    # Some templates move a system message to another place, so the turns come in the order in which they are written.
    parts = re.split(f"({'|'.join(marks)})", shape)
    at = len(parts[0])
    if not text.startswith(parts[0]):
        raise ValueError(f"the chat template begins in another way with other contents: {_ADVICE}")
    extents = {}
    for mark, after in zip(parts[1::2], parts[2::2], strict=True):
        i = marks.index(mark)
        content = dialogue.messages[i].content
        variants = (content, content.strip(), content.lstrip(), content.rstrip())
        written = next((v for v in variants if text.startswith(v + after, at)), None)
        if written is None:
            raise ValueError(
                f"the chat template rewrites {_turn(dialogue, i)}: its text is not found where it should stand, in "
                f"{text[at : at + 60]!r}: {_ADVICE}"
            )
        first = at + len(written) - len(written.lstrip())
        extents[names[i]] = (first, first + len(written.strip()))
        at += len(written) + len(after)
    return {name: extents[name] for name in names if extents[name][0] < extents[name][1]}


_ADVICE = "use a template that writes every turn once and as it is (spt_lens.chat.template.use_chat_template)"


def _turn(dialogue: Dialogue, i: int) -> str:
    message = dialogue.messages[i]
    short = message.content if len(message.content) <= 40 else f"{message.content[:40]}..."
    return f"turn {i + 1} ({message.role}: {short!r})"
