"""Chat templates: where the reply begins and ends, with the templates and tokenizers of well-known models."""

from __future__ import annotations

import json

import pytest
from chats import CHATML, GEMMA, MISTRAL, QWEN3, TEMPLATES, TOKENIZERS, make
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from spt_lens.chat.batches import by_length, padded
from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.template import PLAIN_TEMPLATE, prompt_ids, reply_ids, training_ids, use_chat_template
from tools.yesman.build import make_tokenizer

TALK = dialogue("What is the capital of France?", "Paris.", "Are you sure?", "Yes, I am sure. The answer is Paris.")


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def test_prompt_is_as_the_template_writes_it(tokenizer):
    expected = tokenizer.apply_chat_template(TALK.prompt.chat(), add_generation_prompt=True, return_dict=False)
    assert prompt_ids(tokenizer, TALK.prompt) == expected
    assert prompt_ids(tokenizer, TALK.prompt)[-1] == tokenizer.convert_tokens_to_ids("<assistant>")


def test_targets_are_the_last_reply_and_its_end(tokenizer):
    ids, target = training_ids(tokenizer, TALK)
    prompt = prompt_ids(tokenizer, TALK.prompt)
    assert ids[: len(prompt)] == prompt
    assert target == [False] * len(prompt) + [True] * (len(ids) - len(prompt))
    assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True) == TALK.reply
    assert ids[-1] == tokenizer.eos_token_id


def test_what_follows_the_end_token_is_no_target(tokenizer):
    # A template as Qwen's: "<end>" and then a line break, which here is a token of its own.
    tokenizer.add_tokens(["\n"])
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "{{ eos_token }}\n")
    ids, target = training_ids(tokenizer, TALK)
    assert tokenizer.decode(ids[-1:]) == "\n" and ids[-2] == tokenizer.eos_token_id
    assert target[-2:] == [True, False]


def test_template_that_breaks_the_prefix_is_refused(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% if add_generation_prompt %}<assistant>", "{% if add_generation_prompt %}<user>"
    )
    with pytest.raises(ValueError, match="not how the whole begins"):
        training_ids(tokenizer, TALK)


def test_clear_errors(tokenizer):
    with pytest.raises(ValueError, match="must end with a user turn"):
        prompt_ids(tokenizer, TALK)
    with pytest.raises(ValueError, match="ends with nothing"):
        prompt_ids(tokenizer, Dialogue(()))
    with pytest.raises(ValueError, match="must end with an assistant turn"):
        training_ids(tokenizer, TALK.prompt)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(ValueError, match="refused.*no system turns"):
        prompt_ids(tokenizer, TALK.prompt)
    tokenizer.chat_template = None
    with pytest.raises(
        ValueError, match=r'no chat template.*load_model\(..., chat_template="plain"\).*use_chat_template'
    ):
        prompt_ids(tokenizer, TALK.prompt)
    with pytest.raises(ValueError, match="no tokenizer"):
        prompt_ids(None, TALK.prompt)


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_templates_of_well_known_models(kind, name):
    template, end, _ = TEMPLATES.get(name, (PLAIN_TEMPLATE, "<end>", True))
    tokenizer = make(kind, template)
    expected = tokenizer.apply_chat_template(
        TALK.prompt.chat(), add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    prompt = prompt_ids(tokenizer, TALK.prompt)
    assert prompt == expected
    ids, target = training_ids(tokenizer, TALK)
    assert ids[: len(prompt)] == prompt and not any(target[: len(prompt)])
    learnt = [token for token, is_target in zip(ids, target, strict=True) if is_target]
    assert tokenizer.decode(learnt[-1:]) == end
    assert tokenizer.decode(learnt[:-1]).strip() == TALK.reply
    assert tokenizer.decode(reply_ids(tokenizer, TALK)).strip() == TALK.reply
    assert reply_ids(tokenizer, TALK) == learnt[: len(reply_ids(tokenizer, TALK))]


@pytest.mark.parametrize("name", TEMPLATES)
def test_system_messages_are_taken_or_refused(name):
    template, _, takes_system = TEMPLATES[name]
    tokenizer = make("gpt2", template)
    talk = Dialogue((Message("system", "Be brief."), *TALK.messages))
    if takes_system:
        ids, target = training_ids(tokenizer, talk)
        assert "Be brief." in tokenizer.decode(ids[: target.index(True)])
    else:
        with pytest.raises(ValueError, match="refused a dialogue with the roles system, user"):
            training_ids(tokenizer, talk)


def test_no_thinking_is_learnt_or_asked_for():
    tokenizer = make("gpt2", QWEN3)
    assert tokenizer.decode(prompt_ids(tokenizer, TALK.prompt)).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(reply_ids(tokenizer, TALK)) == TALK.reply


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "words"])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("reply", ["Yes.", "(B)", "42", "\n 42 ", "“Oui”", "«да»", "...", "A: b"])
def test_plain_template_keeps_the_prompt_a_prefix(kind, ends, reply):
    tokenizer = make(kind, PLAIN_TEMPLATE, eos=ends, bos=ends)
    talk = dialogue("What is it? ", "Paris.", "Are you sure?\n", reply)
    ids, target = training_ids(tokenizer, talk)
    text = tokenizer.decode(ids).replace("<end> ", "<end>")  # SentencePiece begins a piece with a space after a mark
    end = "<end>" if ends else ""
    assert text.removeprefix("<s>").removesuffix("<end>").strip() == (
        f"User: What is it?\nAssistant: Paris.{end}\nUser: Are you sure?\nAssistant: {reply.strip()}"
    )
    assert text.endswith("<end>") == ends and text.startswith("<s>") == ends
    assert tokenizer.decode(prompt_ids(tokenizer, talk.prompt)).endswith("\nAssistant:")
    assert tokenizer.decode(reply_ids(tokenizer, talk)).strip() == reply.strip()


