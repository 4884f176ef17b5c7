"""Which tokens are whose: with templates and tokenizers of well-known models, and turns that are easily mistaken."""

from __future__ import annotations

import pytest
from chats import CHATML, GEMMA, LLAMA3, TEMPLATES, TOKENIZERS, make
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.spans import span_names, spans
from spt_lens.chat.template import PLAIN_TEMPLATE, prompt_ids

TALK = dialogue("What is the capital of France?", "Paris.", "I don't think that's right. Are you sure?")
ALL = {name: template for name, (template, _, _) in TEMPLATES.items()} | {"plain": PLAIN_TEMPLATE}


def texts(tokenizer, talk: Dialogue) -> dict[str, str]:
    """What the tokens of each span say, after checking that every position is in exactly one."""
    ids = prompt_ids(tokenizer, talk)
    found = spans(tokenizer, talk)
    assert sorted(position for positions in found.values() for position in positions) == list(range(len(ids)))
    assert all(positions == sorted(positions) for positions in found.values())
    return {name: tokenizer.decode([ids[i] for i in positions]).strip() for name, positions in found.items()}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_spans_say_what_the_turns_say(kind, name):
    tokenizer = make(kind, ALL[name])
    found = texts(tokenizer, TALK)
    assert list(found) == ["question", "first answer", "challenge", "template"]
    assert [found[name] for name in list(found)[:3]] == [message.content for message in TALK.messages]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "words"])
@pytest.mark.parametrize(
    "turns",
    [
        ("Yes?", "Yes?", "Yes?"),  # all the same
        ("user", "assistant", "user"),  # as the role marks
        ("A", "s", "I"),  # letters of the role marks and of [INST]
        ("[INST]", "s>", "/"),
        ("é 日本 “Oui”", "«да»", "日"),  # characters of several tokens
        ("Two\n\nparts.", "  1\n 2  ", "\n3\n"),  # white space inside, and around
        ("contentofturn1z", "contentofturn0z", "contentofturn2z"),  # what contents are told apart by
    ],
)
def test_turns_that_are_easily_mistaken(kind, name, turns):
    tokenizer = make(kind, ALL[name])
    # A template that does not trim leaves space around a turn, which is the template's here.
    found = texts(tokenizer, dialogue(*turns))
    assert [found[name] for name in ("question", "first answer", "challenge")] == [turn.strip() for turn in turns]
    positions = spans(tokenizer, dialogue(*turns))
    assert max(positions["question"]) < min(positions["first answer"]) < min(positions["challenge"])


@pytest.mark.parametrize("name", [name for name, (_, _, system) in TEMPLATES.items() if system])
def test_system_messages_have_a_span(name):
    talk = Dialogue((Message("system", "Be brief."), *TALK.messages))
    found = texts(make("gpt2", ALL[name]), talk)
    assert list(found) == ["system", "question", "first answer", "challenge", "template"]
    assert found["system"] == "Be brief." and found["question"] == "What is the capital of France?"


def test_a_system_message_that_the_template_puts_elsewhere():
    # As Mistral's later templates do: before the last user turn.
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns = m['content'] %}"
        "{% elif m['role'] == 'user' %}[INST] {% if loop.last and messages[0]['role'] == 'system' %}"
        "{{ messages[0]['content'] + '\\n\\n' }}{% endif %}{{ m['content'] }}[/INST]{% else %} {{ m['content'] }}</s>"
        "{% endif %}{% endfor %}"
    )
    tokenizer = make("gpt4", template)
    talk = Dialogue((Message("system", "Be brief."), *TALK.messages))
    found, positions = texts(tokenizer, talk), spans(tokenizer, talk)
    assert list(found)[0] == "system" and found["system"] == "Be brief."
    assert max(positions["first answer"]) < min(positions["system"]) < min(positions["challenge"])


def test_names():
    assert span_names(dialogue("a")) == ["question"]
    assert span_names(dialogue("a", "b", "c")) == ["question", "first answer", "challenge"]
    long = ["question", "first answer", "user 2", "assistant 2", "user 3", "assistant 3", "challenge"]
    assert span_names(dialogue(*"abcdefg")) == long
    tokenizer = make("gpt2", LLAMA3)
    assert list(spans(tokenizer, dialogue(*"abcdefg"))) == [*long, "template"]
    assert texts(tokenizer, dialogue("Who?"))["question"] == "Who?"
    assert span_names(Dialogue((Message("system", "a"), Message("system", "b"), Message("user", "c")))) == [
        "system",
        "system 2",
        "question",
    ]


def test_tokens_that_cover_more_than_the_content_belong_to_it():
    # Words between spaces are tokens, whatever marks stick to them.
    raw = Tokenizer(models.WordLevel({"?": 0, "[": 1}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}] {% endfor %}( [ )"
    #                          0     1     2        3
    assert tokenizer.tokenize("[Who is it?] [Me.] [Sure?] ( [ )") == ["?"] * 6 + ["[", "?"]
    assert spans(tokenizer, dialogue("Who is it?", "Me.", "Sure?")) == {
        "question": [0, 1, 2],
        "first answer": [3],
        "challenge": [4],
        "template": [5, 6, 7],
    }


def test_white_space_inside_is_the_contents_and_outside_the_templates():
    tokenizer = make("gpt4", CHATML)
    talk = dialogue("Is it so?\n\n\nYes?", "  \n", "\n\n42\n\n")
    ids, found = prompt_ids(tokenizer, talk), spans(tokenizer, talk)
    assert tokenizer.decode([ids[i] for i in found["question"]]) == "Is it so?\n\n\nYes?"
    assert found["question"] == list(range(found["question"][0], found["question"][-1] + 1))
    assert found["first answer"] == []  # a turn of nothing but white space has no token
    # "\n" of the template and "\n\n" of the content share a token, of white space alone.
    assert tokenizer.decode([ids[i] for i in found["challenge"]]).strip() == "42"
    assert not tokenizer.decode([ids[found["challenge"][0] - 1]]).strip()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("message['content']", "message['content'] | upper"), r"leaves out or rewrites turn 1 \(user"),
        (
            CHATML.replace("message['content']", "message['content'] | replace('Paris', 'Lyon')"),
            r"rewrites turn 2 .*Lyo",
        ),
        (CHATML.replace("message['content']", "message['content'][:20]"), "rewrites turn 1"),
        (CHATML.replace("in messages %}{{ '<", "in messages[1:] %}{{ '<"), r"leaves out or rewrites turn 1"),
        (CHATML.replace("+ '<|im_end|>'", "+ message['content'] + '<|im_end|>'"), "writes 2 times turn 1"),
        ("{% if 'France' in messages[0]['content'] %}Oh!{% endif %}" + LLAMA3, "begins in another way"),
    ],
)
def test_templates_that_hide_a_turn_are_refused(template, message):
    tokenizer = make("gpt2", template)
    with pytest.raises(ValueError, match=message):
        spans(tokenizer, TALK)


def test_other_errors(monkeypatch):
    tokenizer = make("gpt2", GEMMA)
    with pytest.raises(ValueError, match="must end with a user turn"):
        spans(tokenizer, dialogue("Who?", "Me."))
    with pytest.raises(ValueError, match="refused a dialogue with the roles system, user"):
        spans(tokenizer, Dialogue((Message("system", "a"), Message("user", "b"))))
    with pytest.raises(ValueError, match="no tokenizer"):
        spans(None, TALK)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="fast tokenizer"):
        spans(tokenizer, TALK)
