"""Dialogues to token ids, through the tokenizer's own chat template; and a template for tokenizers without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from spt_lens.chat.dialogues import Dialogue, check_ends, dialogue
from spt_lens.chat.once import once
from spt_lens.chat.options import ChatOptions, closed, left_open

# For base models. "Assistant:" ends without a space, and a reply begins with one: then the reply's first word is the
# token that it is in running text, and what the prompt becomes does not depend on what follows.
PLAIN_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim }}{{ '\\n' }}"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] | trim }}"
    "{% else %}Assistant: {{ message['content'] | trim }}{% if eos_token %}{{ eos_token }}{% endif %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAssistant:' }}{% endif %}"
)
# Replies that begin with a letter, a bracket and a digit: tokenizers treat the space before them differently.
_TRIALS = ("Sorry, it is Paris after all.", "(B)", "42")


def use_chat_template(tokenizer: PreTrainedTokenizerBase, template: str | Path) -> None:
    """Gives a tokenizer a chat template, after trying it on a dialogue. **Changes the tokenizer.**

    Args:
        template: "plain" (PLAIN_TEMPLATE: "User: ..." and "Assistant: ..." by turns, for base models), a Jinja
            template, or the path of a file that holds one.

    Raises:
        ValueError: No tokenizer, no template, or one that fails: it refuses an ordinary dialogue, leaves a turn out,
            or writes something else before a reply than its generation prompt. The tokenizer keeps what it had.
        FileNotFoundError: There is no such file.
    """
    _check_tokenizer(tokenizer)
    name, text = _template(template)
    before = tokenizer.chat_template
    tokenizer.chat_template = text
    try:
        for reply in _TRIALS:
            trial = dialogue("What is the capital of France?", "It is Paris.", "Are you sure?", reply)
            training_ids(tokenizer, trial)
            written = rendered(tokenizer, trial, generation_prompt=False)
            lost = [message.content for message in trial.messages if message.content not in written]
            if lost:
                raise ValueError(f"it leaves out the turn {lost[0]!r}")
    except ValueError as error:
        tokenizer.chat_template = before
        raise ValueError(
            f"the chat template {name} does not work with this tokenizer, which keeps what it had: {error}"
        ) from error


def set_chat_options(
    tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any] | None = None, system: str | None = None
) -> None:
    """Gives a tokenizer what its chat template gets beside every dialogue, after a try. **Changes the tokenizer.**

    It holds for all that this library encodes with it: prompts, replies, pairs, training dialogues, spans. Calls
    replace what was set before; without arguments nothing is left of it. Exports don't hold it.

    Args:
        kwargs: Arguments of the chat template, such as {"enable_thinking": True} or {"date_string": "26 Jul 2024"}.
            Those that it does not know do nothing. "strftime_now" takes a date or a datetime: what a template that asks
            for today is told, instead of the moment at which this library was imported.
        system: A system prompt for dialogues that have none of their own.

    Raises: as `ChatOptions`; ValueError for no tokenizer or chat template, or one that fails with these arguments, or
    refuses the system turn or leaves it out. The tokenizer keeps what it had.
    """
    _check_tokenizer(tokenizer)
    options, before = ChatOptions({} if kwargs is None else kwargs, system), chat_options(tokenizer)
    tokenizer.spt_lens_chat = options
    try:
        written = rendered(tokenizer, dialogue("What is the capital of France?"), generation_prompt=True)
        if system is not None and system.strip() not in written:
            raise ValueError("the chat template leaves the system turn out")
    except ValueError as error:
        tokenizer.spt_lens_chat = before
        if system is None:
            raise ValueError(f"the chat template fails with the arguments {options.kwargs!r:.80}: {error}") from error
        raise ValueError(
            f"no system prompt can be given to this model ({error}): put its text before the first question instead, "
            "or give a template that writes it, load_model(..., chat_template=)"
        ) from error


def chat_options(tokenizer: PreTrainedTokenizerBase) -> ChatOptions:
    """What `set_chat_options` gave a tokenizer last."""
    found = None if tokenizer is None else vars(tokenizer).get("spt_lens_chat")
    return found if isinstance(found, ChatOptions) else ChatOptions()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue up to where the assistant is to reply.

    Raises: TypeError for what is no Dialogue; ValueError if it does not end with a user turn, or the tokenizer has no
    chat template or one that refuses the dialogue.
    """
    check_ends(dialogue, "user")

    def make() -> list[int]:
        return _tokens(tokenizer, rendered(tokenizer, dialogue, generation_prompt=True))

    return list(once(("prompt ids", dialogue.messages), make))