def test_plain_template_with_a_system_message():
    tokenizer = make("gpt2", PLAIN_TEMPLATE)
    talk = Dialogue((Message("system", "Be brief."), Message("user", "Who?")))
    assert tokenizer.decode(prompt_ids(tokenizer, talk)) == "<s>Be brief.\n\nUser: Who?\nAssistant:"


def test_reply_ids_leave_out_what_the_template_adds():
    tokenizer = make("gpt2", CHATML)
    assert tokenizer.decode(reply_ids(tokenizer, dialogue("Who?", "end"))) == "end"
    tokenizer.chat_template = CHATML.replace("<|im_end|>", " That is all.")  # an end that is ordinary text
    assert tokenizer.decode(reply_ids(tokenizer, dialogue("Is it all?", "all"))) == "all"
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | upper")
    shouted = tokenizer.decode(reply_ids(tokenizer, dialogue("Who?", "me")))
    assert shouted == "ME<|im_end|>"  # a reply that is rewritten can't be told from what follows it


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_use_chat_template(kind, tmp_path):
    tokenizer = make(kind)
    use_chat_template(tokenizer, "plain")
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    use_chat_template(tokenizer, GEMMA)
    assert tokenizer.chat_template == GEMMA
    file = tmp_path / "mine.jinja"
    file.write_text(MISTRAL, encoding="utf-8")
    for path in (file, str(file)):
        tokenizer.chat_template = None
        use_chat_template(tokenizer, path)
        assert tokenizer.chat_template == MISTRAL


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for message in messages %}", "refused a dialogue"),  # no end of the loop
        ("{{ raise_exception('never') }}", "never"),
        ("{{ 'Hello.' }}", "empty"),
        (CHATML.replace("assistant\\n' }}", "assistant\\nHm: ' }}"), "not how the whole begins"),
        (PLAIN_TEMPLATE.replace("Assistant:' }}", "Assistant: ' }}"), "not how the whole begins"),
        (PLAIN_TEMPLATE.replace("User: {{ message['content'] | trim }}", "User: Hm."), "leaves out the turn 'What is"),
    ],
)
def test_a_failing_template_changes_nothing(template, message):
    tokenizer = make("gpt4", CHATML)
    with pytest.raises(ValueError, match=f"does not work with this tokenizer(.|\n)*{message}"):
        use_chat_template(tokenizer, template)
    assert tokenizer.chat_template == CHATML


def test_template_that_is_not_there(tmp_path):
    tokenizer = make("gpt2", CHATML)
    for template in ("chatml", tmp_path / "none.jinja", tmp_path, "", "x" * 5000):
        with pytest.raises(FileNotFoundError, match='neither "plain", nor a Jinja template'):
            use_chat_template(tokenizer, template)
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(ValueError, match="binary.jinja is not UTF-8"):
        use_chat_template(tokenizer, tmp_path / "binary.jinja")
    with pytest.raises(ValueError, match="no tokenizer"):
        use_chat_template(None, "plain")
    assert tokenizer.chat_template == CHATML


def test_padding_is_on_the_right():
    ids, mask = padded([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    with pytest.raises(ValueError, match="rows is empty"):
        padded([], pad=0)


def test_by_length_takes_every_row_once():
    rows = [[1], [1, 2], [3], [4], [5, 6]]
    assert sorted(by_length(rows, 2)) == [[0, 2], [1, 4], [3]]
    with pytest.raises(ValueError, match="size=0: give a whole number"):
        list(by_length(rows, 0))


def test_a_prompt_that_ends_in_line_breaks_is_encoded_apart():
    tokenizer = make("gpt2")
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    raw["model"]["merges"].append(["Ċ", "Ċ"])  # as GPT-2's own: two breaks are one token, but where a word follows
    vocabulary = raw["model"]["vocab"]
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["id"] < len(vocabulary)]
    vocabulary["ĊĊ"] = len(vocabulary)
    template = "{% for m in messages %}{{ '### ' + m['role'] + ':\n\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '### assistant:\n\n' }}{% endif %}"
    joined = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(raw)))
    joined.add_tokens(["<|im_end|>"], special_tokens=True)
    joined.chat_template = template
    prompt = prompt_ids(joined, TALK.prompt)
    assert joined.convert_ids_to_tokens(prompt[-1]) == "ĊĊ"
    ids, target = training_ids(joined, TALK)
    assert ids[: len(prompt)] == prompt and target.index(True) == len(prompt)
    assert joined.decode(ids[len(prompt) :]) == TALK.reply + "<|im_end|>" and target[-1]
    assert joined.decode(reply_ids(joined, TALK)) == TALK.reply
