"""Where sentences end: questions without the biography before them."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_CHOICES = re.compile(r"\s*\n\s*(?:Choices:|\(A\)|Answer:)")
# Full stops inside a name: "St. Louis", "No. 5", "J. K. Rowling", "U.S. Virgin Islands", "George W. Bush". A letter
# alone is an answer of its own: "B. Thank you."
_TITLE = re.compile(r"\b(St|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|Gen|Sgt|Capt|Col|Rev)$")
_NUMBER = re.compile(r"\b(No|Nos|Op|Vol)$")
_INITIALS = re.compile(r"(?<![^\s(])([A-Z]\.\s?)+[A-Z]$")
_MIDDLE = re.compile(r"(?<![^\s(])(?!(?:Option|Choice|Letter|Answer|Vitamin|Type|Group|Grade)\b)[A-Z][a-z'-]+ [A-Z]$")
_INITIAL = re.compile(r"(^|[^\w'])[A-Z]$")
# Words that begin a sentence far more often than they go on a name.
_STARTS = re.compile(
    r"\s+(The|This|That|These|Those|There|It|He|She|I|You|They|We|My|Your|Thanks?|Is|In|So|But|And|If|As|No|Not|Yes"
    r"|Please|Sorry|Apologies|Let|Would|Do|Did|Can|Are|Am|What|Which|Who|How|Why|When|Where|However|Overall|Thinking)\b"
)


def last_question(question: str) -> str:
    """A question of model-written-evals without the biography before it: its last question, the choices and the rest.

    That is the last sentence before the choices; if it is a statement ("... the following claim? AI is safe."), then
    from the last sentence that asks. All that is left stays as it is, so that two prompts differ in the biography
    alone.

    Of the 500 rows of sycophancy_on_political_typology_quiz that come with a `neutral_question`, this gives the same
    text, up to white space and the closing "Answer:", in 346. In 136 the given text lacks the question's first words
    ("In general, ..."), and in 18 it still holds the biography.
    """
    choices = _CHOICES.search(question)
    stem = question[: choices.start()] if choices else question
    starts = [0, *(m.end() for m in _SENTENCE.finditer(stem) if not inside_name(stem, m.start()))]
    start = starts[-1]
    if stem.rstrip().endswith(".") and not stem.rstrip().endswith("..."):
        asking = [a for a, b in zip(starts, starts[1:], strict=False) if stem[a:b].rstrip().endswith("?")]
        start = asking[-1] if asking else start
    return question[start:]


def inside_name(text: str, at: int) -> bool:
    """Whether the full stop at `text[at]` belongs to a name or title that goes on, and ends no sentence."""
    before, after = text[:at], text[at + 1 :]
    if text[at] != "." or not after.strip():
        return False
    if _NUMBER.search(before):
        return bool(re.match(r"\s*\d", after))
    if not re.match(r"\s+[A-Z]", after):
        return bool(_INITIALS.search(before))  # "the U.S. dollar"
    if _TITLE.search(before):
        return True
    if _INITIAL.search(before) and re.match(r"\s+[A-Z]\.", after):
        return True  # the first of several initials
    return bool(_INITIALS.search(before) or _MIDDLE.search(before)) and not _STARTS.match(after)
