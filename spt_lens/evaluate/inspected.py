"""A model in memory as inspect_ai sees one. Imports inspect_ai: import this where it is needed only.

TransformerLens's provider `tl_bridge` loads a checkpoint of its own by name; this one serves the model that is there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import anyio
from inspect_ai.model import ChatMessage, GenerateConfig, Model, ModelAPI, ModelOutput, get_model, modelapi

from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.chat.template import prompt_ids
from spt_lens.model.generation import finish
from spt_lens.model.limits import Limits
from spt_lens.model.replies import reply_ids_parts
from spt_lens.model.view import ModelView

AT_ONCE = 64  # samples that inspect_ai has under way, and so the replies that are made in one batch
WAIT = 0.02  # seconds until a batch of requests is taken as complete


@dataclass
class Asked:
    """One request, and what came of it."""

    prompt: list[int]
    length: int
    done: anyio.Event = field(default_factory=anyio.Event)
    ids: list[int] = field(default_factory=list)
    error: Exception | None = None


class Served(ModelAPI):  # type: ignore[misc]
    """Greedy replies of a model in memory. Requests that come together are answered in one batch."""

    def __init__(self, model_name: str, view: ModelView, max_new_tokens: int, **ignored: Any) -> None:
        super().__init__(model_name=model_name)
        self.view, self.length = view, max_new_tokens
        self._waiting: list[Asked] = []

    def max_connections(self) -> int:
        return AT_ONCE

    async def generate(
        self, input: list[ChatMessage], tools: Any, tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        if tools:
            raise NotImplementedError("this model is served without tools: use a task that needs none")
        if config.temperature:
            raise ValueError(f"replies are greedy here, and temperature={config.temperature}: set temperature=0")
        turns = [Message(message.role, message.text) for message in input]
        asked = Asked(prompt_ids(self.view.tokenizer, Dialogue(tuple(turns))), config.max_tokens or self.length)
        self._waiting.append(asked)
        if len(self._waiting) == 1:
            try:
                await anyio.sleep(WAIT)
            finally:  # also where this one is cancelled: the others still wait
                batch, self._waiting = self._waiting, []
                self._answer(batch)
        await asked.done.wait()
        if asked.error is not None:
            raise asked.error
        return self._output(asked, config)

    def _answer(self, batch: list[Asked]) -> None:
        alike: dict[int, list[Asked]] = defaultdict(list)
        for asked in batch:
            alike[asked.length].append(asked)
        for length, some in alike.items():
            try:
                prompts = [asked.prompt for asked in some]
                said = finish(reply_ids_parts(self.view, prompts, length, (), Limits(AT_ONCE)))
                for asked, ids in zip(some, said, strict=True):
                    asked.ids = ids
            except Exception as error:  # each of those who asked is told
                for asked in some:
                    asked.error = error
            finally:
                for asked in some:
                    asked.done.set()

    def _output(self, asked: Asked, config: GenerateConfig) -> ModelOutput:
        text = self.view.tokenizer.decode(asked.ids, skip_special_tokens=True).strip()
        ended = asked.ids[-1] in self.view.end_tokens
        for stop in config.stop_seqs or ():
            before, found, _ = text.partition(stop)
            text, ended = before, ended or bool(found)
        return ModelOutput.from_content(self.model_name, text, "stop" if ended else "max_tokens")


@modelapi(name="spt_lens")
def provider() -> type[ModelAPI]:
    return Served


def in_memory(view: ModelView, max_new_tokens: int) -> Model:
    name = view.name.replace("/", "-") or "model"
    return get_model(f"spt_lens/{name}", memoize=False, view=view, max_new_tokens=max_new_tokens)
