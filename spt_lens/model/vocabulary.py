"""Words that a tokenizer does not have: it reads each as "unknown", so that no model can answer to what was said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import ModelView

MOST = 0.5  # of the words' tokens: from there on nothing is left to answer to
SHOWN = 8  # words, and names, that are listed


def check_words(
    view: ModelView, said: Mapping[str, Sequence[str]], way_out: str, own: bool = True, most: float = MOST
) -> None:
    """Warns once, by name, of words that the tokenizer reads as unknown; refuses what has hardly others.

    said: what the user says, by what it is called ("turn 1"). own: they are the user's own words; of others, which he
    did not choose, none may be missing. most: the share of tokens from which on it refuses; math.inf: it warns alone.
    Tokenizers that can spell any word have them all.

    Raises: ValueError where so many of the tokens of one of them are unknown; not `own`: where any is.
    """
    unknown = getattr(view.tokenizer, "unk_token_id", None)
    if unknown is None:
        return

    def ids(text: str) -> list[int]:
        return list(view.tokenizer(text, add_special_tokens=False)["input_ids"])

    found = []
    for name, texts in said.items():
        read = {text: ids(text) for text in dict.fromkeys(texts)}
        within = (word for text, each in read.items() if unknown in each for word in text.split())
        bare = dict.fromkeys(word.strip(".,;:!?\"'()[]") for word in within)
        words = [word[:40] for word in bare if unknown in ids(word)]
        if not words:  # all are known, or all but a mark
            continue
        tokens = [token for text in read for token in ids(_words(text))]
        lost = tokens.count(unknown)
        found.append(f"{name} ({_few(words)})")
        if lost >= most * len(tokens) or not own:
            raise ValueError(
                f"{name} has {lost} words of {len(tokens)} that the tokenizer of {view.name} does not have "
                f"({_few(words)}), and reads as unknown: {way_out}"
            )
    if found:
        warn_caller(
            f"the tokenizer of {view.name} does not have words that the user says, and reads them as unknown, in "
            f"{_few(found)}: {way_out}"
        )


def _words(text: str) -> str:
    """Without marks, which say nothing."""
    return re.sub(r"[^\w\s']", " ", text)


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