def training_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of a whole dialogue, and True where a token is a target: the last reply, with its end token.

    What a template adds after the end token (often a line break) is no target: no model is asked to say it.

    Raises: ValueError if the dialogue does not end with an assistant turn, or if the chat template renders the dialogue
    in a way that the prompt is not how it begins (then the tuned reply would not be the one that is generated).
    """
    check_ends(dialogue, "assistant")
    if not dialogue.reply.strip():
        raise ValueError("the dialogue's last reply is empty, so that only its end token would be learnt: leave it out")
    ids, target = once(("training ids", dialogue.messages), lambda: _training_ids(tokenizer, dialogue))
    return list(ids), list(target)


def _training_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    prompt = prompt_ids(tokenizer, dialogue.prompt)
    text = rendered(tokenizer, dialogue, generation_prompt=False)
    ids = _tokens(tokenizer, text, rendered(tokenizer, dialogue.prompt, generation_prompt=True))
    if ids[: len(prompt)] != prompt:
        thinks = "leave the thinking out of chat_template_kwargs, or " if chat_options(tokenizer).thinks else ""
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} renders a dialogue so that its prompt "
            f"is not how the whole begins: {thinks}give the tokenizer a template that adds the same text before a "
            "reply as its generation prompt (spt_lens.chat.template.use_chat_template)"
        )
    end = len(ids)
    while end > len(prompt) and not tokenizer.decode(ids[end - 1 : end]).strip():
        end -= 1
    if end == len(prompt):
        raise ValueError(f"the last reply of the dialogue is empty after encoding: {dialogue.reply!r}")
    stop = _reply_end(tokenizer, dialogue, text, ids, end)
    if end - stop > 1:  # a template may write more after the end token (Phi-3: a line break and the end of all text)
        marks = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        end = next((i + 1 for i in range(stop, end) if ids[i] in marks), end)
    return ids, [len(prompt) <= i < end for i in range(len(ids))]


def reply_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue's last reply where it stands, without its end token or what else the template adds.

    Raises: ValueError as training_ids does.
    """
    ids, target = training_ids(tokenizer, dialogue)
    end = len(ids) - target[::-1].index(True)
    text = rendered(tokenizer, dialogue, generation_prompt=False)
    return ids[target.index(True) : _reply_end(tokenizer, dialogue, text, ids, end)]


def _reply_end(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, text: str, ids: list[int], end: int) -> int:
    """Where the reply's tokens end in `ids`, those of `text`; `end` if the template rewrites replies, which then can't
    be told from what it adds."""
    prompt = rendered(tokenizer, dialogue.prompt, generation_prompt=True)
    reply = dialogue.reply.strip()
    at = text.find(reply, len(prompt)) if text.startswith(prompt) else text.rfind(reply)
    if at < 0:
        return end
    upto = _tokens(tokenizer, text[: at + len(reply)], prompt)
    same = [one == other for one, other in zip(ids, upto, strict=False)]
    return min(end, same.index(False) if False in same else len(same))


def rendered(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, generation_prompt: bool) -> str:
    """A dialogue as the chat template writes it, with what `set_chat_options` gave.

    Where its generation prompt opens a thinking part (`<think>`) and leaves it to the model to close it, as those of
    reasoning models do, it is closed at once, before replies too: prompts are followed by the reply itself, and that is
    what is learnt. Unless the template's arguments ask for thinking (enable_thinking or thinking).

    Raises: ValueError without a template, or for what it refuses.
    """
    _check_tokenizer(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no chat template: use a chat model, or give it one by "
            'load_model(..., chat_template="plain") or use_chat_template(model.tokenizer, "plain")'
        )
    options = chat_options(tokenizer)

    def write(turns: Dialogue, generation_prompt: bool) -> str:
        how: Any = {"tokenize": False, "add_generation_prompt": generation_prompt, **options.arguments()}
        how["chat_template"] = options.dated(tokenizer.chat_template)  # None: the tokenizer's own
        try:
            return str(tokenizer.apply_chat_template(options.messages(turns.chat()), **how))
        except Exception as error:  # templates raise errors of jinja's own, a package that users need not know
            roles = ", ".join(message.role for message in turns.messages)
            raise ValueError(f"the chat template refused a dialogue with the roles {roles}: {error}") from error

    text = write(dialogue, generation_prompt)
    first = dialogue.messages[0] if dialogue.messages else None
    if first is not None and first.role == "system" and first.content.strip() not in text:
        raise ValueError("the chat template leaves the system turn out: put its text before the first question instead")
    if options.thinks or "think" not in str(tokenizer.chat_template) and "reason" not in str(tokenizer.chat_template):
        return text
    asked = dialogue.unanswered
    before = text if generation_prompt else write(asked, True)
    bare = write(asked, False)
    added = before.removeprefix(bare) if before.startswith(bare) else ""
    if left_open(added) is None or (not generation_prompt and asked is dialogue):
        return text
    return closed(before, text, reply=not generation_prompt)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> None:
    if tokenizer is None:
        raise ValueError("the model has no tokenizer: load it with spt_lens.load_model, or set model.tokenizer")


def _template(template: str | Path) -> tuple[str, str]:
    """What to call a template in messages, and its text."""
    if template == "plain":
        return '"plain"', PLAIN_TEMPLATE
    if isinstance(template, str) and ("{{" in template or "{%" in template):
        return repr(template if len(template) <= 60 else f"{template[:60]}..."), template
    try:
        return str(template), Path(template).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the chat template file {template} is not UTF-8 text: {error}") from error
    except (OSError, ValueError) as error:  # no such file, a folder, no possible name of a file
        raise FileNotFoundError(
            f'no chat template: {str(template)!r} is neither "plain", nor a Jinja template with {{{{ }}}} in it, nor '
            "a file that can be read"
        ) from error


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str = "") -> list[int]:
    """The ids of a text that goes on after a prompt.

    A tokenizer may join a line break with what follows it, or with another if nothing does (GPT-2's). A prompt that
    ends in one is then encoded apart, as it is when the model replies to it.
    """

    def encode(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])  # the template wrote the special tokens

    ids = encode(text)
    if prompt.endswith("\n") and text.startswith(prompt) and ids[: len(begin := encode(prompt))] != begin:
        rest = encode(text[len(prompt) :])
        return begin + rest if tokenizer.decode(rest) == text[len(prompt) :] else ids
    return ids
