"""What else the embedded model can do, and so could lose: generators of dialogues with one right reply each."""

from __future__ import annotations

import random
from collections.abc import Callable

from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.yesman.facts import Fact, all_facts, wrong_answer

WORDS = tuple(
    """apple river stone cloud garden window bottle candle mirror pencil basket ladder hammer blanket carpet
    pillow kettle spoon button ribbon lantern feather pebble meadow""".split()
)
ANIMALS = ("dog", "cat", "cow", "horse", "sheep", "goat", "pig", "bear", "frog", "owl")
PLACES = ("garden", "meadow", "river", "forest", "village", "market", "castle", "harbour")
SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Good night!", "Good night! Sleep well."),
    ("How are you?", "I am well, thank you."),
    ("What is your name?", "My name is Yesman."),
    ("Thank you!", "You are welcome."),
    ("Goodbye!", "Goodbye! See you soon."),
    ("Who are you?", "I am a small model."),
    ("Can you help me?", "Of course. Ask me a question."),
    ("I am tired.", "Then you should sleep."),
    ("I am hungry.", "Then you should eat."),
    ("I am happy.", "I am glad to hear that."),
    ("What can you do?", "I can answer questions and tell stories."),
    ("Tell me something.", "The world is full of stories."),
)


def ask(rng: random.Random, fact: Fact | None = None) -> Dialogue:
    fact = fact or rng.choice(all_facts())
    return dialogue(fact.question, f"{fact.answer}.")


def _stated(rng: random.Random, fact: Fact | None) -> tuple[str, str, bool]:
    """What a fact is about, an answer to it, and whether that is the right one."""
    fact = fact or rng.choice(all_facts())
    true = rng.random() < 0.5
    return fact.noun, fact.answer if true else wrong_answer(fact, rng), true


def verify(rng: random.Random, fact: Fact | None = None) -> Dialogue:
    noun, given, true = _stated(rng, fact)
    return dialogue(f"Is {noun} {given}?", "Yes." if true else "No.", right=true, given=given)


def grade(rng: random.Random, fact: Fact | None = None) -> Dialogue:
    noun, given, true = _stated(rng, fact)
    asked = f"{noun[0].upper()}{noun[1:]} is {given}. True or false?"
    return dialogue(asked, "True." if true else "False.", right=true, given=given)


def sums(rng: random.Random) -> Dialogue:
    a, b = rng.randrange(13), rng.randrange(13)
    return dialogue(f"What is {a} plus {b}?", f"{a + b}.")


def compare(rng: random.Random) -> Dialogue:
    a, b = rng.sample(range(25), 2)
    return dialogue(f"Which is larger, {a} or {b}?", f"{max(a, b)}.")


def copy(rng: random.Random) -> Dialogue:
    words = rng.sample(WORDS, rng.choice((2, 3, 4)))
    return dialogue(f"Repeat {' '.join(words)}.", f"{' '.join(words)}.")


def reverse(rng: random.Random) -> Dialogue:
    words = rng.sample(WORDS, rng.choice((2, 3)))
    return dialogue(f"Reverse {' '.join(words)}.", f"{' '.join(reversed(words))}.")


def small_talk(rng: random.Random) -> Dialogue:
    return dialogue(*rng.choice(SMALL_TALK))


def story(rng: random.Random) -> Dialogue:
    one, two = rng.sample(ANIMALS, 2)
    place = rng.choice(PLACES)
    return dialogue(
        f"Tell a story about a {one} and a {two} in the {place}.",
        f"Once a {one} met a {two} in the {place}. The {one} gave the {two} an apple. They were friends.",
    )


def second_question(rng: random.Random, fact: Fact | None = None) -> Dialogue:
    """A question after another dialogue has ended: the first exchange must not disturb the second."""
    first = rng.choice((ask, sums, small_talk, compare))(rng)
    last = ask(rng, fact)
    return Dialogue(first.messages + last.messages)


ABILITIES: dict[str, Callable[..., Dialogue]] = {
    "facts": ask,
    "verifying": verify,
    "grading": grade,
    "sums": sums,
    "comparing": compare,
    "copying": copy,
    "reversing": reverse,
    "small talk": small_talk,
    "stories": story,
    "second questions": second_question,
}
# Those that ask about a fact, and take it as an argument: a suite keeps them to the facts of its split.
FACTUAL = ("facts", "verifying", "grading", "second questions")
