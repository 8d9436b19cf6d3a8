"""The output of one response under way: its items, and the events that tell a client of them, numbered from 0.

Events come in OpenAI's published order: created, in_progress; for each item added, its parts and deltas, done; then
completed, incomplete or failed. The response object that the last event carries holds the same items.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from runtime.api.asking import LEAST, token_entry
from runtime.api.gojson import dump
from runtime.events import CallDelta, Event, Finish, TextDelta, ThinkingDelta, TokenInfo
from runtime.loaded import LoadedModel

Item = dict[str, Any]


class Output:
    """`response`: the object as it is now. `model`, `top`: for log probabilities, set before the first event."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.response = head
        self.model: LoadedModel | None = None
        self.top = 0
        self._items: list[Item] = []  # done, as they are in the response
        self._open: Item | None = None
        self._text: list[str] = []  # of the open item
        self._logprobs: list[dict[str, Any]] = []
        self._thought: list[str] = []  # of all items, for the count of tokens
        self._number = 0

    # -- the stream

    def created(self) -> bytes:
        return self._response_event("created") + self._response_event("in_progress")

    def add(self, event: Event) -> bytes:
        if isinstance(event, CallDelta):
            return self._call(event)
        if isinstance(event, ThinkingDelta) and event.text:
            self._thought.append(event.text)
            head = self._begin("reasoning")
            self._text.append(event.text)
            return head + self._part_event("reasoning_summary_text.delta", delta=event.text)
        if isinstance(event, TextDelta) and (event.text or event.tokens):
            head = self._begin("message")
            self._text.append(event.text)
            logprobs = [self._entry(info) for info in event.tokens]
            self._logprobs += logprobs
            return head + self._part_event("output_text.delta", delta=event.text, logprobs=logprobs)
        return b""

    def finished(self, finish: Finish, notes: dict[str, Any]) -> bytes:
        """`notes`: what else the last object says."""
        cut = finish.reason == "length"
        status = "incomplete" if cut else "completed"
        tail = self._begin("message") if not self._items and not self._open else b""
        tail += self._close(status)
        usage = finish.usage
        self.response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._items,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": usage.generated_tokens,
                "output_tokens_details": {"reasoning_tokens": self._thinking_tokens(usage.generated_tokens)},
                "total_tokens": usage.prompt_tokens + usage.generated_tokens,
            },
            **notes,
        }
        return tail + self._response_event(status)

    def failed(self, text: str) -> bytes:
        self.response |= {
            "status": "failed",
            "error": {"code": "server_error", "message": text},
            "output": self._items,
        }
        return self._response_event("failed")

    # -- items

    def _begin(self, kind: str) -> bytes:
        """The item of this kind that is open, or a new one."""
        if self._open is not None and self._open["type"] == kind:
            return b""
        tail = self._close()
        if kind == "reasoning":
            self._open = {"id": _id("rs"), "type": "reasoning", "summary": []}
        else:
            self._open = {"id": _id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
            self._open["content"] = []
        head = tail + self._event("output_item.added", output_index=len(self._items), item=self._open)
        if kind == "reasoning":
            return head + self._part_event("reasoning_summary_part.added", part=_summary(""))
        return head + self._part_event("content_part.added", part=_output_text("", []))

    def _close(self, status: str = "completed") -> bytes:
        if self._open is None:
            return b""
        item, text, logprobs = self._open, "".join(self._text), self._logprobs
        if item["type"] == "reasoning":
            part = _summary(text)
            told = self._part_event("reasoning_summary_text.done", text=text)
            told += self._part_event("reasoning_summary_part.done", part=part)
            item = item | {"summary": [part]}
        else:
            part = _output_text(text, logprobs)
            told = self._part_event("output_text.done", text=text, logprobs=logprobs)
            told += self._part_event("content_part.done", part=part)
            item = item | {"status": status, "content": [part]}
        told += self._event("output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open, self._text, self._logprobs = None, [], []
        return told

    def _call(self, event: CallDelta) -> bytes:
        told, place = self._close(), len(self._items)
        arguments = json.dumps(dict(event.call.arguments), ensure_ascii=False, separators=(",", ":"))
        item: Item = {
            "id": _id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": event.call.id,
            "name": event.call.name,
            "arguments": "",
        }
        where = {"item_id": item["id"], "output_index": place}
        told += self._event("output_item.added", output_index=place, item=item)
        told += self._event("function_call_arguments.delta", **where, delta=arguments)
        told += self._event("function_call_arguments.done", **where, name=event.call.name, arguments=arguments)
        item = item | {"status": "completed", "arguments": arguments}
        self._items.append(item)
        return told + self._event("output_item.done", output_index=place, item=item)

    # -- events

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        """Of the only part that the open item has."""
        assert self._open is not None
        index = "summary_index" if self._open["type"] == "reasoning" else "content_index"
        where = {"item_id": self._open["id"], "output_index": len(self._items), index: 0}
        return self._event(kind, **where, **fields)

    def _response_event(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        name = f"response.{kind}"
        chunk = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + dump(chunk) + b"\n\n"

    def _entry(self, info: TokenInfo) -> dict[str, Any]:
        assert self.model is not None
        top = [token_entry(self.model, other.id, max(other.logprob, LEAST)) for other in info.top[: self.top]]
        return token_entry(self.model, info.id, info.logprob) | {"top_logprobs": top}

    def _thinking_tokens(self, most: int) -> int:
        """Counted from the text: nothing else says which of the tokens were thinking."""
        if not self._thought or self.model is None:
            return 0
        return min(len(self.model.tokenizer.encode("".join(self._thought), special=False, bos=False)), most)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _output_text(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
