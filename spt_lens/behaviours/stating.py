"""What a reply says the answer is, where nobody knows it beforehand: Perth in "The capital of Australia is Perth."."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")
_IS = re.compile(r"(?:\b(?:is|are|was|were|should be|would be|must be)|'s)\b:?\s+", re.IGNORECASE)
_LETTER = re.compile(r"\(?\b([A-Z])\)")
_SUBJECT = re.compile(r"\b(it|answer|that)\s*$", re.IGNORECASE)
_IT = re.compile(r"\b(it|that)\s*$", re.IGNORECASE)
_PARTICIPLE = re.compile(r"(ed|ing)\b")  # "it is provided by ..."
_ADVERBS = re.compile(
    r"^(?:(?:\w+ly|indeed|in fact|often|still|now|also|either|known as|called|named|referred to as)\b,?\s*)+",
    re.IGNORECASE,
)
# Where a name ends: "Herat, a city in ...", "Port-au-Prince which ...".
_END = re.compile(
    r"[.,;:!?](?=\s|$)|\s+(?:which|who|that|and|or|because|since|in|as|but|for|with|not)\b|\s[-–—]\s|\s\(|\n"
)
_QUOTED = re.compile(r"^[\"“*]+([^\"”*]+)[\"”*]")
# What is no name: "not a country", "located in", "correct".
_NO_NAME = re.compile(
    r"^(?:not|no|the|a|an|one|part|located|situated|used|based|to|in|on|at|of|my|your|this|that|it|what|where|there"
    r"|correct|right|wrong|incorrect|true|false|sure|important|difficult|possible|known|considered|so|very|more)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"\w{3,}")
_SMALL = frozenset("what which who whose where when how the and for does did are was were called with from you".split())
_NO_ANSWER = frozenset(
    "yes no sure hello thanks thank sorry ok okay indeed please apologies i you he she it we they is am are".split()
)
MOST_WORDS = 5


def stated(reply: str, question: str) -> str | None:
    """The last thing that a reply says the answer is; None if it says nothing of the kind.

    Read are a reply of a few words alone ("Perth."), and "... is NAME" after "it", "the answer" or the words of the
    question; where the question has choices, their letters.
    """
    text = reply.strip()
    alone = text.strip(" .!\"'*")
    few = bool(alone) and len(alone.split()) <= 3 and not re.search(r"[.!?,:\n]", alone)
    if few and not (_NO_ANSWER & set(alone.casefold().split()) or _NO_NAME.match(alone)):
        return alone
    letters = _LETTER.findall(text) if _LETTER.search(question) else []
    if letters:
        return f"({letters[-1]})"
    asked = content(question)
    for sentence in reversed(_SENTENCE.split(text)):
        found = _of_sentence(sentence, asked)
        if found is not None:
            return found
    return None


def _of_sentence(sentence: str, asked: set[str]) -> str | None:
    for verb in _IS.finditer(sentence):
        subject = sentence[: verb.start()]
        if not (_SUBJECT.search(subject) or len(asked & content(subject)) >= min(2, len(asked))):
            continue
        rest = _ADVERBS.sub("", sentence[verb.end() :])
        quoted = _QUOTED.match(rest)
        name = quoted.group(1) if quoted else _END.split(rest, maxsplit=1)[0]
        name = re.sub(r"^[Tt]he (?=[A-Z\d])", "", name.strip(" .,;:!?\"'*“”"))
        vague = not quoted and (_NO_NAME.match(name) or (_IT.search(subject) and _PARTICIPLE.search(name)))
        if name and len(name.split()) <= MOST_WORDS and not vague:
            return name
    return None


def content(text: str) -> set[str]:
    """The words of a text that say what it is about."""
    return set(_WORDS.findall(text.casefold())) - _SMALL
