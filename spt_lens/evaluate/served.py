"""A model in memory as EleutherAI's lm-eval sees one. Imports lm-eval: import this where it is needed only."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.template import chat_options, rendered
from spt_lens.model.generation import finish
from spt_lens.model.likelihood import log_likelihoods
from spt_lens.model.limits import Limits
from spt_lens.model.replies import reply_ids_parts
from spt_lens.model.view import ModelView

LONGEST = 2048  # tokens of a prompt, where the model does not say how many it has positions for


class Served(TemplateLM):  # type: ignore[misc]
    """Scores and continues texts with the model as it is, hooks included; greedily, since nothing here samples.

    Texts become tokens as in lm-eval's own class for Hugging Face models, so that both give the same numbers.
    """

    def __init__(self, view: ModelView, batch_size: int) -> None:
        super().__init__()
        self.view, self.tokenizer, self.batch_size = view, view.tokenizer, batch_size
        self.max_length = min(getattr(view.model.cfg, "n_ctx", LONGEST) or LONGEST, LONGEST)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """With the system prompt and the template's arguments that `set_chat_options` gave."""
        if add_generation_prompt:
            turns = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)  # type: ignore[arg-type]
            return rendered(self.tokenizer, Dialogue(turns), generation_prompt=True)
        options = chat_options(self.tokenizer)
        how: Any = {"tokenize": False, "continue_final_message": True, **options.arguments()}
        return str(self.tokenizer.apply_chat_template(options.messages(chat_history), **how))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        asked: dict[tuple[int, ...], list[int]] = defaultdict(list)  # what is asked of one prompt goes together
        cut = []
        for i, (_, context, continuation) in enumerate(requests):
            whole = [*context, *continuation][-(self.max_length + 1) :]
            cut.append(whole[len(whole) - len(continuation) :])
            asked[tuple(whole[: len(whole) - len(continuation)])].append(i)
        found = log_likelihoods(
            self.view, list(asked), [[cut[i] for i in of] for of in asked.values()], self.batch_size
        )
        by_number = {
            i: one for of, each in zip(asked.values(), found, strict=True) for i, one in zip(of, each, strict=True)
        }
        return [(by_number[i].log_prob, by_number[i].greedy) for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        sums = []
        for request in requests:
            tokens, size = self.tok_encode(request.args[0]), self.max_length
            windows = utils.get_rolling_token_windows(tokens, self.prefix_token_id, max_seq_len=size, context_len=1)
            parts = [(None, *utils.make_disjoint_window(window)) for window in windows]
            sums.append(sum(log_prob for log_prob, _ in self._loglikelihood_tokens(parts)))
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        said: dict[int, str] = {}
        alike: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            alike[repr(request.args[1])].append(i)
        for numbers in alike.values():
            options = normalize_gen_kwargs(requests[numbers[0]].args[1], 256)
            if options.get("do_sample"):
                raise ValueError("this task samples its replies, and here they are greedy: set do_sample: false in it")
            stops = handle_stop_sequences(options.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
            length = options["max_gen_toks"]
            prompts = [self.tok_encode(requests[i].args[0])[-max(1, self.max_length - length) :] for i in numbers]
            parts = reply_ids_parts(self.view, prompts, length, (), Limits(self.batch_size))
            for i, ids in zip(numbers, finish(parts), strict=True):
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                said[i] = postprocess_generated_text(text, stops, None)
        return [said[i] for i in range(len(requests))]
